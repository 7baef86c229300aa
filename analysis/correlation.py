"""Correlations with intervals (METHOD 12)."""

import numpy as np
import scipy.stats

from analysis.options import LEVEL

RESAMPLES = 10_000
FEWEST = 4  # pairs, fewer are too few for an interval


def correlations(x, y, seed=0):
    """dict of `pearson` and `spearman`: dicts with value, low, high, n; None for too few pairs.

    The intervals are those of LEVEL by the percentile bootstrap: pairs are drawn anew.

    x, y: float [n].
    """
    rank = lambda pairs: scipy.stats.rankdata(pairs, axis=-1)
    return {
        "pearson": _correlation(_pearson, x, y, seed),
        "spearman": _correlation(lambda x, y: _pearson(rank(x), rank(y)), x, y, seed),
    }


def _pearson(x, y):
    """Pearson's correlation along the last axis, float64 [...]; NaN where x or y is constant."""
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y, axis=-1) == 0)
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    norms = np.sqrt(np.sum(x * x, -1) * np.sum(y * y, -1))
    norms = np.where(constant, np.nan, norms)  # where a mean is rounded, it is not exactly 0
    return np.sum(x * y, -1) / norms


def _correlation(measure, x, y, seed):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    values = measure(x[drawn], y[drawn])
    margin = 100 * (1 - LEVEL) / 2
    # A resample that has drawn one pair alone has no correlation.
    low, high = np.nanpercentile(values, [margin, 100 - margin])
    value = float(measure(x, y))
    return {"value": value, "low": float(low), "high": float(high), "n": len(x)}
