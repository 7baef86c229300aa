"""The convolutions of a network alone, one after another: what bounds its speed."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Everything that the time of a convolution depends on.

    kernel: [h, w, in, out], or [h, w, channels, 1] if depthwise.
    """

    kernel: tuple
    strides: int
    out_size: int
    depthwise: bool

    @property
    def reads(self):
        """(height and width, channels) of the input."""
        return self.out_size * self.strides, self.kernel[2]

    @property
    def writes(self):
        """(height and width, channels) of the output."""
        return self.out_size, self.kernel[2] * self.kernel[3] if self.depthwise else self.kernel[3]

    @property
    def macs(self):
        """Multiply-accumulates per image."""
        return math.prod(self.kernel) * self.out_size**2

    def __call__(self, x, kernel):
        import tensorflow as tf

        if self.depthwise:
            return tf.nn.depthwise_conv2d(x, kernel, [1, self.strides, self.strides, 1], "SAME")
        return tf.nn.conv2d(x, kernel, self.strides, "SAME")


def convolutions(network):
    """The list of Convolution of a network, in network order."""
    from nets.tcl import Conv2d, DepthwiseConv2d

    layers = (
        layer for layer in network.network_layers if isinstance(layer, (Conv2d, DepthwiseConv2d))
    )
    return [
        Convolution(
            tuple(layer.shape("kernel")),
            layer.strides,
            layer.out_size,
            isinstance(layer, DepthwiseConv2d),
        )
        for layer in layers
    ]


def chained(convs, batch):
    """A function that computes all of `convs` for `batch` images in float32, and nothing else.

    Each convolution reads the latest output of the right shape, or random values if there is none,
    for example after a pooling layer.
    """
    import tensorflow as tf

    from engine.latency import normals

    # This scale keeps the variance without batch norm. Trained kernels would give infinite or
    # denormal numbers, which distort the times.
    kernels = [
        normals(conv.kernel, 1 / math.sqrt(math.prod(conv.kernel[: 2 if conv.depthwise else 3])))
        for conv in convs
    ]
    ready, written = {}, set()
    for conv in convs:
        if conv.reads not in written | ready.keys():
            size, channels = conv.reads
            ready[conv.reads] = normals([batch, size, size, channels])
        written.add(conv.writes)

    @tf.function(autograph=False)
    def compute():
        latest, ends = {shape: (None, x) for shape, x in ready.items()}, {}
        for index, (conv, kernel) in enumerate(zip(convs, kernels)):
            read, x = latest[conv.reads]
            ends.pop(read, None)
            ends[index] = y = conv(x, kernel)
            latest[conv.writes] = index, y
        # One value of each output that no convolution reads: so all are computed, without copying
        # whole outputs to the host.
        return tf.concat([y[0, 0, 0, :1] for y in ends.values()], 0)

    return lambda: compute().numpy()


def gflops(convs, batch, ms):
    """10^9 floating-point operations per second; a multiply-accumulate counts as two."""
    return 2 * batch * sum(conv.macs for conv in convs) / ms / 1e6
