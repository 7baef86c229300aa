"""Tasks other than classes, made from a loss function: regression, several outputs.

METHOD has no equations for them. Where it compares logits as distributions, outputs are compared
here by their squared difference, each output in units of its own spread. Accuracy ("explained") is
the share of the loss of a constant answer that is gone: R^2 for a squared error.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from ekg.knowledge import Judgement
from ekg.task import Task
from utils import UserError

ROWS = 4096  # per call of the loss on the host
EXACT = 2**24  # whole numbers up to this one are float32


@dataclasses.dataclass(frozen=True)
class Packing:
    """How arrays or tensors of several shapes and types become rows of numbers, float32 [N, L].

    structure: of what is packed, nested lists, tuples and dicts; shapes: of one image's part of
    each leaf; dtypes: of the leaves.
    """

    structure: object
    shapes: list
    dtypes: list

    @classmethod
    def of(cls, arrays):
        """(Packing, float32 [N, L]) of arrays of N rows each. Raises UserError for others."""
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(arrays)]
        if not leaves or len({len(leaf) if leaf.ndim else -1 for leaf in leaves}) > 1:
            raise UserError("the labels are arrays of different lengths")
        for leaf in leaves:
            if leaf.dtype.kind not in "buif" or not np.isfinite(leaf).all():
                raise UserError(f"labels are {leaf.dtype}; finite numbers are needed")
            if leaf.dtype.kind in "ui" and leaf.size and np.abs(leaf.astype(float)).max() > EXACT:
                raise UserError(f"labels are whole numbers above {EXACT:,}; divide them")
        rows = [leaf.reshape(len(leaf), -1).astype(np.float32) for leaf in leaves]
        structure = tf.nest.map_structure(lambda leaf: None, arrays)
        own = cls(structure, [leaf.shape[1:] for leaf in leaves], [leaf.dtype for leaf in leaves])
        return own, np.concatenate(rows, 1)

    def unpacked(self, rows):
        """The structure of tensors [n, ...] in rows, [n, L]."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        leaves = [
            tf.cast(tf.reshape(part, [-1, *shape]), dtype)
            for part, shape, dtype in zip(tf.split(rows, sizes, 1), self.shapes, self.dtypes)
        ]
        return tf.nest.pack_sequence_as(self.structure, leaves)


def per_image(loss, targets, outputs):
    """Function of labels [n, L] and outputs [n, D], packed, to the loss per image, float32 [n].

    loss: keras.losses.Loss, or function of labels and outputs as the user has them to [n] or
    [n, ...]. targets, outputs: Packing. The function raises UserError for a loss of other shapes.
    """
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def computed(labels, rows):
        value = tf.cast(call(targets.unpacked(labels), outputs.unpacked(rows)), tf.float32)
        if value.shape.rank == 0 or value.shape[0] not in (None, rows.shape[0]):
            raise UserError(
                f"the loss gives {value.shape} for {rows.shape[0]} images; one number per image is"
                " needed, as from keras.losses.mean_squared_error"
            )
        return tf.reduce_mean(tf.reshape(value, [tf.shape(value)[0], -1]), 1)

    return computed


def task_of(loss, labels, outputs):
    """The Task of a loss.

    Args:
        loss: from per_image.
        labels, outputs: float32 [N, L] and [N, D] of some images, the outputs those of the unpruned
            model. They set the units.

    Raises UserError if the outputs are no better than their mean.
    """
    spread = outputs.std(0)
    spread[spread == 0] = 1
    constant = np.broadcast_to(outputs.mean(0), outputs.shape)
    unit, own = _mean(loss, labels, constant), _mean(loss, labels, outputs)
    if not own < unit:
        raise UserError(
            f"the loss is {own:.4g} on {len(labels)} training images, no better than the"
            f" {unit:.4g} of a constant answer; are pixels and labels as in training?"
        )
    return _Units(loss, spread.astype(np.float32), unit).task()


class _Units:
    """The functions of a Task. loss: from per_image; spread: float32 [D]; unit: a loss."""

    def __init__(self, loss, spread, unit):
        self.loss, self.spread, self.unit = loss, spread, unit

    def task(self):
        judgement = Judgement(
            lambda labels, outputs: _mean(self.loss, labels, outputs),
            lambda knowledge, outputs: float(self._distance(knowledge, outputs).mean()),
            lambda labels, outputs: 1 - _mean(self.loss, labels, outputs) / self.unit,
        )
        return Task(
            judgement,
            self.reward,
            self.plain,
            self.divergence,
            self.accuracy,
            self.measure,
            accuracy_name="explained",
        )

    def _distance(self, x, y):
        """In place of CE(softmax(T), O): the squared difference in units of spread and loss."""
        return self.unit * (((x - y) / self.spread) ** 2).mean(-1, dtype=np.float64)

    def divergence(self, x, y, t):
        """In place of KLD_T(x, y), float32 [...]. t is not used."""
        return self.unit * tf.reduce_mean(((x - y) / self.spread) ** 2, -1)

    def reward(self, batch, outputs):
        """-R per image, as ekg.knowledge.reward_loss."""
        loss = self.loss(batch["labels"], outputs)
        if "knowledge" in batch:
            loss += self.divergence(batch["knowledge"], outputs, None)
        return batch["weights"] * loss

    def _of_views(self, labels, outputs):
        """The loss of every view, float32 [b, V]. outputs: float32 [b, V, D]."""
        views = outputs.shape[1]
        flat = tf.reshape(outputs, [-1, outputs.shape[-1]])
        return tf.reshape(self.loss(tf.repeat(labels, views, 0), flat), [-1, views])

    def plain(self, batch, outputs, label_smoothing=0.0):
        """The loss of the labels per image, summed over views: float32 [b]."""
        return tf.reduce_sum(self._of_views(batch["labels"], outputs), 1)

    def accuracy(self, labels, outputs):
        """What of the loss of a constant answer is gone, float32 [b, V]."""
        return 1 - self._of_views(labels, outputs) / self.unit

    def measure(self, labels, outputs):
        """Sums over images, as engine.evaluation.measure; top1 and top5 are the accuracy."""
        total = _mean(self.loss, labels, outputs) * len(labels)
        accuracy = len(labels) - total / self.unit
        return {"top1": accuracy, "top5": accuracy, "loss": total}


def _mean(loss, labels, outputs):
    """The mean loss, a float, in float64. labels, outputs: arrays [N, ...]."""
    total = 0.0
    for first in range(0, len(labels), ROWS):
        rows = slice(first, first + ROWS)
        some = loss(tf.constant(labels[rows]), tf.constant(outputs[rows], tf.float32))
        total += some.numpy().astype(np.float64).sum()
    return float(total / len(labels))
