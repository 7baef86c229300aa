"""The search, guided by the ensemble of its own interim sub-networks (METHOD 3 and 4).

Algorithm 1, steps 3 and 4. A search sees the network through two functions, `importance` and
`predict`. The rest is arithmetic on rates and orders, which can be read, tested and changed without
a network. `Greedy` is the paper's search; ekg.strategies has the others.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from ekg.budget import budget_of
from ekg.candidates import Gates, fine_search, reduced, slice_steps, steps_by_time, worth_evaluating
from ekg.filter_rule import FilterRule
from ekg.history import SearchState, SubNetwork
from ekg.importance import masks, ranks
from ekg.knowledge import OF_CLASSES, update_knowledge
from engine.console import Silent, duration
from engine.logits import check_finite

# Function of masks, float32 [F], and T, float32 [N, classes] or None, to the importance of all
# filters, float32 [F] (ekg.scores).
Importance = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
# Function of masks, float32 [n, F], that yields the logits of each sub-network on D_val, with batch
# statistics, float32 [N, classes] (ekg.validation).
Predict = Callable[[np.ndarray], Iterable[np.ndarray]]


class Search:
    """The parts that all searches of a supernet share. A subclass is a strategy."""

    def __init__(
        self,
        network,
        labels,
        importance,
        predict,
        options,
        seed=0,
        times=None,
        judgement=OF_CLASSES,
    ):
        """Raises UserError for a target that is out of reach.

        Args:
            network: Network, for its gates and costs.
            labels: int [N], the labels of D_val.
            importance: see Importance.
            predict: see Predict.
            options: SearchOptions.
            seed: seed of the random numbers that a strategy draws.
            times: LayerTimes, if the target or the slices are in time.
            judgement: ekg.knowledge.Judgement.
        """
        self.network, self.labels, self.judgement = network, labels, judgement
        self.importance, self.predict = importance, predict
        self.options, self.seed = options, seed
        self.sizes, self.rule = network.gate_sizes, FilterRule.of(network, options)
        self.all_flops, self.times = network.cost()[0], times
        self.budget = budget_of(network, options, times)
        self.budget.check_reachable(self.rule, network.arch)

    def advance(self, state, bar: Callable = Silent) -> dict:
        """Takes one step of the search; returns its record. Each strategy has its own."""
        raise NotImplementedError

    def flops_of(self, filters):
        """MACs of the network that keeps `filters`, int [G], per gate."""
        return self.network.cost(filters)[0]

    def ms_of(self, filters):
        """Predicted milliseconds of the network that keeps `filters`, int [G], per gate."""
        return self.times.ms(self.network, filters)

    def share(self, state):
        """The share of the unpruned network's FLOPs or time that the current sub-network has."""
        return self.budget.share(state.history[-1].filters)

    def done(self, state):
        """Whether the current sub-network meets the target, which ends the search."""
        return self.budget.met(state.history[-1].filters)

    def progress(self, state):
        """Progress of a search that is not done, from 0 to 1."""
        return (1 - self.share(state)) / (1 - self.options.target_rate)

    def start(self):
        """(state, record) of the unpruned network. Its logits are T_0 (METHOD 4)."""
        begin = time.perf_counter()
        order = np.concatenate([np.arange(n, dtype=np.int32) for n in self.sizes])
        (logits,) = self.predict(np.ones((1, len(order)), np.float32))
        rates = (1.0,) * len(self.sizes)
        whole = self.judge(logits, rates, order, logits, "the unpruned network's")
        state = SearchState([whole], logits)
        return state, self.record(state, whole, logits, None, [], begin)

    def judge(self, knowledge, rates, order, logits, whose):
        """The SubNetwork with its loss and its objective.

        Args:
            knowledge: T, float32 [N, classes].
            rates: G floats, of the sub-network.
            order: int32 [F], of the sub-network.
            logits: O, float32 [N, classes].
            whose: the name of the logits in an error message.

        Raises FloatingPointError if the logits are not finite.
        """
        check_finite(logits, whose, "--search_precision")
        loss = objective = self.judgement.loss(self.labels, logits)
        if self.options.teacher != "none":  # METHOD 4: else there is no second term
            # Eq. 7: -R = CE(labels, O) + CE(softmax(T), O)
            objective = loss + self.judgement.agreement(knowledge, logits)
        return SubNetwork(tuple(rates), self.rule.kept(rates), order, loss, objective)

    def importance_of(self, state, sub):
        """Importance of all filters in a sub-network, 0 for dropped ones: float32 [F] (Eq. 9).

        Raises FloatingPointError if it is not finite.
        """
        knowledge = None if self.options.teacher == "none" else state.knowledge
        importance = self.importance(sub.masks(self.sizes), knowledge)
        bad = np.flatnonzero(~np.isfinite(importance))
        if len(bad):
            gate = self.network.gates[np.searchsorted(np.cumsum(self.sizes), bad[0], "right")]
            raise FloatingPointError(
                f"step {len(state.history)}: the scores at gate {gate.name} are not finite; in"
                " float16 or bfloat16, try --search_precision float32"
            )
        return importance

    def take(self, state, chosen, logits):
        """Adds the chosen sub-network to the history, and to T if the teacher is the ensemble."""
        if self.options.teacher == "ensemble":
            # Eq. 8: T is the running mean of the logits of all sub-networks in the history.
            state.knowledge = update_knowledge(state.knowledge, logits, len(state.history))
        state.history.append(chosen)

    def record(self, state, sub, logits, gate, candidates, begin):
        """The line of search.jsonl about the sub-network that was just added to the history.

        Args:
            state: SearchState, with `sub` in its history.
            sub: SubNetwork.
            logits: its logits, float32 [N, classes].
            gate: index of the gate that gave up a slice, or None.
            candidates: indices of the gates whose slices were evaluated.
            begin: time.perf_counter() at the start of the step.
        """
        flops, params = self.network.cost(sub.filters)
        step = len(state.history) - 1
        latency = {}
        if self.times is not None:
            ms = self.ms_of(sub.filters)
            latency = {"latency_ms": ms, "latency_rate": ms / self.ms_of(self.sizes)}
        return {
            "step": step,
            "gate": None if gate is None else self.network.gates[gate].name,
            "widths": list(sub.rates),
            "filters": sub.filters.tolist(),
            "flops": flops,
            "params": params,
            "flops_rate": flops / self.all_flops,
            **latency,
            "loss": sub.loss,
            "accuracy": self.judgement.accuracy(self.labels, logits),
            "score": sub.objective if step else None,
            "candidates": [self.network.gates[i].name for i in candidates],
            "seconds": round(time.perf_counter() - begin, 3),
        }


