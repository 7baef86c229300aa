"""The searches by name: the paper's, and two simple ones to compare it with at equal FLOPs."""

import time

import numpy as np

from ekg.candidates import reduced
from ekg.importance import filters_kept, masks, ranks
from ekg.search import Greedy, Search
from engine.console import Silent


class Uniform(Search):
    """Every gate the same rate: it falls by --search_step a step, in the last one to the widest at
    or under the target.
    """

    def advance(self, state, bar=Silent):
        """One step; gives its record. The filters are ranked anew, and the sub-network joins T."""
        begin = time.perf_counter()
        current = state.history[-1]
        order = ranks(self.importance_of(state, current), self.sizes)
        (rate,) = reduced(current.rates[:1], 0, self.options.step)
        rates = (self.widest(rate, current.rates[0]),) * len(self.sizes)
        (logits,) = self.predict(masks(self.sizes, rates, order)[None])
        chosen = self.judge(
            state.knowledge, rates, order, logits, f"step {len(state.history)}: the sub-network's"
        )
        self.take(state, chosen, logits)
        return self.record(state, chosen, logits, None, [], begin)

    def widest(self, rate, most):
        """`rate`; if that reaches the target, the largest rate up to `most` that does."""
        flops_at = lambda rate: self.flops_of(filters_kept(self.sizes, [rate] * len(self.sizes)))
        if flops_at(rate) > self.target_flops:
            return rate
        wider = sorted(
            {round(n / size, 5) for size in set(self.sizes.tolist()) for n in range(1, size + 1)}
        )
        wider = [rate, *(other for other in wider if rate < other <= most)]
        return wider[_last(len(wider), lambda i: flops_at(wider[i]) <= self.target_flops)]


class RandomWidths(Search):
    """The best of --search_samples random width vectors, each scaled to just under the target;
    filters ranked in Theta_0.

    A step draws one. The best so far is the current sub-network, the last of the history; T stays
    T_0, since none is chosen on the way.
    """

    SCALES = 2**40  # of a width vector, between all filters gone and the narrowest gate whole

    def done(self, state):
        whole = len(state.history) == 1
        return super().done(state) if whole else len(state.history) > self.options.samples

    def progress(self, state):
        return (len(state.history) - 1) / self.options.samples

    def advance(self, state, bar=Silent):
        """One more width vector; gives its record, with "best": whether it is the best so far."""
        begin = time.perf_counter()
        count = len(state.history)
        first = count == 1
        order = (
            ranks(self.importance_of(state, state.history[0]), self.sizes)
            if first
            else state.history[-1].order
        )
        rates = self.drawn(count)
        (logits,) = self.predict(masks(self.sizes, rates, order)[None])
        drawn = self.judge(
            state.knowledge, rates, order, logits, f"step {count}: the sub-network's"
        )
        better = first or drawn.objective < state.history[-1].objective
        state.history.insert(count if better else count - 1, drawn)
        return self.record(state, drawn, logits, None, [], begin) | {"best": better}

    def drawn(self, number):
        """The rates of random width vector `number`, which depend on it and the seed alone."""
        shares = np.random.default_rng([self.seed, number]).random(len(self.sizes))
        scaled = lambda k: tuple(
            round(rate, 5)
            for rate in np.minimum(shares * k / self.SCALES / shares.min(), 1).tolist()
        )
        fits = lambda k: self.flops_of(filters_kept(self.sizes, scaled(k))) <= self.target_flops
        return scaled(_last(self.SCALES + 1, fits))


def _last(count, holds):
    """The last of 0 .. count - 1 for which `holds` is true; it is for 0, and up to some number."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


STRATEGIES = {"greedy": Greedy, "uniform": Uniform, "random": RandomWidths}
