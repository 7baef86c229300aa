"""The target of a search: a share of the unpruned network's FLOPs, or of its time (METHOD 13)."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from utils import UserError


@dataclasses.dataclass(frozen=True)
class Budget:
    """The target of a search.

    of: function of filters kept, int [G], to FLOPs or milliseconds.
    whole: of the unpruned network.
    rate: the share of `whole` that may remain.
    name: what is counted, for messages.
    """

    of: Callable[[np.ndarray], float]
    whole: float
    rate: float
    name: str = "FLOPs"

    @property
    def target(self):
        return self.rate * self.whole

    def share(self, filters):
        """The share of the unpruned network's that is left with `filters`, int [G], per gate."""
        return self.of(filters) / self.whole

    def met(self, filters):
        """Whether the search ends (METHOD 0): FLOPs / FLOPs_0 <= search_target_rate."""
        return self.of(filters) <= self.target

    def check_reachable(self, rule, arch):
        """Raises UserError if even the fewest filters exceed the target (METHOD 3).

        rule: FilterRule; arch: name of the network.
        """
        least = self.share(rule.fewest)
        if self.rate < least:
            enough = math.ceil(least * 1e4) / 1e4
            fewest = "one filter per gate leaves"
            if (rule.fewest != 1).any():
                fewest = "the fewest filters that --least_filters and --round_to allow leave"
            raise UserError(
                f"--search_target_rate {self.rate:g} is out of reach: even {fewest} {least:.2%} of"
                f" {arch}'s {self.name}; ask for at least {enough}"
            )


def budget_of(network, options, times=None):
    """The Budget of a search of `network`.

    options: SearchOptions; times: LayerTimes, for a target in time, else None.
    """
    if options.target == "latency":
        of = lambda filters: times.ms(network, filters)
        return Budget(of, times.ms(network), options.target_rate, "predicted time")
    of = lambda filters: network.cost(filters)[0]
    return Budget(of, network.cost()[0], options.target_rate)
