"""Gates and masks (METHOD 1a): which filters a network keeps, as data.

A search never edits its network. A `Context` takes one mask per gate into a forward pass, and
collects batch statistics and the gates' probes from it.
"""

import typing

import tensorflow as tf

STATISTICS = ("batch", "moving", "folded")


class Gate:
    """One set of filters that are kept or dropped together.

    name: the layer that owns it.
    branch: the residual block that adds what comes through it to a shortcut, None for none. If one
        gate of a branch keeps no filter, all that is left of the branch is a constant.
    size: C, its number of filters; set when its owner is built.
    uses: the number of convolutions that write through it; set when the network is complete.
    index: its position in the network's gate order; set when the network is complete.
    """

    def __init__(self, name: str, branch: str | None = None):
        self.name, self.branch = name, branch
        self.size: typing.Any = None  # int
        self.uses = 0
        self.index: typing.Any = None  # int

    def __repr__(self):
        return f"Gate({self.name}, size={self.size}, uses={self.uses})"


class Context:
    """The input of a forward pass besides the images, and the values that it collects.

    After the pass:
        batch_statistics: list of (mean, biased variance), float32 [C], one pair per batch norm in
            network order; empty unless statistics are "batch".
        probes: list of lists of float32 [C]: per gate, one probe for each place where it is
            observed, in network order. The gradient of a probe is the inner sum of Eq. 9.
    """

    def __init__(
        self,
        statistics,
        masks=None,
        tape=None,
        *,
        drop=False,
        multiple=1,
        dtype=tf.float32,
        merge=None,
    ):
        """
        Args:
            statistics: "batch" or "moving", the statistics that batch norm uses. A masked network
                needs "batch". "folded" is "moving" with a cheaper backward pass: the factor of
                each batch norm is multiplied into the kernel of the convolution before it.
            masks: list of float32 [C], one per gate in gate order; None for an ordinary network.
            tape: tf.GradientTape that watches the probes, to compute importance; None: no probes.
            drop: whether masked filters are left out of all arrays, as far as `multiple` allows,
                instead of being zeros. The logits are the same and the arrays are smaller. Shapes
                then depend on data within one trace, so XLA cannot compile it.
            multiple: pads the channels of each gate to a multiple of this number. The added filters
                are zeros, with gamma and beta 0: they output 0, get no gradient and do not change
                the logits, but kernels on some devices are faster.
            dtype: the type in which layers compute. Variables, batch statistics, sums of importance
                and the head stay float32.
            merge: function of (mean, biased variance) of this replica's batch to those of all
                replicas' batches, or None.
        """
        if statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {STATISTICS}, not {statistics!r}")
        self.statistics, self.masks, self.tape = statistics, masks, tape
        self.multiple, self.dtype, self.merge = multiple, dtype, merge
        # int32 [channels] per gate: the channels, after padding, that this pass computes.
        self.used = None
        if drop:
            self.used = [channels_used(filled(mask, 0, multiple), multiple) for mask in masks]
        self.batch_statistics: list[tuple[tf.Tensor, tf.Tensor]] = []
        self.probes: list[list[tf.Tensor]] = [[] for _ in masks or ()]

    def kernel(self, kernel, gated):
        """A layer's kernel in this pass. gated: dict axis -> Gate or None."""
        return self._sized(masked_kernel(kernel, self._masks(gated)), gated)

    def vector(self, vector, gate):
        """A vector of a batch norm in this pass: float32 [C], 0 for dropped filters."""
        for mask in self._masks({0: gate}).values():
            vector *= mask
        return self._sized(vector, {0: gate})

    def _masks(self, gated):
        if self.masks is None:
            return {}
        return {axis: self.masks[gate.index] for axis, gate in gated.items() if gate is not None}

    def _sized(self, array, gated):
        """`array` with the number of channels of this pass along the `gated` axes."""
        for axis, gate in gated.items():
            if gate is not None:
                array = filled(array, axis, self.multiple)
                if self.used is not None:
                    array = tf.gather(array, self.used[gate.index], axis=axis)
        return array

    def channels(self, gate):
        """Channels of a gate in this pass: int, or int32 [] if filters are left out."""
        if self.used is None:
            return round_up(gate.size, self.multiple)
        return tf.size(self.used[gate.index])

    def observe(self, y, gate):
        """y, the masked activation of a gate, [B, H, W, channels], with a probe if there is a tape.

        Nothing is masked here. Dropped filters are already 0: their gamma and beta are 0 in every
        batch norm before, and ReLU and add keep 0. So y is the masked activation of METHOD 1a bit
        for bit, at the cost of C products instead of B * H * W * C.
        """
        if self.masks is None or self.tape is None:
            return y
        probe = tf.zeros([self.channels(gate)])
        self.tape.watch(probe)
        self.probes[gate.index].append(probe)
        return probed(y, probe)

    def per_filter(self, values, gate):
        """One value per filter of a gate, float32 [C]; 0 for filters that are left out.

        values: float32 [channels], of this pass.
        """
        if gate is None:
            return values
        size = gate.size
        if self.used is not None:
            used = self.used[gate.index][:, None]
            values = tf.scatter_nd(used, values, [round_up(size, self.multiple)])
        return values if size % self.multiple == 0 else values[:size]


