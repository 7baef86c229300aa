"""The Hessian of a network's loss over fixed images, by its products (METHOD 12)."""

import numpy as np
import tensorflow as tf

from distribution.step import Step
from engine.console import Silent
from op_utils import context


def arrays_of(network, over):
    """The variables that the Hessian is taken over, in network order.

    over: one of analysis.options.OVER. kernels: those of convolutions and of the fully connected
    layer, without biases and vectors of batch norm (METHOD 12). Shapes do not tell them apart:
    vectors are stored as [1, 1, 1, C], and so is a 1x1 kernel that has one input channel left.
    """
    if over == "all":
        return network.trainable
    layers = network.network_layers
    return [layer.arrays["kernel"] for layer in layers if "kernel" in layer.arrays]


def _loss(network, runtime, images, batch):
    """The batch's share of the mean cross-entropy, with moving averages."""
    logits = network(images, context(runtime, "folded"))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    return tf.reduce_sum(losses * batch["weights"])


def _gradient(network, variables, runtime, images, batch):
    """list of the gradients of the loss with respect to `variables`"""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        loss = _loss(network, runtime, images, batch)
    zero = tf.UnconnectedGradients.ZERO
    return tape.gradient(loss, variables, unconnected_gradients=zero)


def _flat(arrays):
    return tf.concat([tf.reshape(array, [-1]) for array in arrays], 0)


def loss_step(network, runtime, prepare):
    """A step whose sum is the `loss` of a batch, weighted by batch["weights"].

    prepare: function of a batch to float32 [b, S, S, 3].
    """

    def compute(batch, shared):
        return {"loss": _loss(network, runtime, prepare(batch), batch)}, {}

    return Step(compute, runtime)


def product_step(network, variables, runtime, prepare):
    """A step whose sum is the `product` of a batch's Hessian and `vector`, float32 [P].

    It is exact: the gradient of the gradient's component along the vector (Pearlmutter 1994).
    Forward over reverse gives the same numbers, and on CPUs it takes longer.
    """
    sizes = [int(np.prod(v.shape)) for v in variables]

    def compute(batch, shared):
        images = prepare(batch)
        parts = tf.split(shared["vector"], sizes)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            gradients = _gradient(network, variables, runtime, images, batch)
            along = tf.add_n(
                [tf.reduce_sum(tf.reshape(g, [-1]) * v) for g, v in zip(gradients, parts)]
            )
        zero = tf.UnconnectedGradients.ZERO
        return {"product": _flat(tape.gradient(along, variables, unconnected_gradients=zero))}, {}

    return Step(compute, runtime)


class Hessian:
    """The Hessian of the mean cross-entropy of `network` over `images`, by its products.

    Sums over batches are float64; memory is needed for one batch.

    Args:
        network: Network.
        over: one of analysis.options.OVER.
        runtime: Runtime.
        images: analysis.images.Images.
        prepare: function of a batch to float32 [b, S, S, 3].
        bar: bar(batches) shows their progress.
    """

    def __init__(self, network, over, runtime, images, prepare, bar=Silent):
        self.images, self.bar = images, bar
        self.variables = arrays_of(network, over)
        self.size = sum(int(np.prod(v.shape)) for v in self.variables)
        self._loss = loss_step(network, runtime, prepare)
        self._product = product_step(network, self.variables, runtime, prepare)

    def loss(self):
        """The mean cross-entropy over the images, float."""
        return mean_loss(self._loss, self.images, self.bar)

    def product(self, vector):
        """The Hessian times `vector`, float64 [P], in the order of `variables`.

        Raises FloatingPointError if it is not finite.
        """
        total, vector = np.zeros(self.size), np.asarray(vector, np.float32)
        for batch in self.bar(self.images.batches):
            total += self._product(batch, vector=vector)[0]["product"].numpy()
        if not np.isfinite(total).all():
            raise FloatingPointError("a product with the Hessian is not finite")
        return total


def mean_loss(step, images, bar=Silent):
    """The mean cross-entropy over Images, float. step: from `loss_step`."""
    return float(sum(float(step(batch)[0]["loss"]) for batch in bar(images.batches)))
