"""Which gates may give up a slice, which of those are worth evaluating, and how far the last one
goes.
"""

import math

import numpy as np

from ekg.importance import filters_kept, split

FILTERS = ("published", "slice", "per_mac", "per_use", "none")


def slice_steps(sizes, uses, search_step):
    """float64 [G]: by how much a rate falls, max(1 / C, search_step / uses)."""
    return np.maximum(1 / np.asarray(sizes), search_step / np.asarray(uses))


def reduced(rates, gate, step):
    """The rates with one slice less at `gate`: five decimals, never below 0."""
    return [max(0.0, round(rate - step, 5)) if i == gate else rate for i, rate in enumerate(rates)]


def trimmed_otsu(numbers):
    """Otsu's threshold of what is left of `numbers` after trimming a fifth (rounded up) at both
    ends; None under three left.

    The split of the sorted rest into a lower side of t and an upper one of at least two maximises
    w0 * w1 * (m0 - m1)^2, w counts and m means; equal splits: the lowest t. The threshold lies
    midway between the two numbers at the split.
    """
    trim = math.ceil(len(numbers) / 5)
    rest = np.sort(np.asarray(numbers, np.float64))[trim : len(numbers) - trim]
    if len(rest) < 3:
        return None
    low = np.arange(1, len(rest) - 1)
    sums = np.cumsum(rest)[low - 1]
    high = len(rest) - low
    variance = low * high * (sums / low - (rest.sum() - sums) / high) ** 2
    t = low[np.argmax(variance)]
    return (rest[t - 1] + rest[t]) / 2


def filter_numbers(candidate_filter, scores, sizes, rates, steps, saved=None, uses=None):
    """float64 [G]: the importance at stake at each gate, what the threshold is taken of.

    published: the sum of all scores of a gate that is still whole, 0 for one that is already
    reduced. slice: the sum of the scores that would go: sorted ascending, positions round((1 -
    rate) C) to round((1 - rate + step) C). per_mac: that of slice, for every MAC that goes with it:
    saved(rates, gate) -> MACs; 0 where none would, as nothing is lost. per_use: that of slice, for
    every use of the gate, uses int [G]: a score is a sum over uses, each without its sign.
    """
    by_gate = split(scores, sizes)
    if candidate_filter == "published":
        return np.array([gate.sum() if rate == 1 else 0.0 for gate, rate in zip(by_gate, rates)])

    def sum_of_slice(gate, rate, step):
        first, last = (
            round(round(gone * len(gate), 6)) for gone in (1 - rate, 1 - rate + step)
        )  # 6: halves stay halves
        return np.sort(gate)[first:last].sum()

    sums = np.array([sum_of_slice(*at) for at in zip(by_gate, rates, steps)])
    if candidate_filter == "slice":
        return sums
    if candidate_filter == "per_use":
        return sums / uses
    macs = np.array([saved(rates, gate) for gate in range(len(sizes))], np.float64)
    return np.divide(sums, macs, out=np.zeros_like(macs), where=macs > 0)


def worth_evaluating(candidate_filter, scores, sizes, rates, steps, saved=None, uses=None):
    """The gates (ascending indices) whose candidates are evaluated: at or under the trimmed Otsu
    threshold.

    scores: float32 [F]; candidate_filter: one of FILTERS; saved, uses: see filter_numbers. A gate
    at rate 0 is no candidate and no part of the threshold.
    """
    open_gates = [i for i, rate in enumerate(rates) if rate > 0]
    if candidate_filter == "none":
        return open_gates
    numbers = filter_numbers(candidate_filter, scores, sizes, rates, steps, saved, uses)
    threshold = trimmed_otsu(numbers[open_gates])
    return [i for i in open_gates if threshold is None or numbers[i] <= threshold]


def fine_search(flops_of, sizes, rates, gate, step, target_flops):
    """The rates of the candidate at `gate`, refilled if it overshoots.

    flops_of(filters [G]) -> MACs. Where the whole slice takes the network under `target_flops`, the
    widest rate, in steps of one filter from the reduced one, that is at or under it.
    """
    candidate = reduced(rates, gate, step)
    if flops_of(filters_kept(sizes, candidate)) > target_flops:
        return candidate
    best = low = candidate[gate]
    for m in range(math.floor(step * sizes[gate] + 1e-6) + 1):
        rate = round(low + m / sizes[gate], 5)
        wider = [rate if i == gate else r for i, r in enumerate(candidate)]
        if rate <= rates[gate] and flops_of(filters_kept(sizes, wider)) <= target_flops:
            best = rate
    return [best if i == gate else r for i, r in enumerate(candidate)]
