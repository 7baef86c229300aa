"""A small network with every kind of layer, a depthwise convolution included."""

import numpy as np
import tensorflow as tf

from nets.batch_norm import BatchNorm
from nets.gates import Gate
from nets.initial import Arrays
from nets.network import Network
from nets.parts import Head
from nets.tcl import Conv2d, DepthwiseConv2d


class First:
    """conv 8 (stride 2), BN, ReLU, gate; depthwise, BN, ReLU, the same gate."""

    def __init__(self, arrays):
        self.gate = Gate("a")
        self.a = Conv2d("a", arrays, 3, 3, 8, in_size=8, strides=2, out_gate=self.gate)
        self.a_bn = BatchNorm("a_bn", arrays, self.gate.size, size=4, gate=self.gate)
        self.b = DepthwiseConv2d("b", arrays, 3, self.gate.size, in_size=4, gate=self.gate)
        self.b_bn = BatchNorm("b_bn", arrays, self.gate.size, size=4, gate=self.gate)
        self.layers, self.gates = [self.a, self.a_bn, self.b, self.b_bn], [self.gate]
        self.out_gate, self.out_size = self.gate, 4

    def __call__(self, x, ctx):
        x = ctx.observe(tf.nn.relu(self.a_bn(self.a(x, ctx), ctx)), self.gate)
        return ctx.observe(tf.nn.relu(self.b_bn(self.b(x, ctx), ctx)), self.gate)


class Second:
    """1x1 conv 6, BN, ReLU, gate."""

    def __init__(self, arrays, in_gate):
        self.gate = Gate("c")
        self.c = Conv2d(
            "c", arrays, 1, in_gate.size, 6, in_size=4, in_gate=in_gate, out_gate=self.gate
        )
        self.c_bn = BatchNorm("c_bn", arrays, self.gate.size, size=4, gate=self.gate)
        self.layers, self.gates, self.out_gate, self.out_size = (
            [self.c, self.c_bn],
            [self.gate],
            self.gate,
            4,
        )

    def __call__(self, x, ctx):
        return ctx.observe(tf.nn.relu(self.c_bn(self.c(x, ctx), ctx)), self.gate)


class Small(Network):
    """The two, mean, FC."""

    def __init__(self, parameters=None):
        super().__init__("Small", 5, 8)
        arrays = Arrays(parameters, seed=3)
        first = First(arrays)
        second = Second(arrays, first.gate)
        self.a, self.a_bn, self.b, self.c = first.a, first.a_bn, first.b, second.c
        self._settle([first, second, Head(arrays, 5, in_gate=second.gate)])


FLAT = np.array([1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1], np.float32)  # 5 of 8, 4 of 6
