"""The layers: convolutions, fully connected layer and batch norm that can be pruned without being changed, and the gate.

A network is never edited while it is searched. What is kept and what is dropped reaches it as data: a `Pass` carries one mask
a gate into a forward pass and carries the batch statistics and the gates' probes out of it. The same layers know how many
multiply-accumulates (MACs) and parameters they cost at any number of filters, by arithmetic alone.
"""

import math

import numpy as np
import tensorflow as tf

from nets.initial import he_normal, normal, ones, zeros
from nets.widths import scaled

BN_EPSILON = 1e-5
BN_DECAY = 0.9  # moving = 0.9 moving + 0.1 batch


class Gate:
    """One set of filters that are kept or dropped together.

    name: the layer that owns it; size: its filters C; uses: how many convolutions write through it; index: its position in
    the network's gate order. `size` is known once the owner exists, `uses` and `index` once the network does.
    """

    def __init__(self, name):
        self.name, self.size, self.uses, self.index = name, None, 0, None

    def __repr__(self):
        return f"Gate({self.name}, size={self.size}, uses={self.uses})"


class Pass:
    """What one forward pass is told, and what it leaves behind.

    statistics: "batch" or "moving", what batch norm normalises with.
    masks: None for an ordinary network, else a list of float32 [C], one a gate in gate order; masked networks use batch
        statistics.
    tape: a tf.GradientTape, given when scores are wanted. Then every place where a gate masks leaves a probe, float32 [C],
        whose gradient is the sum over B, H, W of dy * y for the masked activation y there, the inner sum of Eq. 9.
    drop: whether masked filters are left out of every array, as far as GRAIN allows, instead of being there as zeros: the same
        logits from a physically smaller network. Shapes then depend on data, in one trace, so XLA cannot compile it.
    dtype: what layers compute in. Variables, batch statistics, sums of scores and the head stay float32.
    merge: None, or a function from the (mean, biased variance) of this replica's batch to those of all replicas' batches.
    """

    def __init__(self, statistics, masks=None, tape=None, *, drop=False, dtype=tf.float32, merge=None):
        if statistics not in ("batch", "moving"):
            raise ValueError(f"statistics must be 'batch' or 'moving', not {statistics!r}")
        self.statistics, self.masks, self.tape = statistics, masks, tape
        self.dtype, self.merge = dtype, merge
        self.left = [filters_left(mask) for mask in masks] if drop else None  # int32 [filters left] of each gate
        self.batch_statistics = []  # (mean, biased variance), float32 [filters left], of each batch norm in network order
        self.probes = [[] for _ in masks or ()]  # probes of each gate, in network order

    def kernel(self, kernel, gated):
        """A layer's kernel in this pass; gated: dict axis -> Gate or None."""
        return self._without_dropped(masked_kernel(kernel, self._masks(gated)), gated)

    def vector(self, vector, gate):
        """A batch norm's float32 [C] in this pass: 0 for dropped filters."""
        for mask in self._masks({0: gate}).values():
            vector *= mask
        return self._without_dropped(vector, {0: gate})

    def _masks(self, gated):
        if self.masks is None:
            return {}
        return {axis: self.masks[gate.index] for axis, gate in gated.items() if gate is not None}

    def _without_dropped(self, array, gated):
        if self.left is not None:
            for axis, gate in gated.items():
                array = array if gate is None else tf.gather(array, self.left[gate.index], axis=axis)
        return array

    def gate(self, y, gate):
        """A gate's output: the activation y [B, H, W, C], behind a probe where scores are wanted.

        Its dropped filters are 0 already: their gamma and beta are, in every batch norm before, and what lies between, ReLU
        and add, keeps 0. This is the masked activation bit for bit, at the price of C products instead of B * H * W * C.
        """
        if self.masks is None or self.tape is None:
            return y
        probe = tf.zeros([gate.size if self.left is None else tf.size(self.left[gate.index])])
        self.tape.watch(probe)
        self.probes[gate.index].append(probe)
        return probed(y, probe)

    def spread(self, values, gate):
        """float32 [C] from the `values` of the filters that are left of a gate: 0 for the others."""
        if self.left is None:
            return values
        return tf.scatter_nd(self.left[gate.index][:, None], values, [gate.size])


GRAIN = 8


