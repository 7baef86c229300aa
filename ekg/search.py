"""Greedy search for a sub-network, guided by the ensemble of its own interim sub-networks (Algorithm 1, steps 3 and 4).

The search sees the network through two functions, `score` and `predict`, and is otherwise arithmetic on rates and orders, so
it can be read, tested and changed without a network.
"""

import dataclasses
import math
import time

import numpy as np

from array_files import load_npz
from ekg.candidates import fine_search, slice_steps, worth_evaluating
from ekg.importance import filters_kept, masks, ranks
from ekg.knowledge import check_finite, cross_entropy, knowledge_loss, update_knowledge
from ekg.progress import Silent
from utils import UserError, whole_file


@dataclasses.dataclass(frozen=True)
class SubNetwork:
    """A sub-network of the supernet: rates, a tuple of G fractions; order, int32 [F]; its cross-entropy on D_val."""

    rates: tuple
    order: np.ndarray
    loss: float


@dataclasses.dataclass
class SearchState:
    """The history, Theta_0 first and the current sub-network last, and the ensemble knowledge T float32 [N, classes].

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
                knowledge=self.knowledge,
                seconds=np.array(self.seconds),
            )

    @classmethod
    def load(cls, path, gates, filters, images, classes):
        """The state of a search over `gates` gates with `filters` filters in all and `images` images in D_val.

        Raises UserError for a file that is none of it.
        """
        try:
            saved = load_npz(path, ("rates", "order", "loss", "knowledge", "seconds"))
            steps = len(saved["rates"])
            shapes = (steps, gates), (steps, filters), (steps,), (images, classes), ()
            for (name, array), shape in zip(saved.items(), shapes):
                if array.shape != shape or array.dtype.kind not in "fi" or not np.isfinite(array).all() or not steps:
                    raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected finite {list(shape)}")
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to search again") from error
        rows = zip(saved["rates"].tolist(), saved["order"], saved["loss"].tolist())
        history = [SubNetwork(tuple(r), order, loss) for r, order, loss in rows]
        return cls(history, saved["knowledge"], float(saved["seconds"]))


class Search:
    """The search of one supernet.

    network: gives gates and costs. labels: int [N] of D_val. score(masks, knowledge) -> float32 [F], importance (Eq. 9) of the
    sub-network; predict(masks [n, F]) yields n times float32 [N, classes], the sub-networks' logits on D_val, batch statistics
    (ekg.validation has both). Raises UserError for a target that one filter a gate does not reach.
    """

    def __init__(self, network, labels, score, predict, options):
        self.network, self.labels, self.score, self.predict, self.options = network, labels, score, predict, options
        self.sizes = network.gate_sizes
        self.steps = slice_steps(self.sizes, [gate.uses for gate in network.gates], options.step)
        self.all_flops = network.cost()[0]
        self.target_flops = options.target_rate * self.all_flops
        check_reachable(network, options.target_rate)

    def flops_of(self, filters):
        return self.network.cost(filters)[0]

    def filters_of(self, sub):
        """int [G]: filters kept at each gate."""
        return filters_kept(self.sizes, sub.rates)

    def masks_of(self, sub):
        return masks(self.sizes, sub.rates, sub.order)

    def start(self):
        """(state, record) with the unpruned network alone: T_0 is its logits."""
        begin = time.perf_counter()
        whole = SubNetwork((1.0,) * len(self.sizes), np.concatenate([np.arange(n, dtype=np.int32) for n in self.sizes]), 0.0)
        (logits,) = self.predict(self.masks_of(whole)[None])
        check_finite(logits, "the unpruned network's")
        whole = dataclasses.replace(whole, loss=cross_entropy(self.labels, logits))
        state = SearchState([whole], logits)
        return state, self._record(state, logits, None, None, [], time.perf_counter() - begin)

    def done(self, state):
        return self.flops_of(self.filters_of(state.history[-1])) <= self.target_flops

    def advance(self, state, bar=Silent):
        """One step: score, evaluate candidates, take the one with the lowest score, let it join T. Gives its record.

        bar wraps the list of candidates to show progress.
        """
        begin = time.perf_counter()
        current = state.history[-1]
        scores = self.score(self.masks_of(current), state.knowledge)
        self._check_scores(scores, len(state.history))
        order = ranks(scores, self.sizes)
        candidates = worth_evaluating(self.options.candidate_filter, scores, self.sizes, current.rates, self.steps)
        rates_of = {gate: self.fine(current.rates, gate) for gate in candidates}
        all_logits = self.predict(np.stack([masks(self.sizes, rates, order) for rates in rates_of.values()]))
        best = None
        progress = bar(candidates)
        for gate, logits in zip(progress, all_logits):
            check_finite(logits, f"step {len(state.history)}, candidate at gate {self.network.gates[gate].name}: its")
            loss = cross_entropy(self.labels, logits)
            value = loss + knowledge_loss(state.knowledge, logits)  # -R of Eq. 7
            if best is None or value < best[0]:
                best = value, gate, SubNetwork(tuple(rates_of[gate]), order, loss), logits
            progress.show(loss=loss, score=value, best=best[0])
        value, gate, chosen, logits = best
        state.knowledge = update_knowledge(state.knowledge, logits, len(state.history))
        state.history.append(chosen)
        return self._record(state, logits, gate, value, candidates, time.perf_counter() - begin)

    def _check_scores(self, scores, step):
        """Raises FloatingPointError for scores, float32 [F], that are not finite; names the gate."""
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            gate = self.network.gates[np.searchsorted(np.cumsum(self.sizes), bad[0], "right")]
            raise FloatingPointError(
                f"step {step}: the scores at gate {gate.name} are not finite; in float16 or bfloat16, try --precision float32"
            )

    def fine(self, rates, gate):
        """The rates of the candidate at `gate`."""
        return fine_search(self.flops_of, self.sizes, list(rates), gate, self.steps[gate], self.target_flops)

    def _record(self, state, logits, gate, score, candidates, seconds):
        chosen = state.history[-1]
        flops, params = self.network.cost(self.filters_of(chosen))
        return {
            "step": len(state.history) - 1,
            "gate": None if gate is None else self.network.gates[gate].name,
            "widths": list(chosen.rates),
            "flops": flops,
            "params": params,
            "flops_rate": flops / self.all_flops,
            "loss": chosen.loss,
            "accuracy": float((logits.argmax(-1) == self.labels).mean()),
            "score": score,
            "candidates": [self.network.gates[i].name for i in candidates],
            "seconds": round(seconds, 3),
        }


def check_reachable(network, target_rate):
    """Raises UserError for a target rate below what one filter a gate leaves."""
    least = network.cost([1] * len(network.gates))[0] / network.cost()[0]
    if target_rate < least:
        enough = math.ceil(least * 1e4) / 1e4
        raise UserError(
            f"--search_target_rate {target_rate:g} is out of reach: one filter a gate leaves that much of the FLOPs of "
            f"{network.arch} that at least {enough} is needed"
        )
