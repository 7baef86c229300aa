"""How many filters gates keep at a rate: the paper's rule, multiples, and branches that may go."""

import numpy as np
import pytest

from ekg.filter_rule import FilterRule, filters_kept


@pytest.mark.parametrize(
    "size, rate, kept",
    [(16, 1.0, 16), (16, 0.8, 13), (64, 0.1875, 12), (10, 0.7, 7), (3, 0.33333, 1), (16, 0.0, 1)],
)
def test_filters_kept(size, rate, kept):
    assert filters_kept([size], [rate])[0] == kept


def test_five_decimals_never_add_a_filter():
    """The rate of any number of filters, rounded to five decimals, keeps just that number."""
    for size in (3, 7, 16, 24, 64, 512, 2048):
        rates = [round(k / size, 5) for k in range(1, size + 1)]
        assert [filters_kept([size], [rate])[0] for rate in rates] == list(range(1, size + 1))


@pytest.mark.parametrize(
    "size, rate, kept",
    [
        *((64, 1.0, 64), (64, 0.5, 32), (64, 0.51, 40), (64, 0.0, 8)),
        *((20, 1.0, 20), (20, 0.7, 16), (20, 0.81, 20), (5, 0.2, 5), (5, 0.0, 5)),
    ],
)
def test_counts_are_multiples_or_all_filters(size, rate, kept):
    assert filters_kept([size], [rate], multiple=8)[0] == kept


BRANCHES = [None, "a", "a", "b", None]
SIZES = [16, 8, 4, 8, 16]


def test_a_branch_goes_as_a_whole():
    rule = FilterRule(SIZES, BRANCHES, least=0)
    assert rule.kept([1.0] * 5).tolist() == SIZES
    assert rule.kept([0.5, 0.125, 0.5, 0.0, 0.0]).tolist() == [8, 1, 2, 0, 1]
    assert rule.kept([0.5, 0.0, 0.5, 0.5, 0.5]).tolist() == [8, 0, 0, 4, 8]
    assert rule.kept([0.5, 1.0, 0.0, 0.5, 0.5]).tolist() == [8, 0, 0, 4, 8]
    assert rule.fewest.tolist() == [1, 0, 0, 0, 1]
    # The other gate of a branch that is gone gives up nothing more.
    assert rule.open_gates([0.5, 0.0, 0.5, 0.125, 0.0]).tolist() == [0, 3]


def test_a_gate_outside_branches_keeps_a_filter_and_others_as_many_as_asked():
    assert FilterRule(SIZES, least=0).fewest.tolist() == [1] * 5
    assert FilterRule(SIZES, BRANCHES, least=6).fewest.tolist() == [1, 6, 4, 6, 1]
    assert FilterRule(SIZES, BRANCHES).fewest.tolist() == [1] * 5


def test_multiples_and_branches_together():
    rule = FilterRule([20, 8, 4], [None, "a", "a"], least=0, multiple=8)
    assert rule.kept([0.2, 0.1, 0.1]).tolist() == [8, 8, 4]
    assert rule.kept([0.0, 0.1, 0.0]).tolist() == [8, 0, 0]
    assert rule.open_gates([0.4, 0.1, 0.1]).tolist() == [1, 2]
    assert rule.open_gates([0.5, 0.1, 0.0]).tolist() == [0]


@pytest.mark.parametrize("multiple", [1, 8, 16])
@pytest.mark.parametrize("least", [0, 1])
def test_every_slice_of_an_open_gate_removes_filters(multiple, least):
    """At least `multiple` of them, or what brings a gate to a multiple."""
    from ekg.candidates import reduced, slice_steps

    sizes = [16, 20, 24, 64, 96, 144, 384, 1536, 5]
    # In the paper's rule a slice of 1 / C may round to nothing: rates have five decimals.
    smallest = () if multiple == 1 else (0.001,)
    for search_step in (*smallest, 0.05, 0.2, 0.5):
        rule = FilterRule(sizes, [*"abcdefgh", None], least, multiple)
        steps = slice_steps(rule.sizes, np.ones(len(sizes)), search_step, multiple)
        rates = [1.0] * len(sizes)
        while len(still := rule.open_gates(rates)):
            for gate in still:
                before = rule.kept(rates)
                rates = reduced(rates, gate, steps[gate])
                gone = before - rule.kept(rates)
                assert gone[gate] > 0 and gone.sum() == gone[gate]
                whole_multiple = before[gate] % multiple == 0
                assert gone[gate] >= multiple or not whole_multiple
        assert rule.kept(rates).tolist() == rule.fewest.tolist()
