"""Measures the layers of a network over a grid of widths, on this machine (METHOD 13)."""

import itertools

import numpy as np
import tensorflow as tf

from distribution.runtime import cores, hardware
from distribution.step import traced
from engine.latency import medians_ms, normals, predicting
from engine.layer_times import Grid, LayerTimes, key_of, timed_layers
from nets.batch_norm import BatchNorm, Constant
from nets.gates import Gate, round_up
from nets.initial import Arrays
from nets.tcl import FC, Conv2d, DepthwiseConv2d
from op_utils import context

POINTS = 4  # widths of a gate, besides the smallest block
SECONDS = 0.02  # per point of the grid
# Layers per call, the more the shorter they are: the first one has to wake the threads. By the
# multiply-accumulates of one for a batch, up to which it holds.
COPIES = ((3e7, 16), (1e9, 4), (float("inf"), 1))
SECONDS_WHOLE = 2.0  # per network
LEAST_MS = 1e-3  # of a call: less cannot be told from noise


def setting_of(network, runtime, batch_size):
    """dict (JSON) of what the times of layers depend on, without the machine."""
    return {
        "arch": network.arch,
        "input_size": network.input_size,
        "width_multiplier": network.width_multiplier,
        "batch_size": batch_size,
        "precision": runtime.precision,
        "compile": runtime.compile,
        "FLOPs": network.cost()[0],  # as the network is: it may be pruned already
    }


