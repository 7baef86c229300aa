"""ResNets of basic blocks for 32x32 images (He et al. 2016), with a gate wherever filters can be dropped.

The stem, every block's conv1 and every projection (conv3) own a gate. The blocks of a stage add to one residual stream, so
they share the stage's gate: the projection's where there is one, else the stem's; every conv2 of the stage writes through it.
"""

import tensorflow as tf

from nets.initial import zeros
from nets.tcl import FC, BatchNorm, Conv2d, Gate, Network, same_size


class Stem:
    """3x3 convolution, BN, ReLU; its gate is the first stage's stream."""

    def __init__(self, arrays, width, size):
        self.gate = Gate("conv")
        self.conv = Conv2d("conv", arrays, 3, 3, width, in_size=size, out_gate=self.gate)
        self.bn = BatchNorm("bn", arrays, self.conv.filters, size=size, gate=self.gate)
        self.layers, self.gates, self.out_gate, self.out_size = [self.conv, self.bn], [self.gate], self.gate, size

    def __call__(self, x, run):
        return run.gate(tf.nn.relu(self.bn(self.conv(x, run), run)), self.gate)


class BasicBlock:
    """conv1, BN, ReLU, conv2, BN, plus shortcut, ReLU; a projection is the shortcut where stride or width change."""

    def __init__(self, name, arrays, width, *, in_gate, in_size, strides, project):
        out_gate = Gate(f"{name}/conv3") if project else in_gate
        into = dict(channels=in_gate.size, filters=width, in_size=in_size, strides=strides, in_gate=in_gate)
        # The projection comes first: it settles the stream's width, which conv2 has to meet.
        self.conv3 = Conv2d(f"{name}/conv3", arrays, 1, out_gate=out_gate, **into) if project else None
        size = same_size(in_size, strides)
        self.bn3 = BatchNorm(f"{name}/bn3", arrays, out_gate.size, size=size, gate=out_gate) if project else None

        self.gate = Gate(f"{name}/conv1")
        self.conv1 = Conv2d(f"{name}/conv1", arrays, 3, out_gate=self.gate, **into)
        self.bn1 = BatchNorm(f"{name}/bn1", arrays, self.gate.size, size=size, gate=self.gate)
        inner = dict(channels=self.gate.size, filters=width, in_size=size, in_gate=self.gate)
        self.conv2 = Conv2d(f"{name}/conv2", arrays, 3, out_gate=out_gate, **inner)
        # gamma 0: a block starts as the identity
        self.bn2 = BatchNorm(f"{name}/bn2", arrays, out_gate.size, size=size, gate=out_gate, gamma=zeros)

        projection = [self.conv3, self.bn3] if project else []
        self.layers = [*projection, self.conv1, self.bn1, self.conv2, self.bn2]
        self.gates = [out_gate, self.gate] if project else [self.gate]
        self.out_gate, self.out_size = out_gate, size

    def __call__(self, x, run):
        shortcut = self.bn3(self.conv3(x, run), run) if self.conv3 else x
        y = run.gate(tf.nn.relu(self.bn1(self.conv1(x, run), run)), self.gate)
        y = self.bn2(self.conv2(y, run), run)
        return run.gate(tf.nn.relu(y + shortcut), self.out_gate)


class Head:
    """Global mean and fully connected layer."""

    def __init__(self, arrays, classes, *, in_gate):
        self.fc = FC("fc", arrays, in_gate.size, classes, in_gate=in_gate)
        self.layers, self.gates = [self.fc], []

    def __call__(self, x, run):
        return self.fc(tf.reduce_mean(tf.cast(x, tf.float32), [1, 2]), run)


class CifarResNet(Network):
    """6n + 2 layers: stem, three stages of n = `blocks` blocks with 16, 32 and 64 filters, head."""

    def __init__(self, arch, classes, input_size, arrays, *, blocks, widths=(16, 32, 64)):
        super().__init__(arch, classes, input_size)
        parts = [Stem(arrays, widths[0], input_size)]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                first = stage > 0 and block == 0
                last = parts[-1]
                parts.append(
                    BasicBlock(
                        f"BasicBlock{stage}.{block}",
                        arrays,
                        width,
                        in_gate=last.out_gate,
                        in_size=last.out_size,
                        strides=2 if first else 1,
                        project=first,
                    )
                )
        self._settle([*parts, Head(arrays, classes, in_gate=parts[-1].out_gate)])
