"""Ensemble knowledge and the reward it gives (Eq. 4, 7, 8).

The interim sub-networks of a search are its own teachers: T_i is the running mean of their logits
on D_val. The candidate is taken that fits both the labels and T_i; the second term is what makes
the search prefer a smooth neighbourhood.
"""

import concurrent.futures

import numpy as np

from engine.logits import log_softmax
from utils import cores

BLOCK = 2**20  # logits that a core looks at at a time: 24 bytes each, and some milliseconds


def cross_entropy(labels, logits):
    """Mean cross-entropy. labels: int [N]; logits: float32 [N, C]."""
    return float(
        _by_image(lambda y, o: -log_softmax(o)[np.arange(len(y)), y], labels, logits).mean()
    )


def knowledge_loss(knowledge, logits):
    """CE(softmax(T), O), mean over images. knowledge T, logits O: float32 [N, C]."""
    return float(
        _by_image(
            lambda t, o: -(np.exp(log_softmax(t)) * log_softmax(o)).sum(-1), knowledge, logits
        ).mean()
    )


def _by_image(loss, given, logits):
    """float64 [N]: loss(given, logits) -> [n] of blocks of images, on all cores. Images do not see
    each other.
    """
    rows = max(1, BLOCK // logits.shape[-1])
    blocks = [slice(first, first + rows) for first in range(0, len(logits), rows)]
    if len(blocks) == 1:
        return loss(given, logits)
    with concurrent.futures.ThreadPoolExecutor(min(len(blocks), cores())) as threads:
        return np.concatenate(
            list(threads.map(lambda block: loss(given[block], logits[block]), blocks))
        )


def update_knowledge(knowledge, logits, members):
    """T_{i+1} from T_i, the mean of `members` = i + 1 sub-networks, and the logits of the one that
    joins (Eq. 8).
    """
    return ((knowledge * members + logits) / (members + 1)).astype(np.float32)


def reward_loss(batch, logits):
    """float32 [b]: weight * (CE(labels, O) + CE(softmax(T), O)), -R of Eq. 7 image by image, for
    the scoring step.

    batch: labels int [b]; weights float32 [b], 1 / |D_val|, 0 for fillers; knowledge T float32 [b,
    C], without it the second term is left out.
    """
    # late, because the command line knows searches, and is answered before TensorFlow is up
    import tensorflow as tf

    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    if "knowledge" in batch:
        loss += tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(batch["knowledge"]), logits)
    return batch["weights"] * loss
