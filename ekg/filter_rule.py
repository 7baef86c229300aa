"""How many filters a gate keeps at a rate (METHOD 1a and 13)."""

import math

import numpy as np

SLACK = 0.02  # METHOD 1a: absorbs the rounding of rates to five decimals


def filters_kept(sizes, rates, least=1, multiple=1):
    """Filters kept per gate, int64 [G].

    Args:
        sizes: int [G], filters of each gate.
        rates: G floats, the share of them that is kept.
        least: int, or int [G]: how many are kept at rate 0, as far as a gate has them.
        multiple: int; counts are multiples of it, or all filters of the gate.
    """
    # METHOD 1a: filters kept = max(1, ceil(C * rate - 0.02)); METHOD 13: max(least_filters, ...)
    counts = np.array([math.ceil(size * rate - SLACK) for size, rate in zip(sizes, rates)])
    counts = np.maximum(counts, least)
    # METHOD 13: min(C, N * ceil(kept / N))
    return np.minimum(sizes, -(-counts // multiple) * multiple)


class FilterRule:
    """The rule of a search, for all gates of its supernet.

    Args:
        sizes: int [G], filters of each gate of the unpruned network.
        branches: G names, the residual branch that each gate is in (nets.gates.Gate), or None for
            gates in none. None: no gate is in any.
        least: how many filters a gate in a branch keeps at least. Others keep one.
        multiple: see filters_kept.
    """

    def __init__(self, sizes, branches=None, least=1, multiple=1):
        self.sizes, self.multiple = np.asarray(sizes), multiple
        self.branches = branches or [None] * len(self.sizes)
        self.least = np.array([1 if branch is None else least for branch in self.branches])

    @classmethod
    def of(cls, network, options):
        """The rule for `network` that SearchOptions ask for."""
        return cls(network.gate_sizes, network.branches, options.least_filters, options.round_to)

    def kept(self, rates):
        """Filters kept per gate, int64 [G]. rates: G floats.

        METHOD 13: where one gate of a branch keeps no filter, the others keep none either.
        """
        counts = filters_kept(self.sizes, rates, self.least, self.multiple)
        if not counts.all():
            gone = {self.branches[gate] for gate in np.flatnonzero(counts == 0)}
            counts[[branch in gone for branch in self.branches]] = 0
        return counts

    @property
    def fewest(self):
        """int64 [G]: filters kept at rate 0."""
        return self.kept(np.zeros(len(self.sizes)))

    def open_gates(self, rates):
        """Indices of the gates that can give up a slice: those that keep more than the fewest.

        METHOD 3: a slice of any other gate would change no mask, so the same network would enter
        the history and the knowledge twice.
        """
        return np.flatnonzero(self.kept(rates) > self.fewest)
