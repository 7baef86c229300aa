"""Gates and masks (METHOD 1a): how a network's layers learn which filters are kept, as data.

A network is never edited while it is searched. A `Context` carries one mask per gate into a forward
pass, and carries batch statistics and the gates' probes out of it.
"""

import tensorflow as tf


class Gate:
    """One set of filters that are kept or dropped together.

    name: the layer that owns it.
    size: C, its number of filters; known once the owner exists.
    uses: how many convolutions write through it; known once the network exists.
    index: its position in the network's gate order; known once the network exists.
    """

    def __init__(self, name):
        self.name, self.size, self.uses, self.index = name, None, 0, None

    def __repr__(self):
        return f"Gate({self.name}, size={self.size}, uses={self.uses})"


class Context:
    """What one forward pass is told, and what it leaves behind.

    After the pass:
        batch_statistics: list of (mean, biased variance), float32 [C], one pair per batch norm in
            network order; empty with moving averages.
        probes: list of lists of float32 [C], for each gate one probe per place where it is
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
            statistics: "batch" or "moving", what batch norm normalises with. A masked network uses
                those of the batch.
            masks: list of float32 [C], one per gate in gate order; None for an ordinary network.
            tape: tf.GradientTape if importance is wanted, which makes gates leave probes.
            drop: whether masked filters are left out of all arrays, as far as `multiple` allows,
                instead of being there as zeros. The logits are the same, the arrays smaller. Shapes
                then depend on data, within one trace, so XLA cannot compile it.
            multiple: each gate is filled up to a multiple of so many channels. The filters added
                are zeros, with gamma and beta 0: they give 0, get no gradient and change no
                logits, but kernels of some devices are faster.
            dtype: what layers compute in. Variables, batch statistics, sums of importance and the
                head stay float32.
            merge: function from (mean, biased variance) of this replica's batch to those of all
                replicas' batches, or None.
        """
        if statistics not in ("batch", "moving"):
            raise ValueError(f"statistics must be 'batch' or 'moving', not {statistics!r}")
        self.statistics, self.masks, self.tape = statistics, masks, tape
        self.multiple, self.dtype, self.merge = multiple, dtype, merge
        # int32 [channels] per gate: which of its channels, after filling up, are not left out.
        self.left = None
        if drop:
            self.left = [filters_left(filled(mask, 0, multiple), multiple) for mask in masks]
        self.batch_statistics = []
        self.probes = [[] for _ in masks or ()]

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
                if self.left is not None:
                    array = tf.gather(array, self.left[gate.index], axis=axis)
        return array

    def channels(self, gate):
        """Channels that a gate has in this pass: int, or int32 [] where filters are left out."""
        if self.left is None:
            return round_up(gate.size, self.multiple)
        return tf.size(self.left[gate.index])

    def observe(self, y, gate):
        """y, the masked activation [B, H, W, channels] of a gate, with a probe on it if importance
        is wanted.

        Nothing is masked here. Dropped filters are 0 already, because their gamma and beta are 0 in
        every batch norm before, and ReLU and add, which lie between, keep 0. So y is the masked
        activation of METHOD 1a bit for bit, for C products instead of B * H * W * C.
        """
        if self.masks is None or self.tape is None:
            return y
        probe = tf.zeros([self.channels(gate)])
        self.tape.watch(probe)
        self.probes[gate.index].append(probe)
        return probed(y, probe)

    def of_filters(self, values, gate):
        """float32 [C], one value per filter of a gate, from `values`, float32 [channels] of this
        pass; 0 for filters that are left out.
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
    """int32, ascending: indices of the filters that a mask keeps, and of as many others as make
    their number a multiple of `multiple`.

    mask: float32 [C], C a multiple of `multiple`. Multiples of 8 keep the rounding, and with it the
    way of a search: CPUs sum over B, H, W for 8 channels at a time, and the rest in another order.
    """
    count = round_up(tf.cast(tf.reduce_sum(mask), tf.int32), multiple)
    # Of equal values, top_k takes the one of lower index first.
    return tf.sort(tf.math.top_k(mask, count).indices)


@tf.custom_gradient
def probed(y, probe):
    """y itself. The gradient of the probe is the sum over B, H, W of dy * y, float32 [C]: the inner
    sum of Eq. 9. It is taken in float32 because its terms nearly cancel.
    """

    def gradient(dy):
        return dy, tf.reduce_sum(tf.cast(dy, tf.float32) * tf.cast(y, tf.float32), [0, 1, 2])

    return tf.identity(y), gradient


def masked_kernel(kernel, masks):
    """The kernel with masked slices set to 0, rescaled to the norm of the whole kernel:
    k * ||kernel|| / ||k|| (METHOD 1a).

    masks: dict axis -> float32 [kernel.shape[axis]]. A kernel without a mask is returned unchanged.
    """
    if not masks:
        return kernel
    k = kernel = tf.convert_to_tensor(kernel)
    for axis, mask in masks.items():
        behind = len(kernel.shape) - 1 - axis
        k *= tf.reshape(mask, [-1] + [1] * behind) if behind else mask
    # The order of the operations is the published one: rounding decides on which side of 0 a ReLU's
    # input falls, and that shows in the importance of filters.
    norm = lambda x: tf.sqrt(tf.reduce_sum(x * x))
    return tf.math.divide_no_nan(k * norm(kernel), norm(k))  # a kernel of zeros stays zeros
