"""Gates, and the pass: how what is kept and what is dropped reaches a network's layers, as data.

A network is never edited while it is searched. A `Pass` carries one mask a gate into a forward pass
and carries the batch statistics and the gates' probes out of it.
"""

import tensorflow as tf


class Gate:
    """One set of filters that are kept or dropped together.

    name: the layer that owns it; size: its filters C; uses: how many convolutions write through it;
    index: its position in the network's gate order. `size` is known once the owner exists, `uses`
    and `index` once the network does.
    """

    def __init__(self, name):
        self.name, self.size, self.uses, self.index = name, None, 0, None

    def __repr__(self):
        return f"Gate({self.name}, size={self.size}, uses={self.uses})"


class Pass:
    """What one forward pass is told, and what it leaves behind.

    statistics: "batch" or "moving", what batch norm normalises with. masks: None for an ordinary
    network, else a list of float32 [C], one a gate in gate order; masked networks use batch
    statistics. tape: a tf.GradientTape, given when scores are wanted. Then every place where a gate
    masks leaves a probe, float32 [C], whose gradient is the sum over B, H, W of dy * y for the
    masked activation y there, the inner sum of Eq. 9. drop: whether masked filters are left out of
    every array, as far as `multiple` allows, instead of being there as zeros: the same logits from
    a physically smaller network. Shapes then depend on data, in one trace, so XLA cannot compile
    it. multiple: every gate has a multiple of so many channels in this pass; filters of zeros,
    whose gamma and beta are 0 too, fill up those that are missing. They give 0, get no gradient and
    change no logits; kernels of some devices are faster. dtype: what layers compute in. Variables,
    batch statistics, sums of scores and the head stay float32. merge: None, or a function from the
    (mean, biased variance) of this replica's batch to those of all replicas' batches.
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
        if statistics not in ("batch", "moving"):
            raise ValueError(f"statistics must be 'batch' or 'moving', not {statistics!r}")
        self.statistics, self.masks, self.tape = statistics, masks, tape
        self.multiple, self.dtype, self.merge = multiple, dtype, merge
        # int32 [channels] of each gate: which of its channels, filled up, are there
        self.left = (
            [filters_left(filled(mask, 0, multiple), multiple) for mask in masks] if drop else None
        )
        # (mean, biased variance), float32 [C], of each batch norm in network order
        self.batch_statistics = []
        self.probes = [[] for _ in masks or ()]  # probes of each gate, in network order

    def kernel(self, kernel, gated):
        """A layer's kernel in this pass; gated: dict axis -> Gate or None."""
        return self._sized(masked_kernel(kernel, self._masks(gated)), gated)

    def vector(self, vector, gate):
        """A batch norm's float32 [C] in this pass: 0 for dropped filters."""
        for mask in self._masks({0: gate}).values():
            vector *= mask
        return self._sized(vector, {0: gate})

    def _masks(self, gated):
        if self.masks is None:
            return {}
        return {axis: self.masks[gate.index] for axis, gate in gated.items() if gate is not None}

    def _sized(self, array, gated):
        """`array` with as many channels along the `gated` axes as this pass has."""
        for axis, gate in gated.items():
            if gate is not None:
                array = filled(array, axis, self.multiple)
                array = (
                    array
                    if self.left is None
                    else tf.gather(array, self.left[gate.index], axis=axis)
                )
        return array

    def channels(self, gate):
        """Channels that a gate has in this pass: int, or int32 [] where filters are left out."""
        return (
            round_up(gate.size, self.multiple)
            if self.left is None
            else tf.size(self.left[gate.index])
        )

    def gate(self, y, gate):
        """A gate's output: the activation y [B, H, W, channels], behind a probe where scores are
        wanted.

        Its dropped filters are 0 already: their gamma and beta are, in every batch norm before, and
        what lies between, ReLU and add, keeps 0. This is the masked activation bit for bit, at the
        price of C products instead of B * H * W * C.
        """
        if self.masks is None or self.tape is None:
            return y
        probe = tf.zeros([self.channels(gate)])
        self.tape.watch(probe)
        self.probes[gate.index].append(probe)
        return probed(y, probe)

    def of_filters(self, values, gate):
        """float32 [C], the `values` float32 [channels] of this pass for each filter of a gate: 0
        for those left out.
        """
        if gate is None:
            return values
        size = gate.size
        if self.left is not None:
            values = tf.scatter_nd(
                self.left[gate.index][:, None], values, [round_up(size, self.multiple)]
            )
        return values if size % self.multiple == 0 else values[:size]


def round_up(count, multiple):
    """The least multiple of `multiple` that is at least `count`: ints, or an int32 tensor and an
    int.
    """
    return (count + multiple - 1) // multiple * multiple


def filled(array, axis, multiple):
    """`array` with zeros appended along `axis` up to a multiple of `multiple`."""
    missing = -array.shape[axis] % multiple
    if not missing:
        return array
    return tf.pad(array, [[0, missing if i == axis else 0] for i in range(len(array.shape))])


def filters_left(mask, multiple):
    """int32, ascending: the filters that a mask keeps, and enough others to make their number a
    multiple of `multiple`.

    mask: float32 [C], C a multiple of `multiple`. On CPUs sums over B, H, W run over 8 channels at
    a time and in another order over the rest. So with multiples of 8 rounding is what it is with
    all filters there, and a search takes the same way.
    """
    count = round_up(tf.cast(tf.reduce_sum(mask), tf.int32), multiple)
    return tf.sort(
        tf.math.top_k(mask, count).indices
    )  # of equal values the lower index comes first


@tf.custom_gradient
def probed(y, probe):
    """y itself; the gradient of the probe, float32 [C], is the sum over B, H, W of dy * y (in
    float32: it nearly cancels).
    """

    def gradient(dy):
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32) * tf.cast(y, tf.float32), [0, 1, 2])

    return tf.identity(y), gradient


def masked_kernel(kernel, masks):
    """The kernel with masked slices set to 0, rescaled to the norm of the whole: k * ||kernel|| /
    ||k||.

    masks: dict axis -> float32 [kernel.shape[axis]]. A kernel without a mask is returned as it is.
    """
    if not masks:
        return kernel
    k = kernel = tf.convert_to_tensor(kernel)
    for axis, mask in masks.items():
        behind = len(kernel.shape) - 1 - axis
        k *= tf.reshape(mask, [-1] + [1] * behind) if behind else mask
    # In this order, as published: the rounding decides on which side of 0 a ReLU's input falls, and
    # that shows in scores.
    norm = lambda x: tf.sqrt(tf.reduce_sum(x * x))
    return tf.math.divide_no_nan(k * norm(kernel), norm(k))  # a kernel of zeros stays one
