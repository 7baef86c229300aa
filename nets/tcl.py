"""Layers that can be pruned without editing them: convolutions and fully connected.

They get their masks from a `Context` (nets.gates). They compute their multiply-accumulates (MACs)
and parameters at any number of filters by arithmetic alone (METHOD 9).
"""

import tensorflow as tf

from nets.initial import he_normal, normal, zeros
from nets.layer import Layer


def same_size(size, strides):
    """Height or width after a convolution with an odd kernel size, with either padding."""
    return -(-size // strides)


def conv_padding(padding, kernel_size, strides):
    """The `padding` of tf.nn.conv2d for one of PADDINGS; they differ only at strides above 1."""
    if padding == "SAME" or strides == 1 or kernel_size == 1:
        return "SAME"
    return [[0, 0], [kernel_size // 2] * 2, [kernel_size // 2] * 2, [0, 0]]


def max_pool(x, size, strides, padding):
    """Max pool of [B, H, W, C]. Values must be 0 or more, as after ReLU.

    For such values a border of 0 is the same as one of -inf.
    """
    pads = conv_padding(padding, size, strides)
    if pads != "SAME":  # tf.nn.max_pool2d takes these too, but XLA does not
        x, pads = tf.pad(x, pads), "VALID"
    return tf.nn.max_pool2d(x, size, strides, pads)


class Conv2d(Layer):
    """Convolution without bias: [B, H, W, in] -> [B, H / strides, W / strides, out], rounded up.

    The first convolution that writes through `out_gate` sets its size: `filters`, or the number in
    the parameter file.
    """

    def __init__(
        self,
        name,
        arrays,
        kernel_size,
        channels,
        filters,
        *,
        in_size,
        strides=1,
        in_gate=None,
        out_gate=None,
        padding="SAME",
    ):
        """
        Args:
            name: path of the layer.
            arrays: nets.initial.Arrays.
            kernel_size: height and width of the kernel.
            channels: input channels.
            filters: output channels, if `out_gate` has no size yet.
            in_size: height and width of the input.
            strides: stride in both directions.
            in_gate: Gate of the input, or None.
            out_gate: Gate of the output, or None.
            padding: one of nets.PADDINGS.
        """
        super().__init__(name)
        self.kernel_size, self.strides, self.in_size = kernel_size, strides, in_size
        self.in_gate, self.out_gate = in_gate, out_gate
        self.padding = conv_padding(padding, kernel_size, strides)
        self.out_size = same_size(in_size, strides)
        settled = out_gate is None or out_gate.size is not None
        if out_gate is not None and settled:
            filters = out_gate.size
        shape = [kernel_size, kernel_size, channels, filters]
        value = arrays.take(f"{name}/kernel:0", shape, he_normal, free=None if settled else 3)
        self.kernel = self._add("kernel", value, {2: in_gate, 3: out_gate})
        if out_gate is not None:
            out_gate.size = self.kernel.shape[3]

    @property
    def filters(self):
        return self.kernel.shape[3]

    def __call__(self, x, ctx):
        strides = self.strides
        if self.kernel_size == 1 and strides > 1:
            # The same numbers, to the bit. With strides, oneDNN's gradient of a 1x1 kernel writes
            # outside its memory if there are few input channels (uxlfoundation/oneDNN#6035): with
            # AVX-512 below 16, with AVX2 below 8.
            x, strides = x[:, ::strides, ::strides], 1
        return tf.nn.conv2d(x, tf.cast(self._kernel(ctx), x.dtype), strides, self.padding)


class DepthwiseConv2d(Layer):
    """Depthwise convolution without bias. One gate owns both its inputs and its outputs."""

    filter_axis = -2  # kernels are [kh, kw, C, 1]

    def __init__(
        self, name, arrays, kernel_size, channels, *, in_size, strides=1, gate=None, padding="SAME"
    ):
        """
        Args:
            name: path of the layer.
            arrays: nets.initial.Arrays.
            kernel_size: height and width of the kernel.
            channels: input and output channels.
            in_size: height and width of the input.
            strides: stride in both directions.
            gate: Gate of the channels, or None.
            padding: one of nets.PADDINGS.
        """
        super().__init__(name)
        self.padding = conv_padding(padding, kernel_size, strides)
        self.kernel_size, self.strides, self.in_size = kernel_size, strides, in_size
        self.in_gate = self.out_gate = gate
        self.out_size = same_size(in_size, strides)
        value = arrays.take(f"{name}/kernel:0", [kernel_size, kernel_size, channels, 1], he_normal)
        self.kernel = self._add("kernel", value, {2: gate})

    def __call__(self, x, ctx):
        strides = [1, self.strides, self.strides, 1]
        return tf.nn.depthwise_conv2d(x, tf.cast(self._kernel(ctx), x.dtype), strides, self.padding)


class FC(Layer):
    """Fully connected layer with bias: [B, in] -> float32 [B, classes].

    It always computes in float32, which costs almost nothing.
    """

    def __init__(self, name, arrays, channels, classes, *, in_gate=None):
        """
        Args:
            name: path of the layer.
            arrays: nets.initial.Arrays.
            channels: number of inputs.
            classes: number of outputs.
            in_gate: Gate of the input, or None.
        """
        super().__init__(name)
        self.in_gate, self.out_gate, self.out_size = in_gate, None, 1
        kernel = arrays.take(f"{name}/kernel:0", [channels, classes], normal)
        biases = arrays.take(f"{name}/biases:0", [1, classes], zeros)
        self.kernel = self._add("kernel", kernel, {0: in_gate})
        self.biases = self._add("biases", biases, {})

    def __call__(self, x, ctx):
        return tf.cast(x, tf.float32) @ self._kernel(ctx) + self.biases
