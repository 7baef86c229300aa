"""ResNets for 32x32 images (He et al. 2016) and for ImageNet (2015), with gates (METHOD 1, 1a).

The stem, the inner convolutions of every block and every projection (conv3) own a gate. The blocks
of a stage add to one residual stream, so they share the stage's gate: that of the projection if the
stage has one, else that of the stem. Every conv2 of the stage writes through it.
"""

import tensorflow as tf

from nets.batch_norm import BatchNorm
from nets.gates import Gate
from nets.initial import zeros
from nets.network import Network
from nets.parts import ConvPart, Head, constant_of
from nets.tcl import Conv2d, max_pool, same_size


class PooledStem(ConvPart):
    """7x7 convolution, stride 2, BN, ReLU; 3x3 max pool, stride 2; then the gate (METHOD 1).

    The output has a quarter of the image's height and width.
    """

    def __init__(self, arrays, width, size, padding):
        pooled = lambda y: max_pool(tf.nn.relu(y), 3, 2, padding)
        into = dict(in_size=size, activation=pooled, strides=2, padding=padding)
        super().__init__(arrays, 7, 3, width, **into)
        self.out_size = same_size(self.out_size, 2)


class Block:
    """A residual block: convolutions with BN and ReLU between them, plus shortcut, ReLU.

    The shortcut is a projection if the stride or the width of the stream changes (METHOD 1). A
    block that a parameter file has without its convolutions adds a constant (METHOD 13).
    """

    def __init__(self, name, arrays, convs, *, in_gate, in_size, strides, project, padding):
        """
        Args:
            name: prefix of the layers' names.
            arrays: nets.initial.Arrays.
            convs: list of (N of convN, kernel size, filters, strides), in the order of the data.
                The last one is conv2, which writes to the stream; the others own a gate.
            in_gate: Gate of the input stream.
            in_size: height and width of the input.
            strides: stride of the block.
            project: whether the shortcut is a projection.
            padding: one of nets.PADDINGS.
        """
        width = convs[-1][2]
        out_gate = Gate(f"{name}/conv3") if project else in_gate
        self.out_size, self.out_gate = same_size(in_size, strides), out_gate
        self.projection = None
        if project:
            # The projection comes first: it decides the width of the stream, which conv2 must have.
            into = dict(in_size=in_size, strides=strides, in_gate=in_gate, out_gate=out_gate)
            into |= dict(padding=padding)
            conv3 = Conv2d(f"{name}/conv3", arrays, 1, in_gate.size, width, **into)
            at = dict(size=self.out_size, gate=out_gate)
            self.projection = conv3, BatchNorm(f"{name}/bn3", arrays, out_gate.size, **at)

        names = [f"conv{n}" for n, *_ in convs]
        at = dict(size=self.out_size, gate=out_gate)
        self.constant = constant_of(name, arrays, names, **at)
        if self.constant is None:
            into = dict(in_gate=in_gate, in_size=in_size, out_gate=out_gate, padding=padding)
            self.convs = self._convolutions(name, arrays, convs, **into)
        else:
            self.convs = []
        of_branch = [layer for pair in self.convs for layer in pair]
        self.layers = [*(self.projection or ()), *(of_branch or [self.constant])]
        inner = [conv.out_gate for conv, _ in self.convs[:-1]]
        # METHOD 1a: the gate order is projection (conv3), conv0, conv1
        self.gates = [out_gate, *inner] if project else inner

    @staticmethod
    def _convolutions(name, arrays, convs, *, in_gate, in_size, out_gate, padding):
        """list of (Conv2d, BatchNorm) of the branch, in the order of the data."""
        made, gate, size = [], in_gate, in_size
        for n, kernel_size, filters, stride in convs:
            last = n == 2
            out = out_gate if last else Gate(f"{name}/conv{n}", branch=name)
            into = dict(in_size=size, strides=stride, in_gate=gate, out_gate=out, padding=padding)
            conv = Conv2d(f"{name}/conv{n}", arrays, kernel_size, gate.size, filters, **into)
            conv.after, conv.adds = tf.nn.relu, last
            gate, size = out, conv.out_size
            # METHOD 1: gamma 0, so that a block starts as the identity.
            initial = dict(gamma=zeros) if last else {}
            bn = BatchNorm(f"{name}/bn{n}", arrays, gate.size, size=size, gate=gate, **initial)
            made.append((conv, bn))
        return made

    def __call__(self, x, ctx):
        y = shortcut = x
        if self.projection is not None:
            conv3, bn3 = self.projection
            y = shortcut = bn3(conv3(x, ctx), ctx, self.constant)
        elif self.constant is not None:
            y = self.constant(x, ctx)
        if self.convs:
            y = self._branch(x, ctx) + shortcut
        # METHOD 1a: masked after the add and ReLU; the output of the projection alone is not.
        return ctx.observe(tf.nn.relu(y), self.out_gate)

    def _branch(self, x, ctx):
        *inner, (conv2, bn2) = self.convs
        for conv, bn in inner:
            x = ctx.observe(conv.after(bn(conv(x, ctx), ctx)), conv.out_gate)
        return bn2(conv2(x, ctx), ctx)


