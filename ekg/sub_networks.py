"""The logits of several sub-networks of one batch in one call, what they have in common computed
once.

The candidates of a search step differ from each other in one gate each, so that all of them see the
same activations up to the first part which that gate changes. One graph serves any set of
sub-networks: which part is where one begins is data.
"""

import numpy as np
import tensorflow as tf

from distribution.step import Step
from nets.gates import round_up
from op_utils import context


class SubNetworks:
    """Evaluates sub-networks of `network` on batches of one size, batch statistics, up to `most` in
    a call of the device.

    Called with a batch of B images and masks float32 [n, F]; gives logits float32 [B, n, classes].
    """

    def __init__(self, network, runtime, prepare, most):
        # Replicas cannot be brought together within a loop of the graph.
        self.most = 1 if runtime.synchronises else most
        compute = (
            _one(network, runtime, prepare)
            if self.most == 1
            else _several(network, runtime, prepare)
        )
        self.step = Step(compute, runtime, merges=runtime.synchronises)

    def __call__(self, batch, masks):
        logits = []
        for first in range(0, len(masks), self.most):
            some = masks[first : first + self.most]
            filled = np.concatenate(
                [some, np.repeat(some[-1:], self.most - len(some), 0)]
            )  # one shape, one trace
            rows = self.step(batch, masks=filled, count=np.int32(len(some)))[1]
            logits.append(rows["logits"].numpy()[:, : len(some)])
        return np.concatenate(logits, 1)


def common_bytes(network, runtime, batch_size):
    """Memory that sub-networks in one call share on a replica: what comes out of every part but the
    last.
    """
    values = sum(part.out_size**2 * _channels(part, runtime) for part in network.parts[:-1])
    return batch_size // runtime.parts * values * runtime.dtype.size


def _channels(part, runtime):
    """What comes out of a part of a masked network where no filter is left out."""
    return round_up(part.out_gate.size, runtime.channel_multiple(True))


def _one(network, runtime, prepare):
    def compute(batch, shared):
        ctx = context(runtime, "batch", network.split_masks(shared["masks"][0]))
        return {}, {"logits": network(prepare(batch), ctx)[:, None]}

    return compute


def _several(network, runtime, prepare):
    *parts, head = network.parts
    first_part = np.repeat(np.array(network.first_parts, np.int32), network.gate_sizes)  # int32 [F]

    def compute(batch, shared):
        images, masks = tf.cast(prepare(batch), runtime.dtype), shared["masks"]
        # Sub-networks that miss a slice of one gate each have their union in common, up to the part
        # of that gate. The loop runs through the union first, as far as anybody needs it, and keeps
        # what comes out of every part.
        union = tf.reduce_max(masks, 0)
        begins = tf.reduce_min(tf.where(masks == union, len(parts), first_part), 1)  # int32 [n]
        masks = tf.concat([union[None], masks], 0)
        begins, reach = tf.concat([[0], begins], 0), tf.reduce_max(begins)

        def network_of(i, common, rows):
            ctx = context(runtime, "batch", network.split_masks(masks[i]))
            x, outputs = images, []
            for k, (part, output) in enumerate(zip(parts, common)):
                wanted = tf.where(i == 0, k < reach, k >= begins[i])
                x = tf.cond(
                    wanted, lambda x=x, part=part: part(x, ctx), lambda output=output: output
                )
                outputs.append(tf.cond(i == 0, lambda x=x: x, lambda output=output: output))
            nothing = tf.zeros(rows.element_shape)
            logits = tf.cond(i == 0, lambda: nothing, lambda: head(x, ctx))
            return i + 1, outputs, rows.write(i, logits)

        rows = tf.TensorArray(
            tf.float32, masks.shape[0], element_shape=[images.shape[0], network.classes]
        )
        # Where filters are left out, the number of those that stay is data.
        specs = [
            [images.shape[0], part.out_size, part.out_size, _channels(part, runtime)]
            for part in parts
        ]
        invariants = specs if runtime.compile else [[*spec[:3], None] for spec in specs]
        common = [
            tf.zeros(spec if runtime.compile else [*spec[:3], 0], runtime.dtype) for spec in specs
        ]
        _, _, rows = tf.while_loop(
            lambda i, *_: i <= shared["count"],
            network_of,
            (0, common, rows),
            (
                tf.TensorShape([]),
                [tf.TensorShape(spec) for spec in invariants],
                tf.TensorShape(None),
            ),
            parallel_iterations=2,  # two cores wait less for each other
        )
        return {}, {"logits": tf.transpose(rows.stack()[1:], [1, 0, 2])}

    return compute
