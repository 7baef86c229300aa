"""The search for a sub-network, guided by the ensemble of its own interim sub-networks (Algorithm
1, steps 3 and 4).

A search sees the network through two functions, `score` and `predict`, and is otherwise arithmetic
on rates and orders, so it can be read, tested and changed without a network. `Greedy` is the
paper's; ekg.strategies has what it is compared with.
"""

import dataclasses
import math
import time

import numpy as np

from ekg.candidates import fine_search, reduced, slice_steps, worth_evaluating
from ekg.importance import filters_kept, masks, ranks
from ekg.knowledge import cross_entropy, knowledge_loss, update_knowledge
from engine.console import Silent, duration
from engine.logits import check_finite
from files.npz import load_npz
from utils import UserError, whole_file


@dataclasses.dataclass(frozen=True)
class SubNetwork:
    """A sub-network of the supernet: rates, a tuple of G fractions; order, int32 [F]; what it
    reached on D_val.

    loss: its cross-entropy; score: -R of Eq. 7 against the T it was compared by, lower is better.
    """

    rates: tuple
    order: np.ndarray
    loss: float
    score: float

    def filters(self, sizes):
        """int [G]: filters kept at each gate. sizes: int [G]."""
        return filters_kept(sizes, self.rates)

    def masks(self, sizes):
        """float32 [F]: 1 for the filters kept."""
        return masks(sizes, self.rates, self.order)


@dataclasses.dataclass
class SearchState:
    """The history, Theta_0 first and the current sub-network last, and the knowledge T float32 [N,
    classes].

    seconds: how long the search took so far, for whoever keeps a state.
    """

    history: list
    knowledge: np.ndarray
    seconds: float = 0.0

    def save(self, path):
        with whole_file(path) as file:
            np.savez(
                file,
                rates=np.array([s.rates for s in self.history]),
                order=np.stack([s.order for s in self.history]),
                loss=np.array([s.loss for s in self.history]),
                score=np.array([s.score for s in self.history]),
                knowledge=self.knowledge,
                seconds=np.array(self.seconds),
            )

    @classmethod
    def load(cls, path, gates, filters, images, classes):
        """The state of a search over `gates` gates with `filters` filters in all and `images`
        images in D_val.

        Raises UserError for a file that is none of it.
        """
        try:
            saved = load_npz(path, ("rates", "order", "loss", "score", "knowledge", "seconds"))
            steps = len(saved["rates"])
            shapes = (steps, gates), (steps, filters), (steps,), (steps,), (images, classes), ()
            for (name, array), shape in zip(saved.items(), shapes):
                if (
                    array.shape != shape
                    or array.dtype.kind not in "fi"
                    or not np.isfinite(array).all()
                    or not steps
                ):
                    raise ValueError(
                        f"{name} is {array.dtype} {list(array.shape)}, expected finite"
                        f" {list(shape)}"
                    )
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to search again") from error
        rows = zip(
            saved["rates"].tolist(), saved["order"], saved["loss"].tolist(), saved["score"].tolist()
        )
        history = [SubNetwork(tuple(r), order, loss, score) for r, order, loss, score in rows]
        return cls(history, saved["knowledge"], float(saved["seconds"]))


class Search:
    """What every search of a supernet shares; a strategy adds advance(state, bar) -> record, one
    step.

    network: gives gates and costs. labels: int [N] of D_val. score(masks, knowledge) -> float32
    [F], importance of the sub-network's filters (ekg.scores); predict(masks [n, F]) yields n times
    float32 [N, classes], the sub-networks' logits on D_val, batch statistics (ekg.validation).
    knowledge is T, or None where the search has no teacher. options: SearchOptions; seed: of what a
    strategy draws. Raises UserError for a target that one filter a gate does not reach.
    """

    def __init__(self, network, labels, score, predict, options, seed=0):
        self.network, self.labels, self.score, self.predict = network, labels, score, predict
        self.options, self.seed = options, seed
        self.sizes = network.gate_sizes
        self.all_flops = network.cost()[0]
        self.target_flops = options.target_rate * self.all_flops
        check_reachable(network, options.target_rate)

    def flops_of(self, filters):
        return self.network.cost(filters)[0]

    def current_flops(self, state):
        return self.flops_of(state.history[-1].filters(self.sizes))

    def left(self, state):
        """The share of FLOPs that the current sub-network leaves."""
        return self.current_flops(state) / self.all_flops

    def done(self, state):
        return self.current_flops(state) <= self.target_flops

    def progress(self, state):
        """How far a search that is not done is, 0 to 1."""
        return (1 - self.left(state)) / (1 - self.options.target_rate)

    def start(self):
        """(state, record) with the unpruned network alone: T_0 is its logits."""
        begin = time.perf_counter()
        order = np.concatenate([np.arange(n, dtype=np.int32) for n in self.sizes])
        (logits,) = self.predict(np.ones((1, len(order)), np.float32))
        whole = self.judge(
            logits, (1.0,) * len(self.sizes), order, logits, "the unpruned network's"
        )
        state = SearchState([whole], logits)
        return state, self.record(state, whole, logits, None, [], begin)

    def judge(self, knowledge, rates, order, logits, whose):
        """The SubNetwork of these logits, judged against T, `knowledge`. Raises FloatingPointError
        where they are not finite.
        """
        check_finite(logits, whose, "--search_precision")
        loss = cross_entropy(self.labels, logits)
        taught = 0.0 if self.options.teacher == "none" else knowledge_loss(knowledge, logits)
        return SubNetwork(tuple(rates), order, loss, loss + taught)  # -R of Eq. 7

    def scores_of(self, state, sub):
        """float32 [F]: importance of the filters of a sub-network. Raises FloatingPointError where
        it is not finite.
        """
        scores = self.score(
            sub.masks(self.sizes), None if self.options.teacher == "none" else state.knowledge
        )
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            gate = self.network.gates[np.searchsorted(np.cumsum(self.sizes), bad[0], "right")]
            raise FloatingPointError(
                f"step {len(state.history)}: the scores at gate {gate.name} are not finite; in"
                " float16 or bfloat16, try --search_precision float32"
            )
        return scores

    def take(self, state, chosen, logits):
        """The chosen sub-network goes on the history, and joins T where the teacher is the ensemble
        (Eq. 8).
        """
        if self.options.teacher == "ensemble":
            state.knowledge = update_knowledge(state.knowledge, logits, len(state.history))
        state.history.append(chosen)

    def record(self, state, sub, logits, gate, candidates, begin):
        """A line of search.jsonl on a sub-network that has just joined the history. gate: index of
        the one that gave a slice, or None; candidates: indices of the gates whose slices were
        evaluated; begin: time.perf_counter() when the step began.
        """
        flops, params = self.network.cost(sub.filters(self.sizes))
        step = len(state.history) - 1
        return {
            "step": step,
            "gate": None if gate is None else self.network.gates[gate].name,
            "widths": list(sub.rates),
            "flops": flops,
            "params": params,
            "flops_rate": flops / self.all_flops,
            "loss": sub.loss,
            "accuracy": float((logits.argmax(-1) == self.labels).mean()),
            "score": sub.score if step else None,
            "candidates": [self.network.gates[i].name for i in candidates],
            "seconds": round(time.perf_counter() - begin, 3),
        }


