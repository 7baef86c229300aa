"""Importance of filters (Eq. 9), and the orders and masks that follow from it.

Flat NumPy arrays hold the filters of all gates one after another, in gate order. F is the sum of
the gate sizes.
"""

import numpy as np


def split(flat, sizes):
    """The parts of a flat array [F]: a list of arrays [C], one per gate."""
    return np.split(flat, np.cumsum(sizes)[:-1])


def importance(signed):
    """The importance of every filter, float32 [F] (Eq. 9).

    signed: the inner sums of Eq. 9 (op_utils.scoring_step): a list over batches of lists over gates
    of lists over uses of float32 [C].
    """
    # Eq. 9: sum over batches and uses of | sum over B, H, W of dy * y |
    sums = [
        np.sum([np.abs(use) for uses in batches for use in uses], 0) for batches in zip(*signed)
    ]
    return np.concatenate(sums).astype(np.float32)


def ranks(scores, sizes):
    """`order` of METHOD 2, int32 [F]: rank of each filter in its gate, 0 = highest score.

    Filters with equal scores are ranked by index.
    """
    ranked = lambda gate: np.argsort(np.argsort(-gate, kind="stable"), kind="stable")
    order = [ranked(gate) for gate in split(scores, sizes)]
    return np.concatenate(order).astype(np.int32)


def first_filters(sizes, filters):
    """float32 [F]: masks that keep the first filters[i] filters of gate i. sizes: int [G]."""
    return masks(sizes, filters, np.concatenate([np.arange(size) for size in sizes]))


def masks(sizes, filters, order):
    """float32 [F]: 1 for the filters kept, else 0. METHOD 1a: mask_c = order_c < filters kept.

    sizes, filters: int [G], filters of each gate and how many of them are kept; order: int32 [F].
    """
    return (order < np.repeat(filters, sizes)).astype(np.float32)
