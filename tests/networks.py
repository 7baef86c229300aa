"""Networks for tests: every array random, and random sub-networks of them."""

import numpy as np

from ekg.filter_rule import filters_kept
from ekg.importance import masks


def randomised(parameters, seed):
    """Every array different everywhere, so that no batch norm hides a filter and no block is the
    identity.
    """
    rng = np.random.default_rng(seed)
    for name, array in parameters.items():
        if name.endswith(("gamma:0", "moving_variance:0")):
            parameters[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif "/kernel" not in name:
            parameters[name] = rng.normal(0, 0.1, array.shape).astype(np.float32)
    return parameters


def flat_masks(network, seed):
    """(rates [G], masks [F]) of a random sub-network."""
    rng, sizes = np.random.default_rng(seed), network.gate_sizes
    rates = rng.uniform(0.2, 1, len(sizes))
    return rates, masks(
        sizes, filters_kept(sizes, rates), np.concatenate([rng.permutation(n) for n in sizes])
    )
