"""Correlations with intervals (METHOD 12)."""

import warnings

import numpy as np
import scipy.stats

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 4  # pairs, below which there is no interval worth its name


def correlations(x, y, seed=0):
    """dict of `pearson` and `spearman`: dicts with value, low, high, n; None for too few pairs.

    The intervals are those of LEVEL by the percentile bootstrap: pairs are drawn anew.

    x, y: float [n].
    """
    return {
        "pearson": _correlation(lambda a, b: scipy.stats.pearsonr(a, b).statistic, x, y, seed),
        "spearman": _correlation(lambda a, b: scipy.stats.spearmanr(a, b).statistic, x, y, seed),
    }


def _correlation(measure, x, y, seed):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():  # a resample of one pair alone has no correlation
        warnings.simplefilter("ignore")
        drawn = rng.integers(0, len(x), (RESAMPLES, len(x)))
        values = np.array([measure(x[rows], y[rows]) for rows in drawn])
    margin = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [margin, 100 - margin])
    value = float(measure(x, y))
    return {"value": value, "low": float(low), "high": float(high), "n": len(x)}
