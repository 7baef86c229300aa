"""The logits of several sub-networks on one batch in one call; shared activations computed once.

Each candidate of a search step changes one gate. Its activations are the same as those of the other
candidates up to the first part that this gate changes. One graph serves any set of sub-networks:
the part at which a sub-network begins is data.
"""

import numpy as np
import tensorflow as tf

from distribution.step import Step
from nets.gates import round_up
from op_utils import context


class SubNetworks:
    """Evaluates sub-networks of `network`, with batch statistics, on batches of one size.

    Called with a batch of B images and masks, float32 [n, F]; returns logits, float32
    [B, n, classes]. One call of the device takes up to `most` sub-networks.
    """

    def __init__(self, network, runtime, prepare, most):
        # Replicas cannot exchange values inside a loop of the graph.
        self.most = 1 if runtime.synchronises else most
        make = _one if self.most == 1 else _several
        compute = make(network, runtime, prepare)
        self.step = Step(compute, runtime, merges=runtime.synchronises)

    def __call__(self, batch, masks):
        logits = []
        for first in range(0, len(masks), self.most):
            some = masks[first : first + self.most]
            # Filled up with copies of the last one: one shape, one trace.
            filler = np.repeat(some[-1:], self.most - len(some), 0)
            filled = np.concatenate([some, filler])
            rows = self.step(batch, masks=filled, count=np.int32(len(some)))[1]
            logits.append(rows["logits"].numpy()[:, : len(some)])
        return np.concatenate(logits, 1)


def common_bytes(network, runtime, batch_size):
    """Bytes of the activations that the sub-networks of one call share, per replica and part.

    These are the outputs of all parts but the last.
    """
    values = sum(part.out_size**2 * _channels(part, runtime) for part in network.parts[:-1])
    return batch_size // runtime.parts * values * runtime.dtype.size


def _channels(part, runtime):
    """Output channels of a part of a masked network when all filters are kept."""
    return round_up(part.out_gate.size, runtime.channel_multiple(True))


def _one(network, runtime, prepare):
    """The computation of one sub-network per call, see distribution.step.Step."""

    def compute(batch, shared):
        ctx = context(runtime, "batch", network.split_masks(shared["masks"][0]))
        return {}, {"logits": network(prepare(batch), ctx)[:, None]}

    return compute


def _several(network, runtime, prepare):
    """The computation of several sub-networks per call, see distribution.step.Step."""
    *parts, head = network.parts
    first_part = np.repeat(np.array(network.first_parts, np.int32), network.gate_sizes)  # int32 [F]

    def compute(batch, shared):
        images, masks = tf.cast(prepare(batch), runtime.dtype), shared["masks"]
        # Every sub-network equals the union of all of them up to the first part where it lacks a
        # filter. Iteration 0 computes the union, as far as any of them needs it, and keeps the
        # outputs of its parts.
        union = tf.reduce_max(masks, 0)
        begins = tf.reduce_min(tf.where(masks == union, len(parts), first_part), 1)  # int32 [n]
        masks = tf.concat([union[None], masks], 0)
        begins, reach = tf.concat([[0], begins], 0), tf.reduce_max(begins)

        def network_of(i, common, rows):
            ctx = context(runtime, "batch", network.split_masks(masks[i]))
            x, outputs = images, []
            for k, (part, output) in enumerate(zip(parts, common)):
                wanted = tf.where(i == 0, k < reach, k >= begins[i])
                kept = lambda output=output: output
                x = tf.cond(wanted, lambda x=x, part=part: part(x, ctx), kept)
                outputs.append(tf.cond(i == 0, lambda x=x: x, kept))
            nothing = tf.zeros(rows.element_shape)
            logits = tf.cond(i == 0, lambda: nothing, lambda: head(x, ctx))
            return i + 1, outputs, rows.write(i, logits)

        shape = [images.shape[0], network.classes]
        rows = tf.TensorArray(tf.float32, masks.shape[0], element_shape=shape)
        common, shapes = _outputs(parts, images.shape[0], runtime)
        _, _, rows = tf.while_loop(
            lambda i, *_: i <= shared["count"],
            network_of,
            (0, common, rows),
            (tf.TensorShape([]), shapes, tf.TensorShape(None)),
            parallel_iterations=2,  # on two cores, operations wait less for each other
        )
        return {}, {"logits": tf.transpose(rows.stack()[1:], [1, 0, 2])}

    return compute


def _outputs(parts, images, runtime):
    """(zeros, shapes) of the outputs of all parts, the state of the loop over sub-networks.

    images: number of images in this part of the batch.
    """
    zeros, shapes = [], []
    for part in parts:
        shape = [images, part.out_size, part.out_size]
        if runtime.compile:
            shape.append(_channels(part, runtime))
            zeros.append(tf.zeros(shape, runtime.dtype))
            shapes.append(tf.TensorShape(shape))
        else:  # dropped filters are left out, so the number of channels is data
            zeros.append(tf.zeros([*shape, 0], runtime.dtype))
            shapes.append(tf.TensorShape([*shape, None]))
    return zeros, shapes
