"""Candidates of a search step (METHOD 3): the slices to evaluate, and how large each one is.

A candidate filter is a function of `Gates` to float64 [G], one number per gate: the importance at
stake there. Gates at or under the trimmed Otsu threshold of these numbers are evaluated.

To add a candidate filter, write a function in this file under `@candidate_filter`. The flag
--candidate_filter, the ablation table of filters and the tests of all filters then include it.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from ekg.filter_rule import FilterRule
from ekg.importance import split

# A candidate filter: function of Gates to float64 [G], the importance at stake at each gate.
CandidateFilter = Callable[["Gates"], np.ndarray]

FILTERS: dict[str, CandidateFilter] = {}


@dataclasses.dataclass(frozen=True)
class Gates:
    """The G gates of the current sub-network, as a candidate filter sees them.

    rule: FilterRule, how many filters each gate keeps at a rate.
    uses: int [G], convolutions that write through each gate.
    rates: G floats, the share of filters that each gate keeps.
    steps: float [G], how much each rate falls in the next slice; 0: the gate has none.
    importance: float32 [F], of all filters, flat over the gates: Eq. 9, or what --score asks for.
    flops_of: function of filters kept, int [G], to MACs.
    """

    rule: FilterRule
    uses: np.ndarray
    rates: tuple[float, ...]
    steps: np.ndarray
    importance: np.ndarray
    flops_of: Callable[[np.ndarray], int]

    @property
    def sizes(self):
        """int [G]: filters of each gate in the unpruned network."""
        return self.rule.sizes

    @property
    def open(self):
        """Indices of the gates that have a slice to give up."""
        return [gate for gate in self.rule.open_gates(self.rates) if self.steps[gate] > 0]

    @property
    def by_gate(self):
        """The importance of the filters of each gate: G arrays float32 [C]."""
        return split(self.importance, self.sizes)

    @property
    def saved(self):
        """float64 [G]: MACs that the next slice of each gate removes."""
        flops = lambda rates: self.flops_of(self.rule.kept(rates))
        now = flops(self.rates)
        less = [reduced(self.rates, gate, step) for gate, step in enumerate(self.steps)]
        return np.array([now - flops(rates) for rates in less], np.float64)


def candidate_filter(function):
    """Adds `function` to the choices of --candidate_filter, under its own name."""
    FILTERS[function.__name__] = function
    return function


# -------------------------------------------------------------------------------- candidate filters


@candidate_filter
def published(gates):
    """The sum over a whole gate, 0 for a reduced one: what the published runs did (METHOD 3).

    A gate that has been reduced is therefore always evaluated.
    """
    return np.array(
        [gate.sum() if rate == 1 else 0.0 for gate, rate in zip(gates.by_gate, gates.rates)]
    )


@candidate_filter
def slice(gates):
    """The sum over the filters in the slice, as the published code intended (METHOD 3).

    Sorted ascending, the slice is positions round((1 - rate) C) to round((1 - rate + step) C),
    halves to even. Where counts are rounded to multiples, positions follow from the counts.
    """

    def exact(filters, gate):
        # Round to six decimals first, so that a half computed as 0.4999999 still counts as a half.
        position = lambda gone: round(round(gone * len(filters), 6))
        gone = 1 - gates.rates[gate]
        return position(gone), position(gone + gates.steps[gate])

    def rounded(filters, gate):
        rates = gates.rates, reduced(gates.rates, gate, gates.steps[gate])
        return [len(filters) - gates.rule.kept(each)[gate] for each in rates]

    def at_stake(filters, gate):
        first, end = (exact if gates.rule.multiple == 1 else rounded)(filters, gate)
        return np.sort(filters)[first:end].sum()

    return np.array([at_stake(filters, gate) for gate, filters in enumerate(gates.by_gate)])


@candidate_filter
def per_mac(gates):
    """`slice` divided by the MACs that the slice removes; 0 if it removes none."""
    numbers, macs = slice(gates), gates.saved
    return np.divide(numbers, macs, out=np.zeros_like(macs), where=macs > 0)


@candidate_filter
def per_use(gates):
    """`slice` divided by the uses of the gate, because importance is a sum over uses (Eq. 9)."""
    return slice(gates) / gates.uses


@candidate_filter
def none(gates):
    """The same number for every gate, so that every gate is evaluated."""
    return np.zeros(len(gates.steps))


# ----------------------------------------------------------------------------------- the threshold


def worth_evaluating(rule, gates):
    """Indices (ascending) of the gates to evaluate: those at or under the threshold (METHOD 3).

    rule: a key of FILTERS. Gates that cannot give up a slice do not count for the threshold.
    """
    still_open = gates.open
    numbers = FILTERS[rule](gates)[still_open]
    threshold = trimmed_otsu(numbers)
    return [int(i) for i, n in zip(still_open, numbers) if threshold is None or n <= threshold]


def trimmed_otsu(numbers):
    """Otsu's threshold of `numbers`, trimmed by a fifth (rounded up) at both ends (METHOD 3).

    None if fewer than three numbers are left. The sorted numbers are split after the first t, at
    least two on the upper side, where w0 * w1 * (m0 - m1)^2 is largest (w: counts, m: means). The
    threshold is midway between the two numbers at the split.
    """
    trim = math.ceil(len(numbers) / 5)
    rest = np.sort(np.asarray(numbers, np.float64))[trim : len(numbers) - trim]
    if len(rest) < 3:
        return None
    low = np.arange(1, len(rest) - 1)
    sums = np.cumsum(rest)[low - 1]
    high = len(rest) - low
    # METHOD 3: w0 * w1 * (m0 - m1)^2 for every split t
    variance = low * high * (sums / low - (rest.sum() - sums) / high) ** 2
    # Splits that differ only by rounding count as equal, so that all processors pick the lowest t.
    t = low[np.argmax(variance >= variance.max() * (1 - 1e-12))]
    return (rest[t - 1] + rest[t]) / 2


# --------------------------------------------------------------------------------- slices and rates


def slice_steps(sizes, uses, search_step, multiple=1):
    """float64 [G]: how much each rate falls per step.

    METHOD 3: max(1 / C, search_step / uses). METHOD 13: a slice has at least `multiple` filters.
    """
    sizes = np.asarray(sizes)
    least = np.minimum(multiple, sizes) / sizes
    if multiple > 1:
        # Up to five decimals, as rates are rounded: or slices would fall short of a multiple.
        least = np.ceil(least * 1e5 - 1e-6) / 1e5
    return np.maximum(least, search_step / np.asarray(uses))


def steps_by_time(ms_of, rule, rates, wanted):
    """float64 [G]: how much each rate falls for a slice that saves about `wanted` ms (METHOD 13).

    The smallest slice that saves as much, or if the gate has none, the one that saves most. Several
    widths may take the same time: a gate that saves none is left alone, with step 0, as long as
    others save some.

    Args:
        ms_of: function of filters kept, int [G], to milliseconds.
        rule: FilterRule.
        rates: G floats, of the current sub-network.
        wanted: milliseconds.
    """
    filters, fewest, now = rule.kept(rates), rule.fewest, ms_of(rule.kept(rates))
    steps, most = np.zeros(len(rates)), np.full(len(rates), -math.inf)
    for gate in rule.open_gates(rates):
        for count in range(filters[gate] - 1, fewest[gate] - 1, -1):
            if count % rule.multiple and count != fewest[gate]:
                continue
            step = rates[gate] - round(count / int(rule.sizes[gate]), 5)
            saved = now - ms_of(rule.kept(reduced(rates, gate, step)))
            if saved > most[gate]:
                most[gate], steps[gate] = saved, step
            if saved >= wanted:
                break
    return np.where(most > 0, steps, 0) if (most > 0).any() else steps


def reduced(rates, gate, step):
    """The rates after a slice of `gate` (METHOD 1a): round(rate - step, 5), never below 0."""
    return [max(0.0, round(rate - step, 5)) if i == gate else rate for i, rate in enumerate(rates)]


def fine_search(budget, rule, rates, gate, step):
    """The rates of the candidate at `gate`, refilled if its slice reaches the target (METHOD 3).

    Refilling gives back filters one by one, from the reduced rate up, while the network stays at or
    under the target. So the search ends just under it.

    Args:
        budget: ekg.budget.Budget, the target.
        rule: FilterRule.
        rates: list of G rates of the current sub-network.
        gate: index of the gate that gives up the slice.
        step: how much its rate falls.
    """
    candidate = reduced(rates, gate, step)
    if not budget.met(rule.kept(candidate)):
        return candidate
    low = best = candidate[gate]  # m = 0: the reduced rate itself
    size = rule.sizes[gate]
    for m in range(1, math.floor(step * size + 1e-6) + 1):
        rate = round(low + m / size, 5)  # METHOD 3: round(W + m / C, 5)
        wider = [rate if i == gate else r for i, r in enumerate(candidate)]
        if rate <= rates[gate] and budget.met(rule.kept(wider)):
            best = rate
    return [best if i == gate else r for i, r in enumerate(candidate)]
