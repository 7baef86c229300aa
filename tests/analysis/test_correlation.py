"""Correlations with known values, and their intervals."""

import math

import numpy as np
import pytest
import scipy.stats

from analysis.correlation import correlations


def test_pearson_and_spearman_by_hand():
    """Deviations of x: -2 -1 0 1 2; of y: -3 0 -2 1 4: 15 / sqrt(10 * 30)."""
    found = correlations([1, 2, 3, 4, 5], [2, 5, 3, 6, 9])
    assert found["pearson"]["value"] == pytest.approx(15 / math.sqrt(300))
    # Ranks of y: 1 3 2 4 5: 1 - 6 * 2 / (5 * 24)
    assert found["spearman"]["value"] == pytest.approx(0.9)
    assert {measure["n"] for measure in found.values()} == {5}


def test_ties_get_their_mean_rank():
    """Ranks: 1 2.5 2.5 4 and 1.5 1.5 3 4, both of mean 2.5: 3.75 / 4.5."""
    found = correlations([0, 7, 7, 9], [-1, -1, 0.5, 100])
    assert found["spearman"]["value"] == pytest.approx(3.75 / 4.5)


def test_spearman_sees_only_the_order():
    x = np.random.default_rng(0).standard_normal(20)
    found, other = correlations(x, x**2), correlations(np.exp(x), x**2)
    assert found["spearman"] == pytest.approx(other["spearman"])
    assert found["pearson"]["value"] != pytest.approx(other["pearson"]["value"], abs=0.01)


def test_what_falls_together_has_minus_1():
    found = correlations(np.arange(9), 5 - 2.0 * np.arange(9))
    for measure in found.values():
        assert measure["value"] == pytest.approx(-1)
        assert (measure["low"], measure["high"]) == pytest.approx((-1, -1))


@pytest.mark.parametrize("noise", [0.1, 1, 10])
def test_the_interval_contains_the_value_and_follows_the_seed(noise):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(30)
    y = x + noise * rng.standard_normal(30)
    found = correlations(x, y)
    for measure in found.values():
        assert -1 <= measure["low"] < measure["value"] < measure["high"] <= 1
    assert correlations(x, y) == found
    other = correlations(x, y, seed=1)
    assert other != found
    assert other["pearson"]["low"] == pytest.approx(found["pearson"]["low"], abs=0.05)
    assert other["pearson"]["value"] == found["pearson"]["value"]


@pytest.mark.long
def test_the_interval_is_about_as_wide_as_fishers():
    """For normal pairs: tanh(artanh(r) +- 1.96 / sqrt(n - 3))."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(400)
    found = correlations(x, 0.5 * x + rng.standard_normal(400))["pearson"]
    for end, sign in (("low", -1), ("high", 1)):
        expected = math.tanh(math.atanh(found["value"]) + sign * 1.96 / math.sqrt(397))
        assert found[end] == pytest.approx(expected, abs=0.02)


def test_all_pairs_of_a_resample_are_drawn_together():
    """Not x and y apart, which would give intervals around 0."""
    x = np.random.default_rng(3).standard_normal(50)
    found = correlations(x, x + 0.01 * np.arange(50) ** 0.5)
    assert all(measure["low"] > 0.99 for measure in found.values())


def test_values_are_those_of_scipy():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 9, 60), rng.standard_normal(60)
    found = correlations(x, y)
    assert found["pearson"]["value"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert found["spearman"]["value"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize(
    "x, y",
    [
        ([], []),
        ([1, 2, 3], [1, 2, 4]),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4, 5], [2, 2, 2, 2, 2]),
    ],
    ids=["none", "three", "x constant", "y constant"],
)
def test_too_few_or_constant_ones_have_no_correlation(x, y):
    assert correlations(x, y) == {"pearson": None, "spearman": None}


def test_few_pairs_of_which_most_resamples_are_constant():
    found = correlations([0, 0, 0, 1], [0, 0, 0, 1])["pearson"]
    assert all(np.isfinite(value) for value in found.values()) and found["value"] == 1
