"""The base class of all layers: arrays, the gates of their axes, costs."""

import math
import typing

import tensorflow as tf


class Layer(tf.Module):
    """The arrays of a layer and the gates of their axes: enough for masks, costs and extraction.

    arrays: dict array name ('kernel') -> tf.Variable.
    gated: dict array name -> dict axis -> Gate or None.
    path: its name in parameter files.
    out_size: height and width of the output.
    after: function of the output, behind batch norm, to what the next layer reads.
    adds: whether a shortcut is added before `after`.
    """

    filter_axis = -1  # axis of the kernel along which its filters lie

    def __init__(self, name):
        super().__init__(name=name.replace("/", "_").replace(".", "_"))
        self.path = name
        self.arrays, self.gated = {}, {}
        # The batch norm that follows, None for none; set when the network is complete.
        self.norm: typing.Any = None
        self.after: typing.Callable = tf.identity
        self.adds = False

    def _kernel(self, ctx):
        """The kernel in this pass, with the factor of the batch norm behind it if it is folded."""
        kernel = ctx.kernel(self.arrays["kernel"], self.gated["kernel"])
        if ctx.statistics == "folded" and self.norm is not None:
            # (x * k) s = x * (k s), s [C] along the filters
            behind = [1] * (-1 - self.filter_axis)
            kernel = kernel * tf.reshape(self.norm.scale(ctx), [-1, *behind])
        return kernel

    def _add(self, array_name, value, gated, trainable=True):
        """Makes the variable of an array. gated: dict axis -> Gate or None."""
        # All replicas compute the same update, so the value of one replica is kept.
        once = dict(
            synchronization=tf.VariableSynchronization.ON_WRITE,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        variable = tf.Variable(
            value, trainable=trainable, name=f"{self.path}/{array_name}", dtype=tf.float32, **once
        )
        self.arrays[array_name], self.gated[array_name] = variable, gated
        return variable

    def shape(self, array_name, filters=None):
        """Shape of an array when gate i keeps filters[i] filters (None: as it is)."""
        shape = list(self.arrays[array_name].shape)
        for axis, gate in self.gated[array_name].items():
            if gate is not None and filters is not None:
                shape[axis] = int(filters[gate.index])
        return shape

    def params(self, filters=None):
        """Number of parameters, moving averages included (METHOD 9: 4 per BN channel)."""
        return sum(math.prod(self.shape(name, filters)) for name in self.arrays)

    def macs(self, filters=None):
        """Multiply-accumulates per image: every weight of the kernel once per output position."""
        # METHOD 9: conv kh*kw*Cin*Cout*H*W, depthwise kh*kw*C*H*W, FC Cin*Cout
        return math.prod(self.shape("kernel", filters)) * self.out_size**2
