"""A Keras model with gates: what nets.network.Network is to the networks of the paper."""

import dataclasses

import numpy as np

from coupling.costs import Costs
from coupling.gates import find_gates
from coupling.graph import as_functional
from coupling.samples import sample_inputs
from coupling.walk import Walk


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Filters of a layer that cannot go.

    layer: its path; count: how many of its `filters`; why: text for the user.
    """

    layer: str
    count: int
    filters: int
    why: str


class KerasNetwork:
    """A Keras model, its gates, and what a number of filters per gate costs.

    Args:
        model: keras.Model: functional, Sequential, or reducible to a functional model.
        input_size: height and width where the model leaves them open; costs depend on it.

    Attributes:
        model: its functional form, which shares the layers.
        gates: list of coupling.gates.KerasGate.
        weights: list of coupling.walk.Weight.
        filters: dict id(variable) -> dict axis -> int [size]: the place of each channel in a flat
            mask, float32 [F], -1 for channels that always stay. Only axes that have others.
        reads: dict id(layer) -> int [channels], the same for the inputs of layers that write gates.
        reshapes: dict id(operation) -> (axis, int [n]), the same for the output of each reshape.
        frozen: list of Frozen, in the order of the data.
        filter_count: number of filters of all layers that have a rule.
    """

    def __init__(self, model, input_size=None):
        self.model = as_functional(model)
        walk = Walk(self.model, sample_inputs(self.model, input_size))
        classes = walk.labels.classes()
        self.gates, filters = find_gates(walk, classes)
        of = lambda labels: filters[classes.number[labels]]
        self.weights = list(walk.weights.values())
        self.filters = {
            key: {a: of(labels) for a, labels in w.labels.items() if (of(labels) >= 0).any()}
            for key, w in walk.weights.items()
        }
        self.reshapes = {key: (axis, of(labels)) for key, (axis, labels) in walk.reshapes.items()}
        self.layers = list(walk.layers.values())
        self.reads = {
            id(visited.layer): of(visited.reads)
            for visited in self.layers
            if visited.reads is not None and (of(visited.reads) >= 0).any()
        }
        self.costs = Costs(self.layers, self.filters, self.gate_sizes)
        self.frozen = list(_frozen(self.layers, classes))
        writes = [write for layer in self.layers for write in layer.writes]
        self.filter_count = sum(weight.variable.shape[axis] for weight, axis in writes)

    @property
    def gate_sizes(self):
        """int64 [G]: filters of each gate."""
        return np.array([gate.size for gate in self.gates], np.int64)

    def cost(self, filters=None):
        """(MACs, parameters) when gate i keeps filters[i] filters (METHOD 9).

        filters: int [G]; None: as the model is. Layers without a rule have no MACs here.
        """
        return self.costs.total(filters)


def _frozen(layers, classes):
    for layer in layers:
        for weight, axis in layer.writes:
            labels = weight.labels[axis]
            for why, count in classes.why(labels).items():
                yield Frozen(layer.path, count, len(labels), why)