class Greedy(Search):
    """The paper's search (Algorithm 1, step 4).

    Each step takes the candidate with the lowest objective, until the target is reached.
    """

    def __init__(self, *parts, **settings):
        super().__init__(*parts, **settings)
        self.uses = np.array([gate.uses for gate in self.network.gates])
        # METHOD 3: step_i, the same at every step of the search
        self.steps = slice_steps(self.sizes, self.uses, self.options.step, self.rule.multiple)
        self.slice_ms = None  # METHOD 13: what slices save instead, if they are chosen by time
        if self.options.slice_by == "time":
            whole = [1.0] * len(self.sizes)
            less = [reduced(whole, gate, step) for gate, step in enumerate(self.steps)]
            left = [self.ms_of(self.rule.kept(rates)) for rates in less]
            self.slice_ms = self.ms_of(self.sizes) - float(np.mean(left))

    def steps_of(self, current):
        """float64 [G]: how much the rate of each gate falls in the next slice."""
        if self.slice_ms is None:
            return self.steps
        return steps_by_time(self.ms_of, self.rule, current.rates, self.slice_ms)

    def advance(self, state, bar=Silent):
        """One step of the search; returns its record. bar wraps the list of candidates."""
        begin = time.perf_counter()
        current = state.history[-1]
        importance = self.importance_of(state, current)  # Eq. 9
        order = ranks(importance, self.sizes)
        gates = self.gates_of(current, importance)
        candidates = worth_evaluating(self.options.candidate_filter, gates)
        rates_of = {gate: self.fine(current.rates, gate, gates.steps) for gate in candidates}
        filters = map(self.rule.kept, rates_of.values())
        sub_networks = [masks(self.sizes, kept, order) for kept in filters]
        all_logits = self.predict(np.stack(sub_networks))
        best: tuple[SubNetwork, int, np.ndarray] | None = None
        progress = bar(candidates)
        for gate, logits in zip(progress, all_logits):
            name = self.network.gates[gate].name
            whose = f"step {len(state.history)}, candidate at gate {name}: its"
            sub = self.judge(state.knowledge, rates_of[gate], order, logits, whose)
            # METHOD 4: the candidate with the lowest -R is taken; of equal ones, the first.
            if best is None or sub.objective < best[0].objective:
                best = sub, gate, logits
            progress.show(loss=sub.loss, score=sub.objective, best=best[0].objective)
        assert best is not None  # a search that is not done has candidates
        chosen, gate, logits = best
        self.take(state, chosen, logits)
        return self.record(state, chosen, logits, gate, candidates, begin)

    def gates_of(self, current, importance):
        """Gates of the current sub-network, the input of a candidate filter."""
        steps = self.steps_of(current)
        return Gates(self.rule, self.uses, current.rates, steps, importance, self.flops_of)

    def fine(self, rates, gate, steps):
        """The rates of the candidate at `gate`, G floats (METHOD 3)."""
        return fine_search(self.budget, self.rule, list(rates), gate, steps[gate])


def search_line(record, gates):
    """The console line of one step: gate, FLOPs, loss and accuracy."""
    index = next((i for i, gate in enumerate(gates) if gate.name == record["gate"]), None)
    where = "all gates" if record["step"] else "unpruned"
    if index is not None:
        where = f"{record['gate']} to {record['filters'][index]}/{gates[index].size}"
    time = f"  time {record['latency_rate']:6.2%}" if "latency_rate" in record else ""
    evaluated = f", {len(record['candidates'])} candidates" if record["candidates"] else ""
    evaluated += ", the best so far" if record.get("best") else ""
    return (
        f"  step {record['step']:3d}  {where:32s} FLOPs {record['flops_rate']:6.2%}{time}  loss"
        f" {record['loss']:.4f}  accuracy {record['accuracy']:.2%}{evaluated},"
        f" {duration(record['seconds'])}"
    )
