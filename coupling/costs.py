"""MACs and parameters as functions of the filters kept per gate (METHOD 9)."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one layer. macs: None if there is no rule for the layer."""

    path: str
    kind: str
    macs: int | None
    params: int


class Costs:
    """Arithmetic over widths: no model is run to count.

    Args:
        layers: list of coupling.walk.Visited.
        filters: see coupling.network.KerasNetwork.
        sizes: int [G], filters per gate.
    """

    def __init__(self, layers, filters, sizes):
        self.layers, self.sizes = layers, np.asarray(sizes)
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self._axes = {
            key: {axis: self._along(places, owner) for axis, places in axes.items()}
            for key, axes in filters.items()
        }

    def _along(self, places, owner):
        """(channels that stay, int [G]: places per filter of each gate) along an axis."""
        gated = places[places >= 0]
        per_gate = np.bincount(owner[gated], minlength=len(self.sizes))
        return len(places) - len(gated), per_gate // self.sizes

    def shape(self, variable, filters=None):
        """list of int: the shape of a variable when gate i keeps filters[i] filters."""
        shape = list(variable.shape)
        for axis, (fixed, per_filter) in self._axes[id(variable)].items():
            kept = self.sizes if filters is None else np.asarray(filters)
            shape[axis] = int(fixed + per_filter @ kept)
        return shape

    def layer(self, layer, filters=None):
        """The LayerCost of a Visited."""
        size = lambda weight: math.prod(self.shape(weight.variable, filters))
        macs = sum(size(weight) * factor for weight, factor in layer.macs) if layer.ruled else None
        params = sum(map(size, layer.weights))
        return LayerCost(layer.path, type(layer.layer).__name__, macs, params)

    def by_layer(self, filters=None):
        """list of LayerCost, in the order of the data."""
        return [self.layer(layer, filters) for layer in self.layers]

    def total(self, filters=None):
        """(MACs, parameters) of all layers. A weight that layers share counts once."""
        macs = sum(cost.macs or 0 for cost in self.by_layer(filters))
        shared = {id(w.variable): w.variable for layer in self.layers for w in layer.weights}
        params = sum(math.prod(self.shape(v, filters)) for v in shared.values())
        return macs, params
