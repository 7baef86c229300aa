"""Tasks other than classes, made from a loss function: regression, several outputs.

METHOD has no equations for them. Where it compares logits as distributions, outputs are compared
here by their squared difference, each output in units of its own spread. Losses are in units of
that of the best constant answer, and accuracy ("explained") is 1 minus that: R^2 for a squared
error.
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
    each leaf.
    """

    structure: object
    shapes: list

    @classmethod
    def of(cls, arrays):
        """(Packing, float32 [N, L]) of arrays of N rows each. Raises UserError for others."""
        if isinstance(arrays, list) and all(np.ndim(leaf) == 0 for leaf in arrays):
            arrays = np.asarray(arrays)  # numbers
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(arrays)]
        if any(leaf.ndim == 0 for leaf in leaves):
            raise UserError("the labels hold a single number; arrays of one per image are needed")
        if not leaves or len({len(leaf) for leaf in leaves}) > 1:
            raise UserError("the labels are arrays of different lengths")
        for leaf in leaves:
            if leaf.dtype.kind not in "buif" or not np.isfinite(leaf).all():
                raise UserError(f"labels are {leaf.dtype}; finite numbers are needed")
            if leaf.dtype.kind in "ui" and leaf.size and np.abs(leaf.astype(float)).max() > EXACT:
                raise UserError(f"labels are whole numbers above {EXACT:,}; divide them")
        rows = [leaf.reshape(len(leaf), -1).astype(np.float32) for leaf in leaves]
        structure = tf.nest.map_structure(lambda leaf: None, arrays)
        return cls(structure, [leaf.shape[1:] for leaf in leaves]), np.concatenate(rows, 1)

    def like(self, other):
        """Whether `other` packs arrays of the same structure and shapes."""
        try:
            tf.nest.assert_same_structure(self.structure, other.structure)
        except (ValueError, TypeError):
            return False
        return [*map(tuple, self.shapes)] == [*map(tuple, other.shapes)]

    def unpacked(self, rows):
        """The structure of tensors [n, ...] in rows, [n, L]."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        leaves = [
            tf.reshape(part, [-1, *shape])
            for part, shape in zip(tf.split(tf.convert_to_tensor(rows), sizes, 1), self.shapes)
        ]
        return tf.nest.pack_sequence_as(self.structure, leaves)


def per_image(loss, targets, outputs):
    """Function of labels [n, L] and outputs [n, D], packed, to the loss per image, float32 [n].

    loss: keras.losses.Loss, whose reduction is not used; or function of labels and outputs as the
    user has them to [n] or [n, ...]. As in Keras, it gets all labels as float32, and labels [n] as
    [n, 1] where they belong to a single output [n, 1]. targets, outputs: Packing. The function
    raises UserError for a loss that fails or has another shape.
    """
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    single = len(targets.shapes) == len(outputs.shapes) == 1
    widens = single and targets.shapes[0] == () and tuple(outputs.shapes[0]) == (1,)

    def computed(labels, rows):
        known = targets.unpacked(labels)
        if widens:
            known = tf.nest.map_structure(lambda y: y[:, None], known)
        try:
            value = tf.cast(call(known, outputs.unpacked(rows)), tf.float32)
        except Exception as error:  # whatever the user's function may raise
            reason = str(error).strip().partition("\n")[0][:200]
            raise UserError(f"the loss fails: {type(error).__name__}: {reason}") from error
        if value.shape.rank == 0 or value.shape[0] not in (None, rows.shape[0]):
            raise UserError(
                f"the loss gives {value.shape} for {rows.shape[0]} images; one number per image is"
                " needed, as from keras.losses.mean_squared_error"
            )
        return tf.reduce_mean(tf.reshape(value, [tf.shape(value)[0], -1]), 1)

    return computed


def check_alone(loss, labels, outputs):
    """Raises UserError if the loss of an image depends on the others of its batch."""
    together = loss(labels[:3], outputs[:3]).numpy()
    alone = np.concatenate([loss(labels[i : i + 1], outputs[i : i + 1]) for i in range(3)])
    if not np.allclose(together, alone, rtol=1e-3, atol=1e-6):
        raise UserError(
            "the loss of an image changes with the other images of its batch; are labels [n]"
            " compared with outputs [n, 1]? give the labels as [n, 1]"
        )


def task_of(loss, labels, outputs):
    """(the Task of a loss, the spread of outputs: float32 [D]).

    The Task takes outputs in units of their spread, and its losses are in units of that of a
    constant answer, so that learning rates and float16 suit any labels.

    Args:
        loss: from per_image.
        labels, outputs: float32 [N, L] and [N, D] of some images, the outputs those of the unpruned
            model.

    Raises UserError if the outputs are no better than a constant answer.
    """
    check_alone(loss, labels, outputs)
    spread = outputs.std(0)
    spread[spread == 0] = 1
    unit, own = _constant_loss(loss, labels, outputs), _mean(loss, labels, outputs)
    if not own < unit:
        raise UserError(
            f"the loss is {own:.4g} on {len(labels)} training images, no better than the"
            f" {unit:.4g} of a constant answer; are pixels and labels as in training?"
        )
    return _Units(loss, spread.astype(np.float32), unit).task(), spread.astype(np.float32)


def _constant_loss(loss, labels, outputs):
    """The loss of the best constant answer among the mean and median of outputs and labels."""
    answers = [outputs.mean(0), np.median(outputs, 0)]
    if labels.shape == outputs.shape:
        answers += [labels.mean(0), np.median(labels, 0)]
    losses = [_mean(loss, labels, np.broadcast_to(answer, outputs.shape)) for answer in answers]
    return min(losses)


class _Units:
    """The functions of a Task. loss: from per_image; spread: float32 [D]; unit: a loss."""

    def __init__(self, loss, spread, unit):
        self.loss, self.spread, self.unit = loss, spread, unit

    def task(self):
        judgement = Judgement(
            lambda labels, outputs: self._share(labels, outputs),
            lambda knowledge, outputs: float(((knowledge - outputs) ** 2).mean(dtype=np.float64)),
            lambda labels, outputs: 1 - self._share(labels, outputs),
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

    def _share(self, labels, outputs):
        """The mean loss of arrays, in units of that of a constant answer."""
        return _mean(self.loss, labels, outputs * self.spread) / self.unit

    def divergence(self, x, y, t):
        """In place of KLD_T(x, y) and of CE(softmax(T), O), float32 [...]. t is not used."""
        return tf.reduce_mean((x - y) ** 2, -1)

    def reward(self, batch, outputs):
        """-R per image, as ekg.knowledge.reward_loss."""
        loss = self.loss(batch["labels"], outputs * self.spread) / self.unit
        if "knowledge" in batch:
            loss += self.divergence(batch["knowledge"], outputs, None)
        return batch["weights"] * loss

    def _of_views(self, labels, outputs):
        """The loss of every view in units, float32 [b, V]. outputs: float32 [b, V, D]."""
        views = outputs.shape[1]
        flat = tf.reshape(outputs, [-1, outputs.shape[-1]]) * self.spread
        losses = self.loss(tf.repeat(labels, views, 0), flat) / self.unit
        return tf.reshape(losses, [-1, views])

    def plain(self, batch, outputs, label_smoothing=0.0):
        """The loss of the labels per image, summed over views: float32 [b]."""
        return tf.reduce_sum(self._of_views(batch["labels"], outputs), 1)

    def accuracy(self, labels, outputs):
        """What of the loss of a constant answer is gone, float32 [b, V]."""
        return 1 - self._of_views(labels, outputs)

    def measure(self, labels, outputs):
        """Sums over images, as engine.evaluation.measure; top1 and top5 are the accuracy, the loss
        is in the user's own units.
        """
        share = self._share(labels, outputs)
        accuracy = (1 - share) * len(labels)
        return {"top1": accuracy, "top5": accuracy, "loss": share * self.unit * len(labels)}


def _mean(loss, labels, outputs):
    """The mean loss, a float, in float64. labels, outputs: arrays [N, ...]."""
    total = 0.0
    for first in range(0, len(labels), ROWS):
        rows = slice(first, first + ROWS)
        some = loss(tf.constant(labels[rows]), tf.constant(outputs[rows], tf.float32))
        total += some.numpy().astype(np.float64).sum()
    return float(total / len(labels))
