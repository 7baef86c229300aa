"""Importance of filters (Eq. 9) and what follows from it: orders, filters kept, masks. NumPy, flat
over all gates.

Flat arrays put the filters of all gates behind one another in gate order: F = sum of gate sizes.
"""

import math

import numpy as np

SLACK = 0.02  # absorbs the rounding of rates to five decimals


def split(flat, sizes):
    """The list of arrays [C], one a gate, of a flat array [F]."""
    return np.split(flat, np.cumsum(sizes)[:-1])


def importance(signed):
    """float32 [F]: for every filter the sum, over batches and over every use of its gate, of |sum
    over B, H, W of dy * y|.

    signed: a list of batches, each for every gate a list of float32 [C], one a use (see
    op_utils.scoring_step).
    """
    scores = [
        np.sum([np.abs(use) for batch in gates for use in batch], 0) for gates in zip(*signed)
    ]
    return np.concatenate(scores).astype(np.float32)


def ranks(scores, sizes):
    """int32 [F]: rank of each filter within its gate, 0 = highest score, equal scores by lower
    index.
    """
    order = [
        np.argsort(np.argsort(-gate, kind="stable"), kind="stable") for gate in split(scores, sizes)
    ]
    return np.concatenate(order).astype(np.int32)


def filters_kept(sizes, rates):
    """int64 [G]: max(1, ceil(C * rate - 0.02))."""
    return np.array([max(1, math.ceil(size * rate - SLACK)) for size, rate in zip(sizes, rates)])


def masks(sizes, rates, order):
    """float32 [F]: 1 for the filters kept, those whose rank is below the number kept."""
    return (order < np.repeat(filters_kept(sizes, rates), sizes)).astype(np.float32)
