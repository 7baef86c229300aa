"""Layers that can be pruned without editing them: convolutions, fully connected, batch norm.

They get their masks from a `Context` (nets.gates). They compute their multiply-accumulates (MACs)
and parameters at any number of filters by arithmetic alone (METHOD 9).
"""

import tensorflow as tf

from nets.initial import he_normal, normal, ones, zeros
from nets.layer import Layer

BN_EPSILON = 1e-5  # METHOD 1
BN_DECAY = 0.9  # METHOD 1: moving = 0.9 moving + 0.1 batch


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
        self.kernel_size, self.strides = kernel_size, strides
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
        self.strides, self.in_gate, self.out_gate = strides, gate, gate
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


class BatchNorm(Layer):
    """Batch norm over [B, H, W, C], biased variance.

    With batch statistics it only adds them to the Context. The training step calls `move` with the
    statistics of all replicas and accumulated parts. So the moving averages do not change while a
    network is masked (METHOD 1a).
    """

    def __init__(self, name, arrays, channels, *, size, gate=None, gamma=ones):
        """
        Args:
            name: path of the layer.
            arrays: nets.initial.Arrays.
            channels: C.
            size: H and W.
            gate: Gate of the channels, or None.
            gamma: initialiser of gamma, from nets.initial.
        """
        super().__init__(name)
        self.size, self.in_gate, self.out_gate = size, gate, None
        initial = {"gamma": gamma, "beta": zeros, "moving_mean": zeros, "moving_variance": ones}
        for array_name, fill in initial.items():
            value = arrays.take(f"{name}/{array_name}:0", [1, 1, 1, channels], fill)
            self._add(array_name, value, {3: gate}, trainable=not array_name.startswith("moving"))

    def _vector(self, name, ctx):
        return ctx.vector(tf.reshape(self.arrays[name], [-1]), self.in_gate)

    def scale(self, ctx):
        """The factor of the layer with moving averages, float32 [C]."""
        variance = self._vector("moving_variance", ctx)
        return self._vector("gamma", ctx) * tf.math.rsqrt(variance + BN_EPSILON)

    def __call__(self, x, ctx):
        vector = lambda name: self._vector(name, ctx)
        gamma, beta = vector("gamma"), vector("beta")
        if ctx.statistics == "moving":
            return self._fused(x, gamma, beta, vector("moving_mean"), vector("moving_variance")).y
        if ctx.statistics == "folded":  # the convolution before has multiplied by the scale
            shift = beta - vector("moving_mean") * self.scale(ctx)
            return tf.nn.bias_add(x, tf.cast(shift, x.dtype))
        if ctx.merge is not None:
            wide = tf.cast(x, tf.float32)
            mean, variance = ctx.merge(*tf.nn.moments(wide, [0, 1, 2]))
            y = tf.nn.batch_normalization(wide, mean, variance, beta, gamma, BN_EPSILON)
            y = tf.cast(y, x.dtype)
        elif ctx.tape is not None:
            y, mean, variance = self._while_scoring(x, gamma, beta)
        else:
            fused = self._fused(x, gamma, beta)
            n = tf.cast(tf.size(x) / tf.shape(x)[3], tf.float32)
            y, mean = fused.y, fused.batch_mean
            # The kernel's variance is unbiased; METHOD 1 has the biased one.
            variance = fused.batch_variance * (n - 1) / n
        mean, variance = (ctx.per_filter(value, self.in_gate) for value in (mean, variance))
        ctx.batch_statistics.append((mean, variance))
        return y

    @staticmethod
    @tf.custom_gradient
    def _while_scoring(x, gamma, beta):
        """(y, mean, variance) in the arithmetic of the recorded scores; gradient of y for x alone.

        Scores are sums that nearly cancel. A ReLU input that rounds to the other side of 0 changes
        them by up to 1 %, so the forward pass computes moments and normalises. The backward pass
        has no such edge and uses the fused kernel.
        """
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, [0, 1, 2])
        y = tf.nn.batch_normalization(wide, mean, variance, beta, gamma, BN_EPSILON)

        def gradient(dy, *_):
            with tf.GradientTape() as tape:
                tape.watch(x)
                fused = BatchNorm._fused(x, gamma, beta).y
            return tape.gradient(fused, x, dy), None, None

        return (tf.cast(y, x.dtype), mean, variance), gradient

    @staticmethod
    def _fused(x, gamma, beta, mean=None, variance=None):
        """The whole layer in one kernel, a third faster on CPUs than moments and arithmetic.

        Args:
            x: [B, H, W, C].
            gamma, beta: float32 [C].
            mean, variance: float32 [C], the moving averages; None for batch statistics.
        """
        batch, empty = mean is None, tf.zeros([0], tf.float32)
        return tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=empty if batch else mean,
            variance=empty if batch else variance,
            epsilon=BN_EPSILON,
            is_training=batch,
        )

    def move(self, mean, variance, decay=BN_DECAY):
        """moving = decay * moving + (1 - decay) * batch, for float32 [C] batch statistics."""
        for name, batch in (("moving_mean", mean), ("moving_variance", variance)):
            moving = self.arrays[name]
            moving.assign(decay * moving + (1 - decay) * tf.reshape(batch, moving.shape))

    def macs(self, filters=None):
        """Multiply-accumulates per image."""
        # METHOD 9: BN 2*C*H*W (scale and shift)
        return 2 * self.shape("gamma", filters)[3] * self.size**2