def round_up(count, multiple):
    """The least multiple of `multiple` that is at least `count` (int, or int32 tensor)."""
    return (count + multiple - 1) // multiple * multiple


def filled(array, axis, multiple):
    """`array` with zeros appended along `axis` up to a multiple of `multiple`."""
    missing = -array.shape[axis] % multiple
    if not missing:
        return array
    return tf.pad(array, [[0, missing if i == axis else 0] for i in range(len(array.shape))])


def channels_used(mask, multiple):
    """Indices of the filters that a mask keeps, filled up to a multiple: int32, ascending.

    Dropped filters are added until their number is a multiple of `multiple`. Multiples of 8 keep
    the rounding, and so the decisions of a search: CPUs sum over B, H, W for 8 channels at a time,
    and the remaining channels in another order. There is at least one multiple: convolutions need
    a channel.

    mask: float32 [C], C a multiple of `multiple`.
    """
    kept = tf.cast(tf.reduce_sum(mask), tf.int32)
    count = round_up(tf.maximum(kept, 1), multiple)
    # Of equal values, top_k takes the one with the lower index first.
    return tf.sort(tf.math.top_k(mask, count).indices)


@tf.custom_gradient
def probed(y, probe):
    """Returns y. The gradient of the probe, float32 [C], is the inner sum of Eq. 9.

    The sum is taken in float32 because its terms nearly cancel.
    """

    def gradient(dy):
        # Eq. 9: sum over B, H, W of dy * y. The gradient that flows on is dy (METHOD 2).
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32) * tf.cast(y, tf.float32), [0, 1, 2])

    return tf.identity(y), gradient


def masked_kernel(kernel, masks):
    """The kernel with masked slices set to 0, rescaled to the norm of the whole kernel.

    masks: dict axis -> float32 [kernel.shape[axis]]. A kernel without a mask is returned unchanged.
    """
    if not masks:
        return kernel
    k = kernel = tf.convert_to_tensor(kernel)
    for axis, mask in masks.items():
        behind = len(kernel.shape) - 1 - axis
        k *= tf.reshape(mask, [-1] + [1] * behind) if behind else mask
    # METHOD 1a: k * ||kernel|| / ||k||, in the published order of operations: rounding decides on
    # which side of 0 the input of a ReLU falls, and that changes the importance of filters.
    norm = lambda x: tf.sqrt(tf.reduce_sum(x * x))
    squares = tf.reduce_sum(k * k)
    # A kernel of zeros stays zeros. Its norm counts as 1, so that its gradient is finite.
    # TensorFlow would replace `/` by a product with the reciprocal root, which rounds otherwise.
    return tf.math.divide_no_nan(k * norm(kernel), tf.sqrt(tf.where(squares > 0, squares, 1.0)))