class Greedy(Search):
    """The paper's search: the slice goes whose loss leaves the lowest score, until the target is
    reached.
    """

    def __init__(self, *parts, **settings):
        super().__init__(*parts, **settings)
        self.uses = np.array([gate.uses for gate in self.network.gates])
        self.steps = slice_steps(self.sizes, self.uses, self.options.step)

    def advance(self, state, bar=Silent):
        """One step: score, evaluate candidates, take the one with the lowest score, let it join T.
        Gives its record.

        bar wraps the list of candidates to show progress.
        """
        begin = time.perf_counter()
        current = state.history[-1]
        scores = self.scores_of(state, current)
        order = ranks(scores, self.sizes)
        candidates = self.candidates_of(current, scores)
        rates_of = {gate: self.fine(current.rates, gate) for gate in candidates}
        all_logits = self.predict(
            np.stack([masks(self.sizes, rates, order) for rates in rates_of.values()])
        )
        best = None
        progress = bar(candidates)
        for gate, logits in zip(progress, all_logits):
            whose = (
                f"step {len(state.history)}, candidate at gate {self.network.gates[gate].name}: its"
            )
            sub = self.judge(state.knowledge, rates_of[gate], order, logits, whose)
            if best is None or sub.score < best[0].score:
                best = sub, gate, logits
            progress.show(loss=sub.loss, score=sub.score, best=best[0].score)
        chosen, gate, logits = best
        self.take(state, chosen, logits)
        return self.record(state, chosen, logits, gate, candidates, begin)

    def candidates_of(self, current, scores):
        """The gates (ascending indices) whose slices are evaluated, by the scores float32 [F] of
        the current sub-network.
        """
        rule = self.options.candidate_filter
        return worth_evaluating(
            rule, scores, self.sizes, current.rates, self.steps, self.saved, self.uses
        )

    def saved(self, rates, gate):
        """MACs that go with the next slice of `gate`."""
        less = reduced(rates, gate, self.steps[gate])
        return self.flops_of(filters_kept(self.sizes, rates)) - self.flops_of(
            filters_kept(self.sizes, less)
        )

    def fine(self, rates, gate):
        """The rates of the candidate at `gate`."""
        return fine_search(
            self.flops_of, self.sizes, list(rates), gate, self.steps[gate], self.target_flops
        )


def check_reachable(network, target_rate):
    """Raises UserError for a target rate below what one filter a gate leaves."""
    least = network.cost([1] * len(network.gates))[0] / network.cost()[0]
    if target_rate < least:
        enough = math.ceil(least * 1e4) / 1e4
        raise UserError(
            f"--search_target_rate {target_rate:g} is out of reach: one filter a gate leaves that"
            f" much of the FLOPs of {network.arch} that at least {enough} is needed"
        )


def search_line(record, gates):
    """One line a step: what was cut, what is left, how good it is."""
    index = next((i for i, gate in enumerate(gates) if gate.name == record["gate"]), None)
    where = "all gates" if record["step"] else "unpruned"
    if index is not None:
        size = gates[index].size
        where = f"{record['gate']} to {filters_kept([size], [record['widths'][index]])[0]}/{size}"
    evaluated = f", {len(record['candidates'])} candidates" if record["candidates"] else ""
    evaluated += ", the best so far" if record.get("best") else ""
    return (
        f"  step {record['step']:3d}  {where:32s} FLOPs {record['flops_rate']:6.2%}  loss"
        f" {record['loss']:.4f}  accuracy {record['accuracy']:.2%}{evaluated},"
        f" {duration(record['seconds'])}"
    )