def machine_here():
    """dict (JSON) of what the times of layers depend on besides: this machine."""
    return {
        "hardware": hardware(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or cores(),
    }


def measure(network, smaller, runtime, batch_size, track=iter):
    """The LayerTimes of `network` on this machine.

    Args:
        network: Network with all its filters.
        smaller: (filters, network): the sub-network of `network` that keeps `filters`, int [G],
            for the check of the sum.
        runtime: Runtime, for its precision and XLA.
        batch_size: images per call.
        track: wraps the list of kinds of layers, to show progress.
    """
    layers = timed_layers(network)
    kinds = {key_of(layer): layer for layer in layers}
    timing = Timing(network, runtime, batch_size)
    grids = {key: timing.grid(layer) for key, layer in track(list(kinds.items()))}
    dense_ms, smaller_ms = timing.of_networks([network, smaller[1]])
    # What layers cost besides (scheduling, cold caches) is spread evenly, such that the sum for the
    # dense network is right. If the sum is too large already, as branches may run side by side, all
    # times are scaled.
    alone = LayerTimes({}, timing.block, grids).ms(network)
    scale, layer_ms = min(1.0, dense_ms / alone), max(0.0, dense_ms - alone) / len(layers)
    setting = setting_of(network, runtime, batch_size) | machine_here()
    setting |= {"tensorflow": tf.__version__}
    times = LayerTimes(setting, timing.block, grids, scale, layer_ms)
    check = {"predicted_ms": times.ms(network, smaller[0]), "measured_ms": smaller_ms}
    times.check = check | {"dense_ms": dense_ms}
    return times


class Timing:
    """Times single layers with what follows them: batch norm, shortcut, activation, pooling."""

    def __init__(self, network, runtime, batch_size):
        self.network, self.runtime, self.batch_size = network, runtime, batch_size
        self.ctx = context(runtime, "moving")
        self.block = runtime.channel_multiple(False)
        self.empty = self._timed(lambda: lambda x, _: tf.identity(x), (None, 1), copies=1)
        layers = [layer for layer in network.network_layers if isinstance(layer, Conv2d)]
        widest = max(layers, key=lambda layer: layer.macs())
        self.reference = self.call(widest, *widest.kernel.shape[2:])
        self.reference_ms = None

    def medians(self, calls, seconds):
        """Median milliseconds of each of `calls`, without the overhead of a call.

        A call that does nothing, and one of a fixed layer, take turns with them. Where the fixed
        layer takes longer than it did at first, the machine is slower, and times are scaled. A call
        that seems to take less than doing nothing takes LEAST_MS: on a busy machine that happens.
        """
        empty, reference, *ms = medians_ms([self.empty, self.reference, *calls], seconds)
        self.reference_ms = self.reference_ms or reference
        faster = self.reference_ms / reference
        return [max(each - empty, LEAST_MS) * faster for each in ms]

    def of_networks(self, networks):
        """Milliseconds of whole networks per call."""
        calls = [predicting(each, self.runtime, self.batch_size) for each in networks]
        return self.medians(calls, SECONDS_WHOLE)

    def grid(self, layer):
        """The Grid of layers like this one."""
        ins, outs = self.widths(layer.in_gate), self.widths(layer.out_gate)
        if isinstance(layer, DepthwiseConv2d):
            outs = [layer.out_gate.size]
        ins, outs = ins or [layer.kernel.shape[2]], outs or [layer.kernel.shape[-1]]
        points = list(itertools.product(ins, outs))
        calls = [self.call(layer, *point) for point in points]
        rest = [self.constant_call(layer, width) for width in outs] if layer.adds else []
        ms = [each / self.copies(layer) for each in self.medians([*calls, *rest], SECONDS)]
        by_in = np.reshape(ms[: len(calls)], [len(ins), len(outs)]).tolist()
        return Grid(ins, outs, by_in, ms[len(calls) :])

    def widths(self, gate):
        """Widths of a gate on the grid: multiples of the block, the smallest and the whole one."""
        if gate is None:
            return None
        shares = np.linspace(0, 1, POINTS + 1)[1:] * gate.size
        wanted = [1, *map(round, shares)]
        return sorted({round_up(width, self.block) for width in wanted})

    def copies(self, layer):
        """How many layers like `layer` are computed in a call."""
        macs = layer.macs() * self.batch_size
        return next(copies for most, copies in COPIES if macs <= most)

    def call(self, layer, width_in, width_out):
        """A function that computes layers like `layer` with these widths."""
        copies = self.copies(layer)
        if isinstance(layer, FC):
            make = lambda: self.fully_connected(width_in, layer.kernel.shape[-1])
            return self._timed(make, (None, width_in), copies=copies)
        shortcut = (layer.out_size, width_out) if layer.adds else None
        make = lambda: self.convolution(layer, width_in, width_out)
        return self._timed(make, (layer.in_size, width_in), shortcut, copies=copies)

    def fully_connected(self, width_in, classes):
        """Function of (x, None) to the output of a new fully connected layer."""
        fc = FC("fc", Arrays(), width_in, classes, in_gate=_gate(width_in))
        return lambda x, _: fc(x, self.ctx)

    def convolution(self, layer, width_in, width_out):
        """Function of (x, shortcut or None) to the output of a new layer like `layer`."""
        into = dict(in_size=layer.in_size, strides=layer.strides, padding=self.network.padding)
        name, gate = "conv", _gate(width_in if isinstance(layer, DepthwiseConv2d) else width_out)
        if isinstance(layer, DepthwiseConv2d):
            conv = DepthwiseConv2d(name, Arrays(), layer.kernel_size, width_in, gate=gate, **into)
        else:
            into |= dict(in_gate=layer.in_gate and _gate(width_in), out_gate=gate)
            conv = Conv2d(name, Arrays(), layer.kernel_size, width_in, width_out, **into)
        bn = BatchNorm("bn", Arrays(), gate.size, size=conv.out_size, gate=gate)

        def compute(x, shortcut):
            y = bn(conv(x, self.ctx), self.ctx)
            return layer.after(y if shortcut is None else y + shortcut)

        return compute

    def constant_call(self, layer, width):
        """A function that computes what is left of blocks without their branch."""

        def make():
            constant = Constant("c", Arrays(), width, size=layer.out_size, gate=_gate(width))
            return lambda x, _: layer.after(constant(x, self.ctx))

        return self._timed(make, (layer.out_size, width), copies=self.copies(layer))

    def _timed(self, make, shape, shortcut=None, *, copies):
        """A function that computes layers one after another and waits for the result.

        Each has weights of its own, which are not in the caches.

        Args:
            make: returns a new layer, a function of (x, shortcut).
            shape: (height and width, or None; channels) of x.
            shortcut: the same of the shortcut, or None.
            copies: number of layers.
        """
        given = [self._random(*shape), shortcut and self._random(*shortcut)]
        layers = [make() for _ in range(copies)]

        def compute(x, shortcut):
            outputs: list[tf.Tensor] = []
            for layer in layers:
                with tf.control_dependencies(outputs[-1:]):
                    outputs.append(layer(x, shortcut))
            # All outputs are in use, or TensorFlow would leave them out.
            return outputs, tf.add_n([tf.cast(tf.reshape(y, [-1])[0], tf.float32) for y in outputs])

        step = traced(compute, jit_compile=self.runtime.compile)

        def call():
            # On GPUs a call returns before it is done: the number is there when it is.
            with self.runtime.arithmetic():
                return step(*given)[1].numpy()

        return call

    def _random(self, size, channels):
        spatial = [] if size is None else [size, size]
        return tf.cast(normals([self.batch_size, *spatial, channels]), self.ctx.dtype)


def _gate(size):
    gate = Gate("gate")
    gate.size = size
    return gate
