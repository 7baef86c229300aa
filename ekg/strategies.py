"""The searches by name: the paper's, and two simple ones for comparison at equal FLOPs."""

import time
import typing

import numpy as np

from ekg.candidates import reduced
from ekg.importance import masks, ranks
from ekg.knowledge import OF_CLASSES, Judgement
from ekg.search import Greedy, Importance, Predict, Search
from engine.console import Silent


class Strategy(typing.Protocol):
    """Makes a Search. For the arguments see Search.__init__."""

    def __call__(
        self,
        network,
        labels: np.ndarray,
        importance: Importance,
        predict: Predict,
        options,
        seed: int = 0,
        times=None,
        judgement: Judgement = OF_CLASSES,
    ) -> Search: ...


class Uniform(Search):
    """Gives every gate the same rate, which falls by --search_step per step.

    The last step takes the widest network at or under the target.
    """

    def advance(self, state, bar=Silent):
        """One step; returns its record. Ranks the filters anew and adds the sub-network to T."""
        begin = time.perf_counter()
        current = state.history[-1]
        order = ranks(self.importance_of(state, current), self.sizes)
        rate = self.lower(current)
        rates = (self.widest(rate, current.rates[0]),) * len(self.sizes)
        (logits,) = self.predict(masks(self.sizes, self.rule.kept(rates), order)[None])
        whose = f"step {len(state.history)}: the sub-network's"
        chosen = self.judge(state.knowledge, rates, order, logits, whose)
        self.take(state, chosen, logits)
        return self.record(state, chosen, logits, None, [], begin)

    def lower(self, current):
        """The rate after the next step. One that would change no mask is passed over.

        METHOD 3: the same network would enter the history and the knowledge twice.
        """
        (rate,) = reduced(current.rates[:1], 0, self.options.step)
        while rate > 0 and (self.rule.kept([rate] * len(self.sizes)) == current.filters).all():
            (rate,) = reduced([rate], 0, self.options.step)
        return rate

    def widest(self, rate, most):
        """`rate`, or if it reaches the target, the largest rate up to `most` that reaches it."""
        fits = lambda rate: self.budget.met(self.rule.kept([rate] * len(self.sizes)))
        if not fits(rate):
            return rate
        sizes = set(self.sizes.tolist())
        steps = sorted({round(n / size, 5) for size in sizes for n in range(1, size + 1)})
        wider = [rate, *(other for other in steps if rate < other <= most)]
        return wider[_last(len(wider), lambda i: fits(wider[i]))]


class RandomWidths(Search):
    """The best of --search_samples random width vectors, each scaled to just under the target.

    Filters are ranked in Theta_0. Each step draws one vector. The best sub-network so far is the
    current one, the last of the history. T stays T_0, because no step chooses a sub-network.
    """

    # Scales to choose from for a vector: from all filters dropped to its narrowest gate whole.
    SCALES = 2**40

    def done(self, state):
        whole = len(state.history) == 1
        return super().done(state) if whole else len(state.history) > self.options.samples

    def progress(self, state):
        return (len(state.history) - 1) / self.options.samples

    def advance(self, state, bar=Silent):
        """Tries one more vector; returns its record, with "best": whether it is the best so far."""
        begin = time.perf_counter()
        count = len(state.history)
        first = count == 1
        if first:
            order = ranks(self.importance_of(state, state.history[0]), self.sizes)
        else:
            order = state.history[-1].order
        rates = self.drawn(count)
        (logits,) = self.predict(masks(self.sizes, self.rule.kept(rates), order)[None])
        whose = f"step {count}: the sub-network's"
        drawn = self.judge(state.knowledge, rates, order, logits, whose)
        better = first or drawn.objective < state.history[-1].objective
        state.history.insert(count if better else count - 1, drawn)
        return self.record(state, drawn, logits, None, [], begin) | {"best": better}

    def drawn(self, number):
        """The rates of random width vector `number`; they depend on it and on the seed alone."""
        shares = np.random.default_rng([self.seed, number]).random(len(self.sizes))

        def scaled(k):
            rates = np.minimum(shares * k / self.SCALES / shares.min(), 1)
            return tuple(round(rate, 5) for rate in rates.tolist())

        fits = lambda k: self.budget.met(self.rule.kept(scaled(k)))
        return scaled(_last(self.SCALES + 1, fits))


def _last(count, holds):
    """The last of 0 .. count - 1 where `holds`, by bisection; it must hold for 0 and all before."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


STRATEGIES: dict[str, Strategy] = {"greedy": Greedy, "uniform": Uniform, "random": RandomWidths}
