"""The search, on a network it only knows by its gates and costs."""

import itertools
import types

import numpy as np
import pytest

from ekg.budget import Budget
from ekg.candidates import FILTERS
from ekg.filter_rule import FilterRule, filters_kept
from ekg.history import SearchState, SubNetwork
from ekg.search import Greedy
from engine.options import SearchOptions
from utils import UserError


class Plain:
    """Three gates of 4, 8 and 16 filters, the last two in one branch; a filter costs 1, 2 and 3
    MACs and 1 parameter, and 5 MACs stay.
    """

    arch = "Plain"
    gate_sizes = np.array([4, 8, 16])
    gates = [
        types.SimpleNamespace(name=n, size=s, uses=u)
        for n, s, u in (("a", 4, 1), ("b", 8, 2), ("c", 16, 1))
    ]

    branches = [None, "block", "block"]

    def cost(self, filters=None):
        filters = self.gate_sizes if filters is None else np.asarray(filters)
        return int(5 + filters @ [1, 2, 3]), int(filters.sum())


LABELS = np.arange(20) % 5


def logits_of(masks):
    """A smooth function of the masks, like a network that loses a little with every filter."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((20, 5)) + 2 * np.eye(5)[LABELS]
    return (base - 0.05 * np.tensordot(1 - masks, rng.standard_normal((28, 20, 5)), 1)).astype(
        np.float32
    )


def predict(masks):
    return map(logits_of, masks)


def scores_of(masks, knowledge):
    return (masks * np.linspace(1, 2, 28)).astype(np.float32)


class Times:
    """1 ms, and 1 ms per filter of a, 2 of b, 0.5 of c: in blocks of four, as devices compute."""

    def ms(self, network, filters=None):
        filters = network.gate_sizes if filters is None else filters
        return 1 + float(-(-np.asarray(filters) // 4) * 4 @ [1, 2, 0.5])


def run(rate, candidate_filter="none", times=None, **options):
    search = Greedy(
        Plain(),
        LABELS,
        scores_of,
        predict,
        SearchOptions(rate, 0.25, candidate_filter, **options),
        times=times,
    )
    state, first = search.start()
    records = [first]
    while not search.done(state):
        records.append(search.advance(state))
    return search, state, records


@pytest.mark.parametrize("target", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("candidate_filter", FILTERS)
def test_widths_only_shrink_and_the_search_ends_at_or_under_the_target(target, candidate_filter):
    search, _, records = run(target, candidate_filter)
    for before, after in itertools.pairwise(records):
        assert (
            all(new <= old for new, old in zip(after["widths"], before["widths"]))
            and after["widths"] != before["widths"]
        )
        assert after["flops"] <= before["flops"]
    assert records[-1]["flops_rate"] <= target < records[-2]["flops_rate"]
    for record in records:
        filters = filters_kept(search.sizes, record["widths"])
        assert filters.min() >= 1
        assert (record["flops"], record["params"]) == Plain().cost(filters)


@pytest.mark.parametrize("candidate_filter", FILTERS)
@pytest.mark.parametrize("round_to", [1, 4])
def test_a_search_may_take_a_whole_branch(candidate_filter, round_to):
    """Below what one filter per gate leaves; then nothing of the branch is evaluated any more."""
    target = 10 / 73  # with one filter per gate 11 are left
    with pytest.raises(UserError, match="out of reach"):
        run(target, candidate_filter)
    search, state, records = run(target, candidate_filter, least_filters=0, round_to=round_to)
    assert state.history[-1].filters[1:].tolist() == [0, 0]
    assert search.flops_of(state.history[-1].filters) <= 10
    for before, after in itertools.pairwise(records):
        assert after["filters"] != before["filters"]
        if before["filters"][1] == 0:
            assert after["candidates"] == ["a"]
    for record in records:
        assert (record["filters"][1] == 0) == (record["filters"][2] == 0)


@pytest.mark.parametrize("candidate_filter", FILTERS)
def test_a_search_keeps_to_multiples(candidate_filter):
    _, _, records = run(0.5, candidate_filter, round_to=4)
    for record in records:
        assert not np.any(np.array(record["filters"]) % 4)
    # The smallest gate has no slice to give up.
    assert all("a" not in record["candidates"] for record in records)
    assert records[-1]["flops_rate"] <= 0.5 < records[-2]["flops_rate"]
    with pytest.raises(UserError, match="out of reach"):
        run(0.25, candidate_filter, round_to=4)  # 5 + 4 + 2 * 4 + 3 * 4 of 73 are left


def test_the_slice_filter_sums_what_rounded_counts_lose():
    search = Greedy(
        Plain(), LABELS, scores_of, predict, SearchOptions(0.5, 0.25, "slice", round_to=4)
    )
    member = SubNetwork((1.0, 0.5, 0.75), np.array([4, 4, 12]), np.zeros(28, np.int32), 0.0, 0.0)
    importance = np.arange(28, dtype=np.float32)
    numbers = FILTERS["slice"](search.gates_of(member, importance))
    # b: at its fewest; c, filters 12 to 27: 4 are gone, and the next slice takes 4 more
    assert numbers.tolist() == [0, 0, 16 + 17 + 18 + 19]


def test_the_last_step_is_refilled_as_far_as_the_target_allows():
    search, state, _ = run(0.5)
    last, before = state.history[-1], state.history[-2]
    gate = int(np.flatnonzero(np.array(last.rates) != before.rates)[0])
    filters = filters_kept(search.sizes, last.rates)
    filters[gate] += 1
    assert filters[gate] == filters_kept(search.sizes, before.rates)[gate] or not search.budget.met(
        filters
    )


@pytest.mark.parametrize("slice_by", ["share", "time"])
def test_a_target_in_time(slice_by):
    """The search ends at the first sub-network at or under it; FLOPs have no say."""
    search, state, records = run(0.6, times=Times(), target="latency", slice_by=slice_by)
    whole = 1 + 4 + 16 + 8
    for record in records:
        assert record["latency_ms"] == Times().ms(Plain(), record["filters"])
        assert record["latency_rate"] == pytest.approx(record["latency_ms"] / whole)
    assert records[-1]["latency_rate"] <= 0.6 < records[-2]["latency_rate"]
    assert search.progress(state) >= 1
    # The last gate was given back all filters that its last block holds.
    assert records[-1]["filters"]["abc".index(records[-1]["gate"])] % 4 == 0


def test_slices_by_time_all_save_some():
    """Slices of the same share would take filters that no block gets smaller by."""
    _, _, records = run(0.55, times=Times(), target="latency", slice_by="time")
    times = [record["latency_ms"] for record in records]
    assert all(after < before for before, after in itertools.pairwise(times))
    _, _, by_share = run(0.55, times=Times(), target="latency")
    times = [record["latency_ms"] for record in by_share]
    assert any(after == before for before, after in itertools.pairwise(times))


def test_times_alone_do_not_change_the_search():
    """Slices may be by time with a target in FLOPs, and with neither all is as without times."""
    (_, _, plain), (_, _, timed) = run(0.3), run(0.3, times=Times())
    assert [r["filters"] for r in plain] == [r["filters"] for r in timed]
    _, _, records = run(0.3, times=Times(), slice_by="time")
    assert records[-1]["flops_rate"] <= 0.3 < records[-2]["flops_rate"]


def test_a_target_in_time_out_of_reach():
    # Four filters of each gate are left of 29 ms: 1 + 4 + 8 + 2.
    run(15 / 29, times=Times(), target="latency")
    with pytest.raises(
        UserError, match=r"51\.72% of Plain's predicted time; ask for at least 0\.51"
    ):
        run(14.9 / 29, times=Times(), target="latency")


def test_the_ensemble_is_the_mean_of_its_members():
    search, state, _ = run(0.4)
    members = [logits_of(member.masks(search.sizes)) for member in state.history]
    np.testing.assert_allclose(state.knowledge, np.mean(members, 0), rtol=1e-4, atol=1e-5)


def test_the_candidate_of_lowest_score_is_taken():
    """One step against every candidate evaluated by hand."""
    search = Greedy(Plain(), LABELS, scores_of, predict, SearchOptions(0.3, 0.25, "none"))
    state, _ = search.start()
    knowledge = state.knowledge.astype(np.float64)
    record = search.advance(state)
    order = np.concatenate([np.arange(n)[::-1] for n in (4, 8, 16)])  # scores rise with the index
    teacher = np.exp(knowledge) / np.exp(knowledge).sum(1, keepdims=True)
    values = []
    for gate, step in enumerate((0.25, 0.125, 0.25)):
        rates = np.ones(3)
        rates[gate] -= step
        kept = np.repeat(filters_kept([4, 8, 16], rates), [4, 8, 16])
        logits = logits_of((order < kept).astype(np.float32)).astype(np.float64)
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        values.append(-log[np.arange(20), LABELS].mean() - (teacher * log).sum(1).mean())
    assert record["gate"] == "abc"[int(np.argmin(values))]
    assert record["score"] == pytest.approx(min(values), rel=1e-6)


def test_macs_that_go_with_a_slice():
    search = Greedy(Plain(), LABELS, scores_of, predict, SearchOptions(0.3, 0.25, "per_mac"))
    member = SubNetwork((1.0, 0.5, 0.0), np.array([4, 4, 1]), np.zeros(28, np.int32), 0.0, 0.0)
    gates = search.gates_of(member, np.ones(28, np.float32))
    assert gates.saved.tolist() == [1, 1 * 2, 0]  # steps 0.25, 0.125, 0.25


def test_history_begins_with_the_unpruned_network():
    search, state, records = run(0.5)
    assert state.history[0].rates == (1.0, 1.0, 1.0)
    assert state.history[0].masks(search.sizes).all()
    assert (
        records[0]["gate"] is None and records[0]["flops_rate"] == 1 and records[0]["score"] is None
    )
    assert len(state.history) == len(records)


def test_a_target_of_one_needs_no_search():
    _, state, records = run(1.0)
    assert len(state.history) == len(records) == 1


def test_a_target_out_of_reach_is_refused_beforehand():
    least = (5 + 1 + 2 + 3) / Plain().cost()[0]
    budget = lambda rate: Budget(lambda filters: Plain().cost(filters)[0], 73, rate)
    budget(least).check_reachable(FilterRule(Plain.gate_sizes), "Plain")
    with pytest.raises(UserError, match="out of reach"):
        budget(least - 1e-6).check_reachable(FilterRule(Plain.gate_sizes), "Plain")
    assert run(least)[2][-1]["flops"] == 11


def test_same_start_same_search():
    first, second = run(0.3)[2], run(0.3)[2]
    for a, b in zip(first, second):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_state_is_saved_whole(tmp_path):
    search, state, _ = run(0.5)
    state.save(tmp_path / "state.npz")
    loaded = SearchState.load(tmp_path / "state.npz", Plain.gate_sizes, 20, 5)
    np.testing.assert_array_equal(loaded.knowledge, state.knowledge)
    for ours, theirs in zip(state.history, loaded.history):
        assert (ours.rates, ours.loss) == (theirs.rates, theirs.loss)
        np.testing.assert_array_equal(ours.masks(search.sizes), theirs.masks(search.sizes))


def test_a_file_without_filter_counts_keeps_at_least_one_filter_per_gate(tmp_path):
    """As older files are."""
    _, state, _ = run(0.2)
    state.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as saved:
        older = {name: saved[name] for name in saved if name != "filters"}
    np.savez(tmp_path / "older.npz", **older)
    loaded = SearchState.load(tmp_path / "older.npz", Plain.gate_sizes, 20, 5)
    assert len(loaded.history) == len(state.history)
    for ours, theirs in zip(state.history, loaded.history):
        np.testing.assert_array_equal(ours.filters, theirs.filters)


@pytest.mark.parametrize("count", [-1, 17])
def test_a_state_with_impossible_filters_is_refused(tmp_path, count):
    _, state, _ = run(0.5)
    state.history[-1].filters[2] = count
    state.save(tmp_path / "state.npz")
    with pytest.raises(UserError, match="fewer filters than none, or more than it has"):
        SearchState.load(tmp_path / "state.npz", Plain.gate_sizes, 20, 5)


def test_a_target_out_of_reach_says_why():
    with pytest.raises(UserError, match="even one filter per gate leaves"):
        run(0.1)
    with pytest.raises(UserError, match="fewest filters that --least_filters and --round_to allow"):
        run(0.2, round_to=8)


def test_a_damaged_state_is_refused(tmp_path):
    _, state, _ = run(0.5)
    path = tmp_path / "state.npz"
    state.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="delete it to search again"):
        SearchState.load(path, Plain.gate_sizes, 20, 5)


def test_the_state_of_another_search_is_refused(tmp_path):
    _, state, _ = run(0.5)
    state.save(tmp_path / "state.npz")
    steps = len(state.history)
    with pytest.raises(
        UserError, match=rf"rates is float64 \[{steps}, 3\], expected finite \[{steps}, 28\]"
    ):
        SearchState.load(tmp_path / "state.npz", [1] * 28, 20, 5)


def test_a_search_goes_on_from_its_state(tmp_path):
    """The remaining steps are those of the search that was not interrupted."""
    search, whole, records = run(0.3)
    state, _ = search.start()
    for _ in range(2):
        search.advance(state)
    state.save(tmp_path / "state.npz")
    state = SearchState.load(tmp_path / "state.npz", Plain.gate_sizes, 20, 5)
    rest = []
    while not search.done(state):
        rest.append(search.advance(state))
    assert len(rest) == len(records) - 3
    for ours, theirs in zip(rest, records[3:]):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    np.testing.assert_array_equal(state.knowledge, whole.knowledge)


@pytest.mark.parametrize(
    "filters, gate", [([3, 20], "a"), ([4], "b"), ([11, 12], "b"), ([27], "c")]
)
def test_scores_that_are_not_finite_stop_the_search_and_name_the_gate(filters, gate):
    def broken(masks, knowledge):
        scores = scores_of(masks, knowledge)
        scores[filters] = np.nan
        return scores

    search = Greedy(Plain(), LABELS, broken, predict, SearchOptions(0.5, 0.25, "none"))
    state, _ = search.start()
    with pytest.raises(
        FloatingPointError, match=f"step 1: the scores at gate {gate} are not finite"
    ):
        search.advance(state)
    assert len(state.history) == 1


def test_logits_that_are_not_finite_stop_the_search_and_name_the_candidate():
    def broken(masks):
        for mask in masks:
            logits = logits_of(mask)
            yield logits if mask[4:12].all() else np.where(logits > 2, np.inf, logits)

    search = Greedy(Plain(), LABELS, scores_of, broken, SearchOptions(0.5, 0.25, "none"))
    state, _ = search.start()
    with pytest.raises(
        FloatingPointError, match="step 1, candidate at gate b: its logits are not finite"
    ):
        search.advance(state)
    np.testing.assert_array_equal(state.knowledge, logits_of(np.ones(28)))