def basic(name, arrays, width, *, strides, **stream):
    """A block of conv1 3x3, which has the stride, and conv2 3x3."""
    convs = [(1, 3, width, strides), (2, 3, width, 1)]
    return Block(name, arrays, convs, strides=strides, **stream)


EXPANSION = 4  # of a bottleneck's conv2


def bottleneck(name, arrays, width, *, strides, **stream):
    """A block of conv0 1x1, conv1 3x3 with the stride, conv2 1x1 to EXPANSION times the width."""
    convs = [(0, 1, width, 1), (1, 3, width, strides), (2, 1, EXPANSION * width, 1)]
    return Block(name, arrays, convs, strides=strides, **stream)


class ResNet(Network):
    """A stem, stages of blocks, a head; every stage except the first starts with stride 2."""

    def _settle_stages(self, stem, arrays, block, blocks, widths, *, project_first):
        """Adds all parts. The subclass calls it once.

        Args:
            stem: the first part.
            arrays: nets.initial.Arrays.
            block: `basic` or `bottleneck`.
            blocks: number of blocks of each stage.
            widths: width of each stage, before EXPANSION.
            project_first: whether the first stage has a projection.
        """
        parts = [stem]
        for stage, (count, width) in enumerate(zip(blocks, widths)):
            for number in range(count):
                first = number == 0
                one = block(
                    f"BasicBlock{stage}.{number}",
                    arrays,
                    width,
                    in_gate=parts[-1].out_gate,
                    in_size=parts[-1].out_size,
                    strides=2 if first and stage > 0 else 1,
                    project=first and (stage > 0 or project_first),
                    padding=self.padding,
                )
                parts.append(one)
        self._settle([*parts, Head(arrays, self.classes, in_gate=parts[-1].out_gate)])


class CifarResNet(ResNet):
    """6n + 2 layers: stem, three stages of n blocks with 16, 32 and 64 filters, head (METHOD 1).

    Args:
        arch, classes, input_size: see Network.
        arrays: nets.initial.Arrays.
        blocks: n.
        variant: padding and width_multiplier, see Network.
    """

    def __init__(self, arch, classes, input_size, arrays, *, blocks, **variant):
        super().__init__(arch, classes, input_size, **variant)
        widths = [self.scaled(width) for width in (16, 32, 64)]
        stem = ConvPart(arrays, 3, 3, widths[0], in_size=input_size, activation=tf.nn.relu)
        self._settle_stages(stem, arrays, basic, [blocks] * 3, widths, project_first=False)


class ImageNetResNet(ResNet):
    """A pooled stem, four stages of blocks with 64, 128, 256 and 512 filters, head (METHOD 1).

    With bottlenecks the outputs of the stages have EXPANSION times as many channels.

    Args:
        arch, classes, input_size: see Network.
        arrays: nets.initial.Arrays.
        blocks: number of blocks of each stage.
        bottlenecks: whether blocks are bottlenecks.
        variant: padding and width_multiplier, see Network.
    """

    def __init__(self, arch, classes, input_size, arrays, *, blocks, bottlenecks=False, **variant):
        super().__init__(arch, classes, input_size, **variant)
        widths = [self.scaled(width) for width in (64, 128, 256, 512)]
        block = bottleneck if bottlenecks else basic
        stem = PooledStem(arrays, widths[0], input_size, self.padding)
        self._settle_stages(stem, arrays, block, blocks, widths, project_first=bottlenecks)
