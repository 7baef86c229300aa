"""The base class of all architectures: a chain of parts, their layers, gates, costs, parameters."""

import itertools
import math
import typing

import numpy as np
import tensorflow as tf

from nets.batch_norm import BatchNorm
from nets.gates import Gate
from nets.tcl import Conv2d
from nets.widths import scaled


class Part(typing.Protocol):
    """A link in the chain of a network.

    layers: its layers, in network order.
    gates: the gates that it owns.
    out_gate: the gate of its output.
    out_size: height and width of its output.

    The last part of a network, the head, has no out_gate and no out_size.
    """

    layers: list
    gates: list[Gate]
    out_gate: Gate
    out_size: int

    def __call__(self, x, ctx):
        """[B, out_size, out_size, out_gate.size], the input of the next part. The head: logits."""


class Network(tf.Module):
    """A chain of parts, with layers and gates in network order, costs and parameters.

    Args:
        arch: its name, a key of nets.catalogue.BUILDERS.
        classes: number of classes.
        input_size: height and width of an image.
        padding: one of PADDINGS, for all layers with a stride.
        width_multiplier: see `scaled`.
    """

    def __init__(self, arch, classes, input_size, padding="SAME", width_multiplier=1.0):
        super().__init__(name=arch.replace("-", "_"))
        self.arch, self.classes, self.input_size = arch, classes, input_size
        self.padding, self.width_multiplier = padding, width_multiplier
        self.parts, self.gates, self.network_layers = [], [], []

    @property
    def image_shape(self):
        """(S, S, 3), the shape of an image."""
        return self.input_size, self.input_size, 3

    def scaled(self, filters):
        """int: `filters` times the width multiplier, rounded as MobileNets round."""
        return scaled(filters, self.width_multiplier)

    def _settle(self, parts):
        """Called once by the subclass, with all parts in order."""
        self.parts = parts
        self.network_layers = [layer for part in parts for layer in part.layers]
        for layer, following in itertools.pairwise(self.network_layers):
            if isinstance(following, BatchNorm):
                layer.norm, following.conv = following, layer
        self.gates = [gate for part in parts for gate in part.gates]
        for index, gate in enumerate(self.gates):
            gate.index = index
            # METHOD 1a: uses = convolutions that write through the gate
            gate.uses = sum(layer.out_gate is gate for layer in self.network_layers)

    def __call__(self, images, ctx):
        """Logits, float32 [B, classes], of images, float32 [B, S, S, 3]. ctx: Context."""
        x = tf.cast(images, ctx.dtype)
        for part in self.parts:
            x = part(x, ctx)
        return x

    @property
    def first_parts(self):
        """list [G] of int: the first part that each gate changes, the part that owns it."""
        return [i for i, part in enumerate(self.parts) for _ in part.gates]

    @property
    def gate_sizes(self):
        """int64 [G]: filters of each gate."""
        return np.array([gate.size for gate in self.gates])

    @property
    def branches(self):
        """list [G]: the name of the residual branch that each gate is in, None for none."""
        return [gate.branch for gate in self.gates]

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
        """(MACs, parameters) when gate i keeps filters[i] filters (METHOD 9).

        filters: int [G]; None: as the network is.
        """
        macs = sum(layer.macs(filters) for layer in self.network_layers)
        params = sum(layer.params(filters) for layer in self.network_layers)
        return macs, params

    def moving_averages(self, filters=None):
        """The number of moving averages among the parameters of cost(filters).

        Other programs do not count them as parameters.
        """
        names = "moving_mean", "moving_variance"
        shapes = [bn.shape(name, filters) for bn in self.batch_norms for name in names]
        return sum(map(math.prod, shapes))

    def layer_filters(self, filters=None):
        """dict layer name -> filters of each convolution when gate i keeps filters[i] filters.

        In network order. Depthwise convolutions are left out: they have the filters of the
        convolution before them.
        """
        convs = (layer for layer in self.network_layers if isinstance(layer, Conv2d))
        shapes = {conv.path: conv.shape("kernel", filters) for conv in convs}
        # A convolution without inputs is gone.
        return {name: shape[3] if shape[2] else 0 for name, shape in shapes.items()}

    def split_masks(self, flat):
        """The masks of a Context, a list of float32 [C], from a flat float32 [F]."""
        return tf.split(flat, [gate.size for gate in self.gates])
