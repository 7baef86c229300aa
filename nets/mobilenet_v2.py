"""MobileNet-v2 (Sandler et al. 2018) for ImageNet and for 32x32 images, with a gate wherever
filters can be dropped.

The stem, every expansion (conv0) and the last convolution own a gate. A depthwise convolution
(conv1) has no filters of its own: its channels are those of the gate before it. The linear
projections (conv2) of a run of residual blocks add to one stream and share the gate of the block in
which it begins; a block without a shortcut begins another.
"""

import tensorflow as tf

from nets.gates import Gate
from nets.initial import ones, zeros
from nets.network import Network
from nets.parts import ConvPart, Head
from nets.tcl import BatchNorm, Conv2d, DepthwiseConv2d
from nets.widths import MOBILENET_LAST, MOBILENET_STAGES, MOBILENET_STEM


class InvertedResidual:
    """conv0 1x1 to `expansion` times the width, BN, ReLU6; conv1 3x3 depthwise (stride), BN, ReLU6;
    conv2 1x1, BN, plus shortcut.

    There is no conv0 at expansion 1, and a shortcut where neither size nor width change. in_width,
    width: of the stream before and behind, unpruned. They decide: pruned streams may be as wide as
    each other by chance.
    """

    def __init__(
        self, name, arrays, *, in_gate, in_width, in_size, expansion, width, strides, padding
    ):
        self.width, self.shortcut = width, strides == 1 and in_width == width
        self.out_gate = in_gate if self.shortcut else Gate(f"{name}/conv2")
        self.inner_gate = in_gate if expansion == 1 else Gate(f"{name}/conv0")
        self.inner = []
        if expansion > 1:
            into = dict(in_size=in_size, in_gate=in_gate, out_gate=self.inner_gate)
            conv0 = Conv2d(f"{name}/conv0", arrays, 1, in_gate.size, expansion * in_width, **into)
            self.inner.append(
                (
                    conv0,
                    BatchNorm(
                        f"{name}/bn0",
                        arrays,
                        self.inner_gate.size,
                        size=in_size,
                        gate=self.inner_gate,
                    ),
                )
            )
        into = dict(in_size=in_size, strides=strides, gate=self.inner_gate, padding=padding)
        conv1 = DepthwiseConv2d(f"{name}/conv1", arrays, 3, self.inner_gate.size, **into)
        self.out_size = conv1.out_size
        bn1 = BatchNorm(
            f"{name}/bn1", arrays, self.inner_gate.size, size=self.out_size, gate=self.inner_gate
        )
        self.inner.append((conv1, bn1))
        into = dict(in_size=self.out_size, in_gate=self.inner_gate, out_gate=self.out_gate)
        self.conv2 = Conv2d(f"{name}/conv2", arrays, 1, self.inner_gate.size, width, **into)
        # gamma 0: a block with a shortcut starts as the identity
        into = dict(size=self.out_size, gate=self.out_gate, gamma=zeros if self.shortcut else ones)
        self.bn2 = BatchNorm(f"{name}/bn2", arrays, self.out_gate.size, **into)

        self.layers = [layer for pair in (*self.inner, (self.conv2, self.bn2)) for layer in pair]
        self.gates = [gate for gate in (self.inner_gate, self.out_gate) if gate is not in_gate]

    def __call__(self, x, ctx):
        y = x
        for conv, bn in self.inner:
            y = ctx.observe(tf.nn.relu6(bn(conv(y, ctx), ctx)), self.inner_gate)
        y = self.bn2(self.conv2(y, ctx), ctx)
        return ctx.observe(y + x if self.shortcut else y, self.out_gate)


class MobileNetV2(Network):
    """A stem, stages of inverted residuals, a last 1x1 convolution, a head.

    strides: of the stem and of the first block of each stage, which is all that tells the network
    for 32x32 images, where two of them are 1, from ImageNet's. A width multiplier below 1 leaves
    the last convolution at MOBILENET_LAST. variant: as Network's.
    """

    def __init__(self, arch, classes, input_size, arrays, *, strides, **variant):
        super().__init__(arch, classes, input_size, **variant)
        width, common = (
            self.scaled(MOBILENET_STEM),
            dict(activation=tf.nn.relu6, padding=self.padding),
        )
        parts = [ConvPart(arrays, 3, 3, width, in_size=input_size, strides=strides[0], **common)]
        for stage, ((expansion, channels, count), first) in enumerate(
            zip(MOBILENET_STAGES, strides[1:])
        ):
            for number in range(count):
                stream = dict(
                    in_gate=parts[-1].out_gate,
                    in_width=width,
                    in_size=parts[-1].out_size,
                    padding=self.padding,
                )
                width = self.scaled(channels)
                stream |= dict(expansion=expansion, width=width, strides=1 if number else first)
                parts.append(
                    InvertedResidual(f"InvertedResidual{stage}.{number}", arrays, **stream)
                )
        stream, size = parts[-1].out_gate, parts[-1].out_size
        last = max(MOBILENET_LAST, self.scaled(MOBILENET_LAST))
        parts.append(
            ConvPart(
                arrays, 1, stream.size, last, in_size=size, in_gate=stream, suffix="_last", **common
            )
        )
        self._settle([*parts, Head(arrays, classes, in_gate=parts[-1].out_gate)])
