"""ResNets for 32x32 images (He et al. 2016) and for ImageNet's (2015), with a gate wherever filters
can be dropped.

The stem, every block's inner convolutions and every projection (conv3) own a gate. The blocks of a
stage add to one residual stream, so they share the stage's gate: the projection's where there is
one, else the stem's; every conv2 of the stage writes through it.
"""

import tensorflow as tf

from nets.gates import Gate
from nets.initial import zeros
from nets.network import Network
from nets.parts import ConvPart, Head
from nets.tcl import BatchNorm, Conv2d, max_pool, same_size


class PooledStem(ConvPart):
    """7x7 convolution, stride 2, BN, ReLU, 3x3 max pool, stride 2, and the gate behind it: a
    quarter of the image's size.
    """

    def __init__(self, arrays, width, size, padding):
        super().__init__(
            arrays, 7, 3, width, in_size=size, activation=tf.nn.relu, strides=2, padding=padding
        )
        self.padding, self.out_size = padding, same_size(self.out_size, 2)

    def _before_the_gate(self, x, ctx):
        return max_pool(super()._before_the_gate(x, ctx), 3, 2, self.padding)


class Block:
    """Convolutions with BN and ReLU between them, plus shortcut, ReLU; a projection where stride or
    width of the stream change.

    convs: (N of convN, kernel size, filters, strides) in the order of the data. The last one is
    conv2, which writes to the stream; the others own a gate.
    """

    def __init__(self, name, arrays, convs, *, in_gate, in_size, strides, project, padding):
        width = convs[-1][2]
        out_gate = Gate(f"{name}/conv3") if project else in_gate
        # The projection comes first: it settles the stream's width, which conv2 has to meet.
        into = dict(
            in_size=in_size, strides=strides, in_gate=in_gate, out_gate=out_gate, padding=padding
        )
        self.conv3 = (
            Conv2d(f"{name}/conv3", arrays, 1, in_gate.size, width, **into) if project else None
        )
        self.out_size, self.out_gate = same_size(in_size, strides), out_gate
        self.bn3 = (
            BatchNorm(f"{name}/bn3", arrays, out_gate.size, size=self.out_size, gate=out_gate)
            if project
            else None
        )

        self.convs, gate, size = [], in_gate, in_size
        for n, kernel_size, filters, stride in convs:
            last = n == 2
            out = out_gate if last else Gate(f"{name}/conv{n}")
            into = dict(in_size=size, strides=stride, in_gate=gate, out_gate=out, padding=padding)
            conv = Conv2d(f"{name}/conv{n}", arrays, kernel_size, gate.size, filters, **into)
            gate, size = out, conv.out_size
            # gamma 0: a block starts as the identity
            initial = dict(gamma=zeros) if last else {}
            self.convs.append(
                (
                    conv,
                    BatchNorm(f"{name}/bn{n}", arrays, gate.size, size=size, gate=gate, **initial),
                )
            )

        projection = [self.conv3, self.bn3] if project else []
        self.layers = [*projection, *(layer for pair in self.convs for layer in pair)]
        inner = [conv.out_gate for conv, _ in self.convs[:-1]]
        self.gates = [out_gate, *inner] if project else inner

    def __call__(self, x, ctx):
        shortcut, y = self.bn3(self.conv3(x, ctx), ctx) if self.conv3 else x, x
        *inner, (conv2, bn2) = self.convs
        for conv, bn in inner:
            y = ctx.observe(tf.nn.relu(bn(conv(y, ctx), ctx)), conv.out_gate)
        y = bn2(conv2(y, ctx), ctx)
        return ctx.observe(tf.nn.relu(y + shortcut), self.out_gate)


def basic(name, arrays, width, *, strides, **stream):
    """conv1 3x3, which carries the stride, conv2 3x3."""
    return Block(
        name, arrays, [(1, 3, width, strides), (2, 3, width, 1)], strides=strides, **stream
    )


EXPANSION = 4


def bottleneck(name, arrays, width, *, strides, **stream):
    """conv0 1x1, conv1 3x3, which carries the stride, conv2 1x1 to EXPANSION times the width."""
    convs = [(0, 1, width, 1), (1, 3, width, strides), (2, 1, EXPANSION * width, 1)]
    return Block(name, arrays, convs, strides=strides, **stream)


class ResNet(Network):
    """A stem, stages of blocks, a head; every stage but the first begins with stride 2."""

    def _settle_stages(self, stem, arrays, block, blocks, widths, *, project_first):
        """Called once by the subclass. block: `basic` or `bottleneck`; blocks, widths: of each
        stage.
        """
        parts = [stem]
        for stage, (count, width) in enumerate(zip(blocks, widths)):
            for number in range(count):
                last, first = parts[-1], number == 0
                stream = dict(in_gate=last.out_gate, in_size=last.out_size, padding=self.padding)
                stream |= dict(
                    strides=2 if first and stage else 1,
                    project=first and (stage > 0 or project_first),
                )
                parts.append(block(f"BasicBlock{stage}.{number}", arrays, width, **stream))
        self._settle([*parts, Head(arrays, self.classes, in_gate=parts[-1].out_gate)])


class CifarResNet(ResNet):
    """6n + 2 layers: stem, three stages of n = `blocks` blocks with 16, 32 and 64 filters, head.
    variant: as Network's.
    """

    def __init__(self, arch, classes, input_size, arrays, *, blocks, **variant):
        super().__init__(arch, classes, input_size, **variant)
        widths = [self.scaled(width) for width in (16, 32, 64)]
        stem = ConvPart(arrays, 3, 3, widths[0], in_size=input_size, activation=tf.nn.relu)
        self._settle_stages(stem, arrays, basic, [blocks] * 3, widths, project_first=False)


class ImageNetResNet(ResNet):
    """A pooled stem and stages of `blocks` blocks with 64, 128, 256 and 512 filters, times
    EXPANSION behind bottlenecks.

    variant: as Network's.
    """

    def __init__(self, arch, classes, input_size, arrays, *, blocks, bottlenecks=False, **variant):
        super().__init__(arch, classes, input_size, **variant)
        widths, block = (
            [self.scaled(width) for width in (64, 128, 256, 512)],
            bottleneck if bottlenecks else basic,
        )
        stem = PooledStem(arrays, widths[0], input_size, self.padding)
        self._settle_stages(stem, arrays, block, blocks, widths, project_first=bottlenecks)
