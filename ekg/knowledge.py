"""Ensemble knowledge and the reward it gives (Eq. 4, 7, 8).

The interim sub-networks of a search are its teachers: T_i is the running mean of their logits on
D_val. The search takes the candidate that best fits both the labels and T_i. The second term makes
it prefer smooth loss landscapes.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable

import numpy as np

from engine.logits import log_softmax
from utils import cores

BLOCK = 2**20  # logits per task of a core: 24 bytes of memory each, a few milliseconds


def cross_entropy(labels, logits):
    """CE(labels, O), the mean over images (Eq. 4). labels: int [N]; logits: float32 [N, C]."""
    loss = lambda y, o: -log_softmax(o)[np.arange(len(y)), y]
    return float(_by_image(loss, labels, logits).mean())


def knowledge_loss(knowledge, logits):
    """CE(softmax(T), O), the mean over images (Eq. 7). knowledge T, logits O: float32 [N, C]."""
    loss = lambda t, o: -(np.exp(log_softmax(t)) * log_softmax(o)).sum(-1)
    return float(_by_image(loss, knowledge, logits).mean())


def _by_image(loss, given, logits):
    """loss(given, logits) -> [n] of blocks of images, computed on all cores: float64 [N].

    This is exact, because the loss of an image does not depend on other images.
    """
    rows = max(1, BLOCK // logits.shape[-1])
    blocks = [slice(first, first + rows) for first in range(0, len(logits), rows)]
    if len(blocks) == 1:
        return loss(given, logits)
    with concurrent.futures.ThreadPoolExecutor(min(len(blocks), cores())) as threads:
        losses = threads.map(lambda block: loss(given[block], logits[block]), blocks)
        return np.concatenate(list(losses))


def accuracy(labels, logits):
    """The share of images whose largest logit is that of their label. int [N]; float32 [N, C]."""
    return float((logits.argmax(-1) == labels).mean())


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a search asks of outputs, on the host; all are means over images.

    loss, accuracy: functions of labels and outputs. agreement: function of T and outputs, the
    second term of -R (Eq. 7).
    """

    loss: Callable
    agreement: Callable
    accuracy: Callable


OF_CLASSES = Judgement(cross_entropy, knowledge_loss, accuracy)


def update_knowledge(knowledge, logits, members):
    """T_{i+1}, float32 [N, C] (Eq. 8).

    knowledge: T_i, float32 [N, C], the mean of the logits of `members` = i + 1 sub-networks.
    logits: O of the chosen sub-network, float32 [N, C].
    """
    # Eq. 8: T_{i+1} = (T_i * (i + 1) + O) / (i + 2)
    return ((knowledge * members + logits) / (members + 1)).astype(np.float32)


def reward_loss(batch, logits):
    """The terms of -R (Eq. 4, 7) per image, for the scoring step: float32 [b].

    batch: dict of labels, int [b]; weights, float32 [b], 1 / |D_val|, or 0 for filler images; and
    knowledge T, float32 [b, C]. Without knowledge the second term is left out.
    logits: O, float32 [b, C].
    """
    # Imported here because the command line imports this module and must start without TensorFlow.
    import tensorflow as tf

    # Eq. 4 and 7: -R = CE(labels, O) + CE(softmax(T), O)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    if "knowledge" in batch:
        loss += tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(batch["knowledge"]), logits)
    return batch["weights"] * loss
