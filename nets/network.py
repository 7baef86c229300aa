"""What every architecture shares: a chain of parts, with their layers and gates, costs and
parameters.
"""

import math

import numpy as np
import tensorflow as tf

from nets.tcl import BatchNorm, Conv2d
from nets.widths import scaled


class Network(tf.Module):
    """A chain of parts, with layers and gates in network order, costs and parameters.

    A part has `layers`, the `gates` it owns, and __call__(x, ctx) -> [B, out_size, out_size,
    out_gate.size], which the next part takes. The last one gives the logits, float32 [B, classes].
    padding: of PADDINGS, for whatever has a stride. width_multiplier: see `scaled`.
    """

    def __init__(self, arch, classes, input_size, padding="SAME", width_multiplier=1.0):
        super().__init__(name=arch.replace("-", "_"))
        self.arch, self.classes, self.input_size = arch, classes, input_size
        self.padding, self.width_multiplier = padding, width_multiplier
        self.parts, self.gates, self.network_layers = [], [], []

    def scaled(self, filters):
        """int: `filters` times the width multiplier, rounded as MobileNets round."""
        return scaled(filters, self.width_multiplier)

    def _settle(self, parts):
        """Called once by the subclass, with all parts in order."""
        self.parts = parts
        self.network_layers = [layer for part in parts for layer in part.layers]
        self.gates = [gate for part in parts for gate in part.gates]
        for index, gate in enumerate(self.gates):
            gate.index = index
            gate.uses = sum(layer.out_gate is gate for layer in self.network_layers)

    def __call__(self, images, ctx):
        """float32 [B, classes], logits of float32 [B, S, S, 3]."""
        x = tf.cast(images, ctx.dtype)
        for part in self.parts:
            x = part(x, ctx)
        return x

    @property
    def first_parts(self):
        """list [G]: of each gate the first part that it changes, which is the one that owns it."""
        return [i for i, part in enumerate(self.parts) for _ in part.gates]

    @property
    def gate_sizes(self):
        """int64 [G]: filters of each gate."""
        return np.array([gate.size for gate in self.gates])

    @property
    def trainable(self):
        """The trainable variables, in network order."""
        return [v for layer in self.network_layers for v in layer.arrays.values() if v.trainable]

    @property
    def batch_norms(self):
        return [layer for layer in self.network_layers if isinstance(layer, BatchNorm)]

    def parameters(self):
        """dict name -> float32 array, as in a parameter file."""
        return {name: variable.numpy() for name, variable in self.variables_by_name().items()}

    def variables_by_name(self):
        """dict name -> variable, in network order."""
        return {
            f"{layer.path}/{name}:0": v
            for layer in self.network_layers
            for name, v in layer.arrays.items()
        }

    def cost(self, filters=None):
        """(MACs, parameters) when gate i keeps filters[i] filters; as it is, if `filters` is None.
        BN counts 2 MACs a value.
        """
        layers = self.network_layers
        return sum(layer.macs(filters) for layer in layers), sum(
            layer.params(filters) for layer in layers
        )

    def moving_averages(self, filters=None):
        """How many of the parameters that cost(filters) counts are moving averages, which others do
        not count.
        """
        averages = ("moving_mean", "moving_variance")
        return sum(
            math.prod(bn.shape(name, filters)) for bn in self.batch_norms for name in averages
        )

    def layer_filters(self, filters=None):
        """dict layer name -> filters of each convolution, in network order, when gate i keeps
        filters[i] filters.

        Depthwise ones are left out: theirs are the filters of the convolution before.
        """
        convs = (layer for layer in self.network_layers if isinstance(layer, Conv2d))
        return {conv.path: conv.shape("kernel", filters)[3] for conv in convs}

    def split_masks(self, flat):
        """The list of masks a Context takes from one float32 [sum of gate sizes]."""
        return tf.split(flat, [gate.size for gate in self.gates])
