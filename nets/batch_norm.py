"""Batch norm, and the constant that is left of it behind a convolution without filters."""

import math
import typing

import tensorflow as tf

from nets.initial import ones, zeros
from nets.layer import Layer

BN_EPSILON = 1e-5  # METHOD 1
BN_DECAY = 0.9  # METHOD 1: moving = 0.9 moving + 0.1 batch


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
        # The convolution before it; set when the network is complete.
        self.conv: typing.Any = None
        initial = {"gamma": gamma, "beta": zeros, "moving_mean": zeros, "moving_variance": ones}
        for array_name, fill in initial.items():
            value = arrays.take(f"{name}/{array_name}:0", [1, 1, 1, channels], fill)
            self._add(array_name, value, {3: gate}, trainable=not array_name.startswith("moving"))

    def _vector(self, name, ctx):
        return ctx.vector(tf.squeeze(self.arrays[name], [0, 1, 2]), self.in_gate)

    def scale(self, ctx):
        """The factor of the layer with moving averages, float32 [C]."""
        variance = self._vector("moving_variance", ctx)
        return self._vector("gamma", ctx) * tf.math.rsqrt(variance + BN_EPSILON)

    def __call__(self, x, ctx, constant=None):
        """Returns the batch norm of x plus `constant`, a Constant or None.

        x: [B, H, W, C].
        """
        vector = lambda name: self._vector(name, ctx)
        gamma, beta = vector("gamma"), vector("beta")
        if constant is not None:
            beta += constant.vector(ctx)
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
            n = math.prod(x.shape[:3])
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
            moving.assign(decay * moving + (1 - decay) * batch)  # [1, 1, 1, C] and [C]

    def shape(self, array_name, filters=None):
        """Shape of an array when gate i keeps filters[i] filters (None: as it is).

        METHOD 13: behind a convolution without inputs only beta is left, as a Constant.
        """
        shape = super().shape(array_name, filters)
        gate = self.conv and self.conv.in_gate
        if array_name != "beta" and filters is not None and gate and not filters[gate.index]:
            shape[3] = 0
        return shape

    def macs(self, filters=None):
        """Multiply-accumulates per image."""
        # METHOD 9: BN 2*C*H*W (scale and shift)
        scales, shifts = (self.shape(name, filters)[3] for name in ("gamma", "beta"))
        return (scales + shifts) * self.size**2


class Constant(Layer):
    """All that is left of a residual branch without filters: beta of its last batch norm.

    The convolution before that batch norm outputs 0, and so the batch norm outputs beta
    (METHOD 13).
    """

    def __init__(self, name, arrays, channels, *, size, gate):
        """
        Args:
            name: path of the batch norm.
            arrays: nets.initial.Arrays.
            channels: C.
            size: H and W.
            gate: Gate of the channels.
        """
        super().__init__(name)
        self.size, self.in_gate, self.out_gate = size, gate, None
        self._add("beta", arrays.take(f"{name}/beta:0", [1, 1, 1, channels], zeros), {3: gate})

    def vector(self, ctx):
        """The constant in a pass, float32 [C]."""
        return ctx.vector(tf.squeeze(self.arrays["beta"], [0, 1, 2]), self.in_gate)

    def __call__(self, x, ctx):
        return tf.nn.bias_add(x, tf.cast(self.vector(ctx), x.dtype))

    def macs(self, filters=None):
        """Multiply-accumulates per image."""
        # METHOD 13: C*H*W (shift)
        return self.shape("beta", filters)[3] * self.size**2