def filters_left(mask):
    """int32, ascending: the filters that a mask keeps, and enough others to make their number a multiple of GRAIN.

    On CPUs sums over B, H, W run over GRAIN channels at a time and in another order over the rest. So where a gate's size is a
    multiple of GRAIN rounding stays what it is with all filters there, and a search takes the same way.
    """
    size = mask.shape[0]
    count = tf.cast(tf.reduce_sum(mask), tf.int32)
    count = tf.minimum((count + GRAIN - 1) // GRAIN * GRAIN, size)
    return tf.sort(tf.math.top_k(mask, count).indices)  # of equal values the lower index comes first


@tf.custom_gradient
def probed(y, probe):
    """y itself; the gradient of the probe, float32 [C], is the sum over B, H, W of dy * y (in float32: it nearly cancels)."""

    def gradient(dy):
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32) * tf.cast(y, tf.float32), [0, 1, 2])

    return tf.identity(y), gradient


def masked_kernel(kernel, masks):
    """The kernel with masked slices set to 0, rescaled to the norm of the whole: k * ||kernel|| / ||k||.

    masks: dict axis -> float32 [kernel.shape[axis]]. A kernel without a mask is returned as it is.
    """
    if not masks:
        return kernel
    k = kernel = tf.convert_to_tensor(kernel)
    for axis, mask in masks.items():
        behind = len(kernel.shape) - 1 - axis
        k *= tf.reshape(mask, [-1] + [1] * behind) if behind else mask
    # In this order, as published: the rounding decides on which side of 0 a ReLU's input falls, and that shows in scores.
    norm = lambda x: tf.sqrt(tf.reduce_sum(x * x))
    return tf.math.divide_no_nan(k * norm(kernel), norm(k))  # a kernel of zeros stays one


