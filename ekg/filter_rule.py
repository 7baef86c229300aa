"""How many filters a gate keeps at a rate (METHOD 1a)."""

import math

import numpy as np

SLACK = 0.02  # METHOD 1a: absorbs the rounding of rates to five decimals


def filters_kept(sizes, rates):
    """Filters kept per gate, int64 [G].

    sizes: int [G], filters of each gate; rates: G floats, the share of them that is kept.
    """
    # METHOD 1a: filters kept = max(1, ceil(C * rate - 0.02))
    return np.array([max(1, math.ceil(size * rate - SLACK)) for size, rate in zip(sizes, rates)])


class FilterRule:
    """The rule of a search, for all gates of its supernet.

    sizes: int [G], filters of each gate of the unpruned network.
    """

    def __init__(self, sizes):
        self.sizes = np.asarray(sizes)

    def kept(self, rates):
        """Filters kept per gate, int64 [G]. rates: G floats."""
        return filters_kept(self.sizes, rates)

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
