"""Slices, the trimmed Otsu filter in its three forms, the fine search."""

import itertools

import numpy as np
import pytest

from ekg.budget import Budget
from ekg.candidates import (
    FILTERS,
    Gates,
    fine_search,
    reduced,
    slice_steps,
    steps_by_time,
    trimmed_otsu,
    worth_evaluating,
)
from ekg.filter_rule import FilterRule


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


SIZES = np.array([4, 4, 8])
IMPORTANCE = np.array([4, 3, 2, 1, 8, 7, 6, 5, 1, 1, 1, 1, 2, 2, 2, 2], np.float32)


def gates(rates, importance=IMPORTANCE, sizes=SIZES, steps=(0.25, 0.25, 0.25), uses=(1, 3, 4)):
    """Gates of which each filter has 10, 1 and 2 MACs."""
    flops_of = lambda filters: int(np.dot([10, 1, 2][: len(filters)], filters))
    uses = np.array(uses[: len(sizes)])
    return Gates(FilterRule(sizes), uses, rates, np.array(steps), importance, flops_of)


def test_published_filter_sums_whole_gates_and_passes_reduced_ones():
    np.testing.assert_allclose(FILTERS["published"](gates([1.0, 0.75, 1.0])), [10, 0, 12])


def test_slice_filter_sums_what_would_go():
    numbers = FILTERS["slice"](gates([1.0, 0.75, 0.5]))
    np.testing.assert_allclose(numbers, [1, 6, 4])  # positions 0:1, 1:2, 4:6


def test_slice_filter_rounds_halves_to_even():
    importance = np.arange(1, 11, dtype=np.float32)
    # 0.05 * 10 and 0.15 * 10 are halves: 0.5 -> 0, 1.5 -> 2; 1 - 0.95 is a little more than 0.05
    one = gates([0.95], importance, [10], [0.1])
    np.testing.assert_allclose(FILTERS["slice"](one), [1 + 2])


def test_per_mac_divides_by_what_goes_with_the_slice():
    some = gates([1.0, 0.75, 0.5])
    np.testing.assert_allclose(some.saved, [10, 1, 4])
    np.testing.assert_allclose(FILTERS["per_mac"](some), [1 / 10, 6 / 1, 4 / 4])


def test_per_mac_is_zero_where_nothing_goes():
    numbers = FILTERS["per_mac"](gates([1.0, 0.0, 0.5]))
    np.testing.assert_allclose(numbers, [1 / 10, 0, 4 / 4])


def test_per_use_divides_by_the_places_that_importance_is_summed_over():
    numbers = FILTERS["per_use"](gates([1.0, 0.75, 0.5]))
    np.testing.assert_allclose(numbers, [1, 6 / 3, 4 / 4])


@pytest.mark.parametrize("rule", FILTERS)
def test_a_gate_with_one_filter_left_is_no_candidate(rule):
    """At rate 0, and at a rate above 0, whose slice would change no mask."""
    for rate in (0.0, 0.25):
        chosen = worth_evaluating(rule, gates([rate, 0.5, 0.5]))
        assert 0 not in chosen and 1 in chosen


@pytest.mark.parametrize("rule", FILTERS)
def test_a_filter_gives_a_number_per_gate_and_no_more_candidates_than_gates(rule):
    numbers = FILTERS[rule](gates([1.0, 0.75, 0.5]))
    assert numbers.shape == (3,) and np.isfinite(numbers).all()
    chosen = worth_evaluating(rule, gates([1.0, 0.75, 0.5]))
    assert chosen == sorted(set(chosen)) and set(chosen) <= {0, 1, 2}


def test_a_gate_that_is_no_candidate_takes_no_part_in_the_threshold():
    sizes = np.full(8, 4)
    importance = np.repeat(np.array([1, 2, 30, 31, 50, 60, 70, 0], np.float32), 4)
    few = lambda filters: int(np.sum(filters))
    given = lambda rates: Gates(
        FilterRule(sizes), np.ones(8), rates, np.full(8, 0.25), importance, few
    )
    assert worth_evaluating("published", given([1.0] * 7 + [0.0])) == [0, 1, 2]
    assert worth_evaluating("published", given([1.0] * 7 + [0.5])) == [0, 1, 7]


