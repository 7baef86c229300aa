"""Importance of filters (Eq. 9), and the orders, filter counts and masks that follow from it.

Flat NumPy arrays hold the filters of all gates one after another, in gate order. F is the sum of
the gate sizes.
"""

import math

import numpy as np

SLACK = 0.02  # METHOD 1a: absorbs the rounding of rates to five decimals


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


def filters_kept(sizes, rates):
    """Filters kept per gate, int64 [G]."""
    # METHOD 1a: filters kept = max(1, ceil(C * rate - 0.02))
    return np.array([max(1, math.ceil(size * rate - SLACK)) for size, rate in zip(sizes, rates)])


def masks(sizes, rates, order):
    """float32 [F]: 1 for the filters kept, else 0. METHOD 1a: mask_c = order_c < filters kept."""
    return (order < np.repeat(filters_kept(sizes, rates), sizes)).astype(np.float32)
