"""The searches that the paper's is compared with, on a network they only know by its gates and
costs.
"""

import numpy as np
import pytest
from test_search import LABELS, Plain, logits_of, predict, scores_of

from ekg.filter_rule import filters_kept
from ekg.history import SearchState
from ekg.strategies import STRATEGIES
from engine.options import SearchOptions


def search_of(strategy, target, seed=0, **options):
    return STRATEGIES[strategy](
        Plain(), LABELS, scores_of, predict, SearchOptions(target, 0.25, "none", **options), seed
    )


def run(search, state=None):
    records = []
    if state is None:
        state, first = search.start()
        records.append(first)
    while not search.done(state):
        records.append(search.advance(state))
    return state, records


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("target", [0.9, 0.5, 0.2])
def test_every_search_ends_just_under_the_target(strategy, target):
    search = search_of(strategy, target, samples=6)
    state, records = run(search)
    filters = state.history[-1].filters
    flops = search.flops_of(filters)
    assert flops <= target * search.all_flops < flops + 1 + 2 + 3
    assert [r["step"] for r in records] == list(range(len(records))) and len(state.history) == len(
        records
    )
    for record in records:
        assert (record["flops"], record["params"]) == Plain().cost(
            filters_kept(search.sizes, record["widths"])
        )
    assert state.history[-1].masks(search.sizes).sum() == filters.sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_target_of_one_needs_no_search(strategy):
    assert len(run(search_of(strategy, 1.0))[1]) == 1


def test_uniform_has_one_rate_that_falls_by_the_step():
    search = search_of("uniform", 0.4)
    state, records = run(search)
    assert all(len(set(record["widths"])) == 1 for record in records)
    assert [record["widths"][0] for record in records[:-1]] == [1.0, 0.75, 0.5]
    rate = records[-1]["widths"][0]
    wider = [
        size_of / size
        for size in search.sizes
        for size_of in range(1, size + 1)
        if rate + 1e-4 < size_of / size <= 0.5
    ]
    assert not search.budget.met(filters_kept(search.sizes, [min(wider)] * 3))
    members = [logits_of(member.masks(search.sizes)) for member in state.history]
    np.testing.assert_allclose(state.knowledge, np.mean(members, 0), rtol=1e-4, atol=1e-5)


def test_uniform_passes_over_steps_that_change_nothing():
    """At 0.75 and multiples of 8, the gates of 4, 8 and 16 filters keep all of them."""
    search = search_of("uniform", 0.8, round_to=8)
    _, records = run(search)
    assert [record["filters"] for record in records] == [[4, 8, 16], [4, 8, 8]]


def test_random_takes_the_best_of_its_samples():
    search = search_of("random", 0.5, samples=8)
    state, records = run(search)
    assert len(records) == 9
    assert len({tuple(record["widths"]) for record in records[1:]}) == 8
    assert state.history[-1].objective == min(record["score"] for record in records[1:])
    assert state.history[0].rates == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(
        state.knowledge, logits_of(np.ones(28))
    )  # T_0: none is chosen on the way
    other = run(search_of("random", 0.5, seed=1, samples=8))[1]
    assert other[1]["widths"] != records[1]["widths"]


def test_random_keeps_some_gates_whole_and_some_narrow():
    """All vectors at the target are within reach, not only those around the uniform one."""
    search = search_of("random", 0.6)
    rates = np.array([search.drawn(number) for number in range(1, 200)])
    assert (rates.max(1) == 1).mean() > 0.2 and rates.min() < 0.1


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_goes_on_from_its_state(tmp_path, strategy, cut):
    search = search_of(strategy, 0.3, samples=5)
    whole, records = run(search)
    state, _ = search.start()
    for _ in range(cut):
        search.advance(state)
    state.save(tmp_path / "state.npz")
    state, rest = run(search, SearchState.load(tmp_path / "state.npz", Plain.gate_sizes, 20, 5))
    assert [{**r, "seconds": 0} for r in rest] == [{**r, "seconds": 0} for r in records[cut + 1 :]]
    assert state.history[-1].rates == whole.history[-1].rates
    np.testing.assert_array_equal(state.knowledge, whole.knowledge)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_progress_goes_from_0_to_1(strategy):
    search = search_of(strategy, 0.3, samples=5)
    state, _ = search.start()
    seen = [search.progress(state)]
    while not search.done(state):
        search.advance(state)
        seen.append(search.progress(state))
    assert seen[0] == 0 and seen[-1] >= 1 and sorted(seen) == seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_teachers_of_the_search(strategy):
    """none: the labels alone, for scores too; single: T stays T_0; both judge what they take by
    that.
    """
    given = []

    def score(masks, knowledge):
        given.append(knowledge)
        return scores_of(masks, knowledge)

    for teacher in ("none", "single"):
        given.clear()
        search = search_of(strategy, 0.5, teacher=teacher, samples=3)
        search.importance = score
        state, _ = run(search)
        np.testing.assert_array_equal(state.knowledge, logits_of(np.ones(28)))
        assert all(
            knowledge is None if teacher == "none" else (knowledge is state.knowledge)
            for knowledge in given
        )
        assert all(
            (member.objective == member.loss) == (teacher == "none") for member in state.history
        )
