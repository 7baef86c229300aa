"""The reference of search.py: a search in the straightforward way, on whole masked networks."""

import statistics
import time

import numpy as np

from dataloader.sampling import padded_batches

ROUNDS = 9  # timed calls per network for the fairness of the reference


def masked_context(masks, tape=None):
    """A Context without shortcuts. masks: list of float32 [C], one per gate.

    Without a tape, for candidates, masks are in the vectors of batch norm as in the project, so
    that the forward pass is as fast as without masks. With a tape, gates multiply activations as in
    the paper, and all gradients are automatic: each use of a gate also multiplies by a probe of
    ones, float32 [C], whose gradient is the sum over B, H, W of dy * y for the masked activation y.
    """
    import tensorflow as tf

    from nets.gates import Context

    class ScoringContext(Context):
        def vector(self, vector, gate):
            # Unchanged: the gate after the batch norm zeroes what a dropped filter adds.
            return vector

        def observe(self, y, gate):
            probe = tf.ones([gate.size])
            self.tape.watch(probe)
            self.probes[gate.index].append(probe)
            return y * self.masks[gate.index] * probe

    if tape is None:
        return Context("batch", masks)
    # With a merge, batch norm is tf.nn.moments and tf.nn.batch_normalization, with automatic
    # gradients.
    return ScoringContext("batch", masks, tape, merge=lambda mean, variance: (mean, variance))


class Plain:
    """The same methods as ekg.validation.Validation, implemented in the most direct way.

    Args:
        network: Network.
        prepare: prepare(batch) makes the network's input from images.
        images: uint8 [N, S, S, 3] of D_val.
        labels: int [N].
        batch_size: images per batch.

    Attribute traces: dict name of function -> number of traces.
    """

    def __init__(self, network, prepare, images, labels, batch_size):
        import tensorflow as tf

        self.network, self.prepare, self.images, self.labels = network, prepare, images, labels
        self.batches = padded_batches(len(labels), batch_size)
        self.traces = {"score": 0, "predict": 0}
        self.forward = tf.function(self._forward, autograph=False)
        self.backward = tf.function(self._backward, autograph=False)

    def _forward(self, images, masks):
        """float32 [B, classes], logits of the sub-network with masks float32 [F]."""
        self.traces["predict"] += 1  # Python code runs only while tracing
        return self.network(
            self.prepare({"images": images}), masked_context(self.network.split_masks(masks))
        )

    def _backward(self, batch, masks):
        """For every gate a list of float32 [C], one per use: the inner sums of Eq. 9."""
        import tensorflow as tf

        from ekg.knowledge import reward_loss

        self.traces["score"] += 1
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            ctx = masked_context(self.network.split_masks(masks), tape)
            total = tf.reduce_sum(reward_loss(batch, self.network(self.prepare(batch), ctx)))
        return tape.gradient(total, ctx.probes)

    def importance(self, masks, knowledge):
        """float32 [F], importance in the sub-network with masks float32 [F].

        knowledge: float32 [N, classes].
        """
        import tensorflow as tf

        from ekg.importance import importance

        signed = []
        for indices, real in self.batches:
            weights = np.where(np.arange(len(indices)) < real, 1 / len(self.labels), 0).astype(
                np.float32
            )
            arrays = {"images": self.images, "labels": self.labels, "knowledge": knowledge}
            batch = {name: tf.constant(array[indices]) for name, array in arrays.items()}
            sums = self.backward({**batch, "weights": tf.constant(weights)}, tf.constant(masks))
            signed.append(tf.nest.map_structure(np.asarray, sums))
        return importance(signed)

    def predict(self, masks):
        """Yields float32 [N, classes], logits, for each row of masks float32 [n, F]."""
        import tensorflow as tf

        for mask in masks:
            parts = [
                self.forward(tf.constant(self.images[i]), tf.constant(mask)).numpy()[:real]
                for i, real in self.batches
            ]
            yield np.concatenate(parts)


def fairness(plain):
    """(masked, unmasked): median seconds per batch of the reference's forward pass, and of the
    ordinary network's.
    """
    import tensorflow as tf

    from nets.gates import Context

    network, images = plain.network, tf.constant(plain.images[plain.batches[0][0]])
    masks = tf.ones([network.gate_sizes.sum()])
    ordinary = tf.function(
        lambda: network(plain.prepare({"images": images}), Context("batch")), autograph=False
    )
    calls = [lambda: plain.forward(images, masks).numpy(), lambda: ordinary().numpy()]
    times = [[], []]
    for number in range(ROUNDS + 1):
        for call, own in zip(calls, times):
            begin = time.perf_counter()
            call()
            if number:  # the first call traces
                own.append(time.perf_counter() - begin)
    return tuple(statistics.median(own) for own in times)
