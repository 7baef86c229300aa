"""Networks so small that their Hessian fits on a page, and that Hessian."""

import numpy as np
import tensorflow as tf
from networks import randomised
from small_network import FLAT, Small

from analysis.images import Images
from ekg.extraction import extract
from nets import build_network
from nets.gates import Context

SIZE = 8  # of the images
RNG = np.random.default_rng(0)
PIXELS = RNG.normal(size=(12, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.arange(12) % 5


def resnet_8(filters=2):
    """A ResNet-8 with so many filters per gate, every array random."""
    whole = build_network("ResNet-8", 10, SIZE)
    flat = np.concatenate([np.arange(n) < filters for n in whole.gate_sizes]).astype(np.float32)
    return build_network("ResNet-8", 10, SIZE, randomised(extract(whole, flat), 0))


def depthwise():
    """The small network with a depthwise convolution and pruned filters."""
    return Small(extract(Small(randomised(Small().parameters(), 1)), FLAT))


NETWORKS = {"ResNet-8": resnet_8, "depthwise": depthwise}


def given(batch):
    return batch["images"]


def images(batch_size=5):
    """12 images; with 5 per batch, the last one is not full."""
    return Images(PIXELS, LABELS, batch_size)


def mean_loss(network, context=None):
    logits = network(PIXELS, context or Context("moving"))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits)
    return tf.reduce_mean(losses)


def explicit_hessian(network, variables, context=None):
    """float64 [P, P], of the mean loss: the derivatives of every entry of the gradient."""
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = mean_loss(network, context)
        zero = tf.UnconnectedGradients.ZERO
        parts = inner.gradient(loss, variables, unconnected_gradients=zero)
        gradient = tf.concat([tf.reshape(part, [-1]) for part in parts], 0)
    rows = outer.jacobian(gradient, variables, unconnected_gradients=zero)
    matrix = np.concatenate([row.numpy().reshape(len(gradient), -1) for row in rows], 1)
    return np.float64(matrix + matrix.T) / 2
