"""Slices, the trimmed Otsu filter in its three forms, the fine search."""

import itertools

import numpy as np
import pytest

from ekg.candidates import (
    FILTERS,
    filter_numbers,
    fine_search,
    reduced,
    slice_steps,
    trimmed_otsu,
    worth_evaluating,
)


def test_slice_steps():
    np.testing.assert_allclose(slice_steps([16, 32, 64], [4, 1, 10], 0.2), [1 / 16, 0.2, 0.02])


def test_rates_fall_to_five_decimals_and_never_below_zero():
    assert reduced([1.0, 0.5], 0, 1 / 3) == [0.66667, 0.5]
    assert reduced([1.0, 0.1], 1, 0.2) == [1.0, 0.0]


def otsu_by_hand(numbers):
    trim = -(-len(numbers) // 5)
    rest = sorted(numbers)[trim : len(numbers) - trim]
    if len(rest) < 3:
        return None
    value = lambda t: t * (len(rest) - t) * (np.mean(rest[:t]) - np.mean(rest[t:])) ** 2
    t = max(range(1, len(rest) - 1), key=lambda t: (round(value(t), 9), -t))
    return (rest[t - 1] + rest[t]) / 2


@pytest.mark.parametrize("count", [*range(1, 13), 15, 30, 35])
def test_trimmed_otsu_by_hand(count):
    for seed in range(10):
        numbers = np.random.default_rng([count, seed]).exponential(size=count)
        expected = otsu_by_hand(list(numbers))
        assert trimmed_otsu(numbers) == (None if expected is None else pytest.approx(expected))


def test_otsu_leaves_two_on_the_upper_side():
    numbers = [0, 1, 1, 1, 100, 200]  # trimmed by 2 at each end: 1, 1
    assert trimmed_otsu(numbers) is None
    assert (
        trimmed_otsu([0, 1, 2, 3, 100, 200, 300]) == 2.5
    )  # trimmed to 2, 3, 100: the split 2 | 3, 100 is the only one


def test_equal_splits_take_the_lowest():
    assert trimmed_otsu([5.0] * 10) == 5.0
    assert trimmed_otsu([-1, 0.0, 1.0, 2.0, 3.0, 9]) is None


SIZES = [4, 4, 8]
SCORES = np.array([4, 3, 2, 1, 8, 7, 6, 5, 1, 1, 1, 1, 2, 2, 2, 2], np.float32)


def test_published_filter_sums_whole_gates_and_passes_reduced_ones():
    numbers = filter_numbers("published", SCORES, SIZES, [1.0, 0.75, 1.0], [0.25, 0.25, 0.25])
    np.testing.assert_allclose(numbers, [10, 0, 12])


def test_slice_filter_sums_what_would_go():
    numbers = filter_numbers("slice", SCORES, SIZES, [1.0, 0.75, 0.5], [0.25, 0.25, 0.25])
    np.testing.assert_allclose(numbers, [1, 6, 4])  # positions 0:1, 1:2, 4:6


def test_slice_filter_rounds_halves_to_even():
    scores = np.arange(1, 11, dtype=np.float32)
    # 0.05 * 10 and 0.15 * 10 are halves: 0.5 -> 0, 1.5 -> 2; 1 - 0.95 is a little more than 0.05
    np.testing.assert_allclose(filter_numbers("slice", scores, [10], [0.95], [0.1]), [1 + 2])


def test_per_mac_divides_by_what_goes_with_the_slice():
    saved = lambda rates, gate: [10, 0, 2][gate] * rates[gate]
    numbers = filter_numbers("per_mac", SCORES, SIZES, [1.0, 0.75, 0.5], [0.25, 0.25, 0.25], saved)
    np.testing.assert_allclose(
        numbers, [1 / 10, 0, 4 / 1]
    )  # nothing goes with the second: nothing is lost


def test_per_use_divides_by_the_places_that_a_score_is_summed_over():
    numbers = filter_numbers(
        "per_use", SCORES, SIZES, [1.0, 0.75, 0.5], [0.25, 0.25, 0.25], uses=np.array([1, 3, 4])
    )
    np.testing.assert_allclose(numbers, [1, 6 / 3, 4 / 4])


def test_a_gate_at_rate_zero_is_no_candidate_under_any_filter():
    for candidate_filter in FILTERS:
        chosen = worth_evaluating(
            candidate_filter,
            SCORES,
            SIZES,
            [0.0, 0.5, 0.5],
            [0.25] * 3,
            lambda rates, gate: 1,
            np.ones(3),
        )
        assert 0 not in chosen and 1 in chosen


def test_with_few_numbers_all_are_evaluated():
    assert worth_evaluating("published", SCORES, SIZES, [1.0] * 3, [0.25] * 3) == [0, 1, 2]
    assert worth_evaluating("none", SCORES, SIZES, [1.0] * 3, [0.25] * 3) == [0, 1, 2]


def test_fine_search_keeps_the_widest_rate_at_or_under_the_target():
    flops_of = lambda filters: 10 * int(filters[0]) + int(filters[1])
    for target, size, step in itertools.product(range(30, 160, 7), [16], [0.2, 0.5]):
        rates = fine_search(flops_of, [size, 4], [1.0, 1.0], 0, step, target)
        kept = [
            k for k in range(int(np.ceil(size * (1 - step) - 0.02)), size) if 10 * k + 4 <= target
        ]
        expected = kept[-1] if kept else int(np.ceil(size * (1 - step) - 0.02))
        assert int(np.ceil(size * rates[0] - 0.02)) == expected, (target, step)
        assert rates[1] == 1.0


def test_fine_search_leaves_a_candidate_above_the_target_alone():
    assert fine_search(lambda filters: 1000, [16], [1.0], 0, 0.2, 10) == [0.8]