@pytest.mark.parametrize("scale", [1, 1 / 3, 0.1])
def test_splits_that_are_equal_but_for_rounding_take_the_lowest(scale):
    """Trimmed to 0, 0, 1, 2, 2: the splits 0 0 | 1 2 2 and 0 0 1 | 2 2 are worth the same."""
    numbers = scale * np.array([-9, -9, 0, 0, 1, 2, 2, 9, 9], np.float64)
    assert trimmed_otsu(numbers) == pytest.approx(0.5 * scale)


def test_with_few_numbers_all_are_evaluated():
    assert worth_evaluating("published", gates([1.0] * 3)) == [0, 1, 2]
    assert worth_evaluating("none", gates([1.0] * 3)) == [0, 1, 2]


def test_fine_search_keeps_the_widest_rate_at_or_under_the_target():
    flops_of = lambda filters: 10 * int(filters[0]) + int(filters[1])
    for target, size, step in itertools.product(range(30, 160, 7), [16], [0.2, 0.5]):
        budget = Budget(flops_of, 1, target)
        rates = fine_search(budget, FilterRule([size, 4]), [1.0, 1.0], 0, step)
        kept = [
            k for k in range(int(np.ceil(size * (1 - step) - 0.02)), size) if 10 * k + 4 <= target
        ]
        expected = kept[-1] if kept else int(np.ceil(size * (1 - step) - 0.02))
        assert int(np.ceil(size * rates[0] - 0.02)) == expected, (target, step)
        assert rates[1] == 1.0


def steps(times, rates, wanted, sizes=(16, 8), **rule):
    """times: ms per filter, and per filter begun in blocks, of every gate."""
    ms_of = lambda filters: sum(
        each * -(-count // block) * block for (each, block), count in zip(times, filters)
    )
    return steps_by_time(ms_of, FilterRule(sizes, **rule), rates, wanted)


def test_a_slice_by_time_is_the_smallest_that_saves_enough():
    each = (1, 1), (3, 1)
    assert steps(each, [1.0, 1.0], 4).tolist() == [4 / 16, 2 / 8]
    assert steps(each, [1.0, 1.0], 0.5).tolist() == [1 / 16, 1 / 8]  # at least one filter
    assert steps(each, [0.5, 1.0], 6).tolist() == [6 / 16, 2 / 8]


def test_a_gate_that_cannot_save_enough_gives_up_what_saves_most():
    assert steps([(1, 1), (3, 1)], [0.25, 1.0], 12).tolist() == [3 / 16, 4 / 8]
    # No more than that: with one filter less the block of four would stay.
    assert steps([(1, 4), (3, 1)], [0.5, 1.0], 12).tolist() == [4 / 16, 4 / 8]


def test_a_gate_that_saves_nothing_has_no_slice():
    times = (1, 16), (1, 1)
    assert steps(times, [1.0, 1.0], 2).tolist() == [0, 2 / 8]
    assert steps(times, [1.0, 0.0], 2).tolist() == [1 / 16, 0]  # unless no gate saves any
    some = gates([1.0, 1.0, 1.0], steps=(0.0, 0.25, 0.25))
    assert some.open == [1, 2] and worth_evaluating("none", some) == [1, 2]


def test_slices_by_time_keep_to_multiples_and_take_whole_branches():
    each = (1, 1), (3, 1)
    assert steps(each, [1.0, 1.0], 5, multiple=4).tolist() == [8 / 16, 4 / 8]
    branch = dict(branches=["block", "block"], least=0)
    # With the last filter of one gate goes the other gate.
    assert steps(each, [2 / 16, 1.0], 2.5, **branch).tolist() == [2 / 16, 1 / 8]


def test_fine_search_leaves_a_candidate_above_the_target_alone():
    budget = Budget(lambda filters: 1000, 1, 10)
    assert fine_search(budget, FilterRule([16]), [1.0], 0, 0.2) == [0.8]
