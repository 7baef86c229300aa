"""MobileNet-v2 (Sandler et al. 2018) for ImageNet and for 32x32 images, with gates (METHOD 1a).

The stem, every expansion (conv0) and the last convolution own a gate. A depthwise convolution
(conv1) has no filters of its own: it uses the channels of the gate before it. The linear
projections (conv2) of a run of residual blocks add to one stream and share one gate, owned by the
first block of the run. A block without a shortcut starts a new run.
"""

import tensorflow as tf

from nets.batch_norm import BatchNorm
from nets.gates import Gate
from nets.initial import ones, zeros
from nets.network import Network, Part
from nets.parts import ConvPart, Head, constant_of
from nets.tcl import Conv2d, DepthwiseConv2d, same_size
from nets.widths import MOBILENET_LAST, MOBILENET_STAGES, MOBILENET_STEM


class InvertedResidual:
    """Expansion, depthwise convolution and linear projection, plus a shortcut.

    conv0 1x1 to `expansion` times the width, BN, ReLU6; conv1 3x3 depthwise (stride), BN, ReLU6;
    conv2 1x1, BN; plus shortcut. At expansion 1 there is no conv0. There is a shortcut if neither
    the size nor the unpruned width changes; pruned widths may be equal by chance. A block with a
    shortcut that a parameter file has without its convolutions adds a constant (METHOD 13).
    """

    def __init__(
        self, name, arrays, *, in_gate, in_width, in_size, expansion, width, strides, padding
    ):
        """
        Args:
            name: prefix of the layers' names.
            arrays: nets.initial.Arrays.
            in_gate: Gate of the input stream.
            in_width: unpruned channels of the input stream.
            in_size: height and width of the input.
            expansion: factor from `in_width` to the inner width.
            width: unpruned channels of the output stream.
            strides: stride of conv1.
            padding: one of nets.PADDINGS.
        """
        self.width, self.shortcut = width, strides == 1 and in_width == width
        self.out_gate = in_gate if self.shortcut else Gate(f"{name}/conv2")
        self.out_size = same_size(in_size, strides)
        if self.shortcut:
            names = "conv0", "conv1", "conv2"
            at = dict(size=self.out_size, gate=self.out_gate)
            self.constant = constant_of(name, arrays, names, **at)
            if self.constant is not None:
                self.layers, self.gates = [self.constant], []
                return
        self.constant = None
        branch = name if self.shortcut else None
        self.inner_gate = in_gate if expansion == 1 else Gate(f"{name}/conv0", branch)
        self.inner = []
        if expansion > 1:
            into = dict(in_size=in_size, in_gate=in_gate, out_gate=self.inner_gate)
            conv0 = Conv2d(f"{name}/conv0", arrays, 1, in_gate.size, expansion * in_width, **into)
            at = dict(size=in_size, gate=self.inner_gate)
            bn0 = BatchNorm(f"{name}/bn0", arrays, self.inner_gate.size, **at)
            self.inner.append((conv0, bn0))
        into = dict(in_size=in_size, strides=strides, gate=self.inner_gate, padding=padding)
        conv1 = DepthwiseConv2d(f"{name}/conv1", arrays, 3, self.inner_gate.size, **into)
        at = dict(size=self.out_size, gate=self.inner_gate)
        bn1 = BatchNorm(f"{name}/bn1", arrays, self.inner_gate.size, **at)
        self.inner.append((conv1, bn1))
        into = dict(in_size=self.out_size, in_gate=self.inner_gate, out_gate=self.out_gate)
        self.conv2 = Conv2d(f"{name}/conv2", arrays, 1, self.inner_gate.size, width, **into)
        self.conv2.adds = self.shortcut
        for conv, _ in self.inner:
            conv.after = tf.nn.relu6
        # METHOD 1: gamma 0, so that a block with a shortcut starts as the identity.
        into = dict(size=self.out_size, gate=self.out_gate, gamma=zeros if self.shortcut else ones)
        self.bn2 = BatchNorm(f"{name}/bn2", arrays, self.out_gate.size, **into)

        self.layers = [layer for pair in (*self.inner, (self.conv2, self.bn2)) for layer in pair]
        self.gates = [gate for gate in (self.inner_gate, self.out_gate) if gate is not in_gate]

    def __call__(self, x, ctx):
        if self.constant is not None:
            return ctx.observe(self.constant(x, ctx), self.out_gate)
        y = x
        for conv, bn in self.inner:
            # METHOD 1a: masked after conv0's ReLU6, and again after conv1's.
            y = ctx.observe(conv.after(bn(conv(y, ctx), ctx)), self.inner_gate)
        y = self.bn2(self.conv2(y, ctx), ctx)
        # METHOD 1a: masked after the add, or after BN where there is no shortcut.
        return ctx.observe(y + x if self.shortcut else y, self.out_gate)


class MobileNetV2(Network):
    """A stem, stages of inverted residuals, a last 1x1 convolution, a head.

    A width multiplier below 1 leaves the last convolution at MOBILENET_LAST filters.

    Args:
        arch, classes, input_size: see Network.
        arrays: nets.initial.Arrays.
        strides: those of the stem and of the first block of each stage. The networks for 32x32
            images and for ImageNet differ in these alone.
        variant: padding and width_multiplier, see Network.
    """

    def __init__(self, arch, classes, input_size, arrays, *, strides, **variant):
        super().__init__(arch, classes, input_size, **variant)
        width = self.scaled(MOBILENET_STEM)
        common = dict(activation=tf.nn.relu6, padding=self.padding)
        stem = ConvPart(arrays, 3, 3, width, in_size=input_size, strides=strides[0], **common)
        parts: list[Part] = [stem]
        for stage, (expansion, channels, count) in enumerate(MOBILENET_STAGES):
            for number in range(count):
                in_width, width = width, self.scaled(channels)
                block = InvertedResidual(
                    f"InvertedResidual{stage}.{number}",
                    arrays,
                    in_gate=parts[-1].out_gate,
                    in_width=in_width,
                    in_size=parts[-1].out_size,
                    expansion=expansion,
                    width=width,
                    strides=1 if number else strides[1 + stage],
                    padding=self.padding,
                )
                parts.append(block)
        gate, size = parts[-1].out_gate, parts[-1].out_size
        filters = max(MOBILENET_LAST, self.scaled(MOBILENET_LAST))
        at = dict(in_size=size, in_gate=gate, suffix="_last")
        last = ConvPart(arrays, 1, gate.size, filters, **at, **common)
        self._settle([*parts, last, Head(arrays, classes, in_gate=last.out_gate)])
