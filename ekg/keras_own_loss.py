"""Keras models with a loss function of the user's: regression, several outputs."""

import hashlib
import re
import types

import keras
import tensorflow as tf

from ekg.keras_pixels import outputs_of, scalings_for
from ekg.other_tasks import Packing, per_image, task_of
from utils import UserError


def _found(loss):
    """The loss function or keras.losses.Loss that is meant."""
    if isinstance(loss, str):
        try:
            return keras.losses.get(loss)
        except ValueError as error:
            raise UserError(f"loss={loss!r} is no loss of Keras") from error
    if isinstance(loss, type) or not (isinstance(loss, keras.losses.Loss) or callable(loss)):
        raise UserError(
            f"loss is a {type(loss).__name__}; a keras.losses.Loss, or one function of all labels"
            " and outputs, is needed"
        )
    return loss


def _identity(loss):
    """Text that tells losses apart: a name, and a digest of its settings or its code."""
    name = getattr(loss, "__name__", None) or type(loss).__name__
    if isinstance(loss, keras.losses.Loss):
        text = repr(sorted(vars(loss).items(), key=str))  # its configuration may lack arguments
    elif isinstance(loss, types.FunctionType):
        cells = [cell.cell_contents for cell in loss.__closure__ or ()]
        text = repr((loss.__code__.co_code, loss.__code__.co_consts, loss.__defaults__, cells))
    else:
        text = name
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # places in memory
    return f"{name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


class OwnLoss:
    """What the outputs of a Keras model mean: what a loss function makes of them.

    Args:
        loss: see ekg.other_tasks.per_image, or the name of one in Keras.
        targets: Packing of the labels.

    Raises UserError for a loss that is neither.
    """

    has_classes = False

    def __init__(self, loss, targets):
        self.loss, self.targets = _found(loss), targets
        self.said = f", loss {_identity(self.loss)}"

    def check(self, name, model, data):
        """Nothing is known of the labels."""

    def settle(self, name, networks, pixels):
        """As Classifier.settle; the scaling with the least loss. Makes the task of the networks."""
        model = networks.original.model
        structure = tf.nest.map_structure(lambda y: None, model.output)
        shapes = [tuple(y.shape[1:]) for y in model.outputs]
        outputs = Packing(structure, shapes)
        loss = per_image(self.loss, self.targets, outputs)
        images = networks.images
        found = {s: outputs_of(networks.predict, images, s) for s in scalings_for(images, pixels)}
        means = {s: float(tf.reduce_mean(loss(networks.labels, found[s]))) for s in found}
        scaling = pixels or min(means, key=means.__getitem__)
        networks.task, networks.spread = task_of(loss, networks.labels, found[scaling])
        return scaling, f"loss {means[scaling]:.4g} on {len(networks.labels)} training images"
