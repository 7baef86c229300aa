"""The logits of several sub-networks of one batch in one call, what they have in common computed once.

The candidates of a search step differ from each other in one gate each, so that all of them see the same activations up to the
first part which that gate changes. One graph serves any set of sub-networks: which part is where one begins is data.
"""

import numpy as np
import tensorflow as tf

from op_utils import Step, forward_pass


class SubNetworks:
    """Evaluates sub-networks of `network` on batches of one size, batch statistics, up to `most` in a call of the device.

    Called with a batch of B images and masks float32 [n, F]; gives logits float32 [B, n, classes].
    """

    def __init__(self, network, runtime, prepare, most):
        # Replicas cannot be brought together within a loop of the graph.
        self.most = 1 if runtime.synchronises else most
        compute = _one(network, runtime, prepare) if self.most == 1 else _several(network, runtime, prepare)
        self.step = Step(compute, runtime, merges=runtime.synchronises)

    def __call__(self, batch, masks):
        logits = []
        for first in range(0, len(masks), self.most):
            some = masks[first : first + self.most]
            filled = np.concatenate([some, np.repeat(some[-1:], self.most - len(some), 0)])  # one shape, one trace
            rows = self.step(batch, masks=filled, count=np.int32(len(some)))[1]
            logits.append(rows["logits"].numpy()[:, : len(some)])
        return np.concatenate(logits, 1)


def _one(network, runtime, prepare):
    def compute(batch, shared):
        run = forward_pass(runtime, "batch", network.split_masks(shared["masks"][0]))
        return {}, {"logits": network(prepare(batch), run)[:, None]}

    return compute


def _several(network, runtime, prepare):
    *parts, head = network.parts
    first_part = np.repeat(np.array(network.first_parts, np.int32), network.gate_sizes)  # int32 [F]

    def compute(batch, shared):
        masks, images = shared["masks"], tf.cast(prepare(batch), runtime.dtype)
        # Sub-networks that miss a slice of one gate each have their union in common.
        union = tf.reduce_max(masks, 0)
        begins = tf.reduce_min(tf.where(masks == union, len(parts), first_part), 1)  # int32 [n]
        inputs = _inputs(parts, images, forward_pass(runtime, "batch", network.split_masks(union)), tf.reduce_max(begins))

        def logits_of(i, rows):
            run, x = forward_pass(runtime, "batch", network.split_masks(masks[i])), images
            for k, part in enumerate(parts):
                x = tf.cond(k < begins[i], lambda k=k: inputs[k + 1], lambda x=x, part=part: part(x, run))
            return i + 1, rows.write(i, head(x, run))

        rows = tf.TensorArray(tf.float32, masks.shape[0], element_shape=[images.shape[0], network.classes])
        _, rows = tf.while_loop(lambda i, _: i < shared["count"], logits_of, (0, rows), parallel_iterations=2)
        return {}, {"logits": tf.transpose(rows.stack(), [1, 0, 2])}

    return compute


def _inputs(parts, images, run, last):
    """What part 0, 1, .. `last` take; nobody asks for those behind it."""
    inputs = [images]
    for k, part in enumerate(parts):
        output = lambda x=inputs[-1], part=part: part(x, run)
        # Where shapes are fixed for XLA, a stand-in of the same shape is needed, and computing is the way to have one.
        nothing = tf.zeros([0, 0, 0, 0], run.dtype)
        inputs.append(output() if run.left is None else tf.cond(k < last, output, lambda nothing=nothing: nothing))
    return inputs
