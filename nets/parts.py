"""Parts that several architectures share: a convolution with BN and activation, and the head."""

import tensorflow as tf

from nets.batch_norm import BatchNorm, Constant
from nets.gates import Gate
from nets.tcl import FC, Conv2d


def constant_of(name, arrays, convs, *, size, gate):
    """The Constant of a residual block that a parameter file has without its convolutions.

    None if the file has some of them, or if there is no file.

    Args:
        name: prefix of the layers' names.
        arrays: nets.initial.Arrays.
        convs: names of all convolutions of the branch.
        size: height and width of the output.
        gate: Gate of the output.
    """
    kernels, bn = [f"{name}/{conv}/kernel:0" for conv in convs], f"{name}/bn2"
    if arrays.lack(kernels) and not arrays.lack([f"{bn}/beta:0"]):
        return Constant(bn, arrays, gate.size, size=size, gate=gate)
    return None


class ConvPart:
    """Convolution, BN, activation, and the gate that the convolution owns."""

    def __init__(
        self, arrays, kernel_size, channels, filters, *, in_size, activation, suffix="", **conv
    ):
        """
        Args:
            arrays: nets.initial.Arrays.
            kernel_size, channels, filters: see Conv2d.
            in_size: height and width of the input.
            activation: function of a tensor to a tensor.
            suffix: the layers are called conv and bn plus this suffix.
            conv: further arguments of Conv2d.
        """
        self.gate = Gate(f"conv{suffix}")
        into = dict(in_size=in_size, out_gate=self.gate, **conv)
        self.conv = Conv2d(f"conv{suffix}", arrays, kernel_size, channels, filters, **into)
        self.conv.after, self.out_size = activation, self.conv.out_size
        at = dict(size=self.out_size, gate=self.gate)
        self.bn = BatchNorm(f"bn{suffix}", arrays, self.gate.size, **at)
        self.layers, self.gates, self.out_gate = [self.conv, self.bn], [self.gate], self.gate

    def __call__(self, x, ctx):
        return ctx.observe(self.conv.after(self.bn(self.conv(x, ctx), ctx)), self.gate)


class Head:
    """Global mean and fully connected layer."""

    def __init__(self, arrays, classes, *, in_gate):
        self.fc = FC("fc", arrays, in_gate.size, classes, in_gate=in_gate)
        self.layers, self.gates = [self.fc], []

    def __call__(self, x, ctx):
        return self.fc(tf.reduce_mean(tf.cast(x, tf.float32), [1, 2]), ctx)