def same_size(size, strides):
    """Height or width after a convolution, of odd kernel size, in either padding."""
    return -(-size // strides)


def conv_padding(padding, kernel_size, strides):
    """The `padding` of tf.nn.conv2d for one of nets.PADDINGS, which differ at strides above 1 only."""
    if padding == "SAME" or strides == 1 or kernel_size == 1:
        return "SAME"
    return [[0, 0], [kernel_size // 2] * 2, [kernel_size // 2] * 2, [0, 0]]


def max_pool(x, size, strides, padding):
    """Max pool, [B, H, W, C] of values from 0 up, as ReLU leaves them: to them a border of 0 is as one of -inf."""
    pads = conv_padding(padding, size, strides)
    if pads != "SAME":  # tf.nn.max_pool2d takes these too, but XLA does not
        x, pads = tf.pad(x, pads), "VALID"
    return tf.nn.max_pool2d(x, size, strides, pads)


class Layer(tf.Module):
    """A layer's arrays by name, and the axes of each that a gate owns: enough for masks, costs and extraction.

    `arrays`: dict array name ('kernel') -> tf.Variable; `gated`: dict array name -> {axis: Gate or None}; `path`: name in
    parameter files; `out_size`: height and width of the output.
    """

    def __init__(self, name):
        super().__init__(name=name.replace("/", "_").replace(".", "_"))
        self.path = name
        self.arrays, self.gated = {}, {}

    def _add(self, array_name, value, gated, trainable=True):
        # The update writes what all replicas have agreed on before, so one replica's value stands for all.
        once = dict(
            synchronization=tf.VariableSynchronization.ON_WRITE,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        variable = tf.Variable(value, trainable=trainable, name=f"{self.path}/{array_name}", dtype=tf.float32, **once)
        self.arrays[array_name], self.gated[array_name] = variable, gated
        return variable

    def shape(self, array_name, filters=None):
        """Shape of an array when gate i keeps filters[i] filters (None: as it is)."""
        shape = list(self.arrays[array_name].shape)
        for axis, gate in self.gated[array_name].items():
            if gate is not None and filters is not None:
                shape[axis] = int(filters[gate.index])
        return shape

    def params(self, filters=None):
        """Number of parameters, moving averages included."""
        return sum(math.prod(self.shape(name, filters)) for name in self.arrays)

    def macs(self, filters=None):
        """Multiply-accumulates of one image: each weight of the kernel once at every place of the output."""
        return math.prod(self.shape("kernel", filters)) * self.out_size**2


class Conv2d(Layer):
    """Convolution without bias: [B, H, W, in] -> [B, H / strides, W / strides, out], rounded up; padding: of nets.PADDINGS.

    The first convolution that writes through `out_gate` settles its size: `filters`, or what a parameter file has.
    """

    def __init__(
        self, name, arrays, kernel_size, channels, filters, *, in_size, strides=1, in_gate=None, out_gate=None, padding="SAME"
    ):
        super().__init__(name)
        self.strides, self.in_gate, self.out_gate = strides, in_gate, out_gate
        self.padding = conv_padding(padding, kernel_size, strides)
        self.out_size = same_size(in_size, strides)
        settled = out_gate is None or out_gate.size is not None
        filters = out_gate.size if out_gate is not None and settled else filters
        shape = [kernel_size, kernel_size, channels, filters]
        value = arrays.take(f"{name}/kernel:0", shape, he_normal, free=None if settled else 3)
        self.kernel = self._add("kernel", value, {2: in_gate, 3: out_gate})
        if out_gate is not None:
            out_gate.size = self.kernel.shape[3]

    @property
    def filters(self):
        return self.kernel.shape[3]

    def __call__(self, x, run):
        kernel = run.kernel(self.kernel, self.gated["kernel"])
        return tf.nn.conv2d(x, tf.cast(kernel, x.dtype), self.strides, self.padding)


class DepthwiseConv2d(Layer):
    """Depthwise convolution without bias; the channels it reads and writes are those of one gate. padding: of nets.PADDINGS."""

    def __init__(self, name, arrays, kernel_size, channels, *, in_size, strides=1, gate=None, padding="SAME"):
        super().__init__(name)
        self.padding = conv_padding(padding, kernel_size, strides)
        self.strides, self.in_gate, self.out_gate = strides, gate, gate
        self.out_size = same_size(in_size, strides)
        value = arrays.take(f"{name}/kernel:0", [kernel_size, kernel_size, channels, 1], he_normal)
        self.kernel = self._add("kernel", value, {2: gate})

    def __call__(self, x, run):
        kernel = run.kernel(self.kernel, self.gated["kernel"])
        return tf.nn.depthwise_conv2d(x, tf.cast(kernel, x.dtype), [1, self.strides, self.strides, 1], self.padding)


class FC(Layer):
    """Fully connected layer with bias, always in float32, which costs nothing here: [B, in] -> float32 [B, classes]."""

    def __init__(self, name, arrays, channels, classes, *, in_gate=None):
        super().__init__(name)
        self.in_gate, self.out_gate, self.out_size = in_gate, None, 1
        self.kernel = self._add("kernel", arrays.take(f"{name}/kernel:0", [channels, classes], normal), {0: in_gate})
        self.biases = self._add("biases", arrays.take(f"{name}/biases:0", [1, classes], zeros), {})

    def __call__(self, x, run):
        kernel = run.kernel(self.kernel, self.gated["kernel"])
        return tf.cast(x, tf.float32) @ kernel + self.biases


class BatchNorm(Layer):
    """Batch norm over [B, H, W, C], biased variance.

    With batch statistics it leaves them in the pass and changes nothing: whoever trains moves the moving averages
    (`move`), after replicas and accumulated parts have been brought together. So a masked network leaves them alone by
    construction.
    """

    def __init__(self, name, arrays, channels, *, size, gate=None, gamma=ones):
        super().__init__(name)
        self.size, self.in_gate, self.out_gate = size, gate, None
        initial = {"gamma": gamma, "beta": zeros, "moving_mean": zeros, "moving_variance": ones}
        for array_name, fill in initial.items():
            value = arrays.take(f"{name}/{array_name}:0", [1, 1, 1, channels], fill)
            self._add(array_name, value, {3: gate}, trainable=not array_name.startswith("moving"))

    def __call__(self, x, run):
        vector = lambda name: run.vector(tf.reshape(self.arrays[name], [-1]), self.in_gate)
        gamma, beta = vector("gamma"), vector("beta")
        if run.statistics == "moving":
            return self._fused(x, gamma, beta, vector("moving_mean"), vector("moving_variance")).y
        if run.merge is not None:
            wide = tf.cast(x, tf.float32)
            mean, variance = run.merge(*tf.nn.moments(wide, [0, 1, 2]))
            y = tf.cast(tf.nn.batch_normalization(wide, mean, variance, beta, gamma, BN_EPSILON), x.dtype)
        elif run.tape is not None:
            y, mean, variance = self._while_scoring(x, gamma, beta)
        else:
            fused = self._fused(x, gamma, beta)
            n = tf.cast(tf.size(x) / tf.shape(x)[3], tf.float32)
            y, mean, variance = fused.y, fused.batch_mean, fused.batch_variance * (n - 1) / n  # the kernel's is unbiased
        run.batch_statistics.append((mean, variance))
        return y

    @staticmethod
    @tf.custom_gradient
    def _while_scoring(x, gamma, beta):
        """(y, mean, variance) in the arithmetic that the recorded scores were made with, the gradient of y to x alone.

        Scores are sums that nearly cancel, and a ReLU input rounded to the other side of 0 moves them by up to 1 %; so the
        way there keeps to moments and a normalisation. The way back meets no such edge, and takes the fused kernel.
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
        """One kernel for the whole layer, about a third faster on CPUs than moments and arithmetic."""
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
        return 2 * self.shape("gamma", filters)[3] * self.size**2


class Network(tf.Module):
    """What every architecture shares: a chain of parts, layers and gates in network order, costs, parameters.

    A part has `layers`, the `gates` it owns, and __call__(x, run: Pass) -> [B, out_size, out_size, out_gate.size], what the
    next part takes; the last one gives the logits float32 [B, classes]. padding: that of nets.PADDINGS which the subclass gives
    to what has a stride; width_multiplier: by which it scales its widths, see `scaled`.
    """

    def __init__(self, arch, classes, input_size, padding="SAME", width_multiplier=1.0):
        super().__init__(name=arch.replace("-", "_"))
        self.arch, self.classes, self.input_size = arch, classes, input_size
        self.padding, self.width_multiplier = padding, width_multiplier
        self.parts, self.gates, self.network_layers = [], [], []

    def scaled(self, filters):
        """int: `filters` times the width multiplier, rounded as MobileNets round."""
        return scaled(filters, self.width_multiplier)

    def _settle(self, parts):
        """Called once by the subclass, with all parts in order."""
        self.parts = parts
        self.network_layers = [layer for part in parts for layer in part.layers]
        self.gates = [gate for part in parts for gate in part.gates]
        for index, gate in enumerate(self.gates):
            gate.index = index
            gate.uses = sum(layer.out_gate is gate for layer in self.network_layers)

    def __call__(self, images, run):
        """float32 [B, classes], logits of float32 [B, S, S, 3]."""
        x = tf.cast(images, run.dtype)
        for part in self.parts:
            x = part(x, run)
        return x

    @property
    def first_parts(self):
        """list [G]: of each gate the first part that it changes, which is the one that owns it."""
        return [i for i, part in enumerate(self.parts) for _ in part.gates]

    @property
    def gate_sizes(self):
        """int64 [G]: filters of each gate."""
        return np.array([gate.size for gate in self.gates])

    @property
    def trainable(self):
        """The trainable variables, in network order."""
        return [v for layer in self.network_layers for v in layer.arrays.values() if v.trainable]

    @property
    def batch_norms(self):
        return [layer for layer in self.network_layers if isinstance(layer, BatchNorm)]

    def parameters(self):
        """dict name -> float32 array, as in a parameter file."""
        return {name: variable.numpy() for name, variable in self.variables_by_name().items()}

    def variables_by_name(self):
        """dict name -> variable, in network order."""
        return {f"{layer.path}/{name}:0": v for layer in self.network_layers for name, v in layer.arrays.items()}

    def cost(self, filters=None):
        """(MACs, parameters) when gate i keeps filters[i] filters; as it is, if `filters` is None. BN counts 2 MACs a value."""
        layers = self.network_layers
        return sum(layer.macs(filters) for layer in layers), sum(layer.params(filters) for layer in layers)

    def moving_averages(self, filters=None):
        """How many of the parameters that cost(filters) counts are moving averages, which others do not count."""
        averages = ("moving_mean", "moving_variance")
        return sum(math.prod(bn.shape(name, filters)) for bn in self.batch_norms for name in averages)

    def layer_filters(self, filters=None):
        """dict layer name -> filters of each convolution, in network order, when gate i keeps filters[i] filters.

        Depthwise ones are left out: theirs are the filters of the convolution before.
        """
        convs = (layer for layer in self.network_layers if isinstance(layer, Conv2d))
        return {conv.path: conv.shape("kernel", filters)[3] for conv in convs}

    def split_masks(self, flat):
        """The list of masks a Pass takes from one float32 [sum of gate sizes]."""
        return tf.split(flat, [gate.size for gate in self.gates])
