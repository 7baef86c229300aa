"""Keras models that are classifiers: what they must fulfil, and how they expect pixels."""

import numpy as np

from ekg.keras_pixels import expected_pixels, outputs_of, scalings_for
from utils import UserError


class Classifier:
    """What the outputs of a Keras model mean: one class per image.

    has_classes: whether the end of the model is softmax, sigmoid or logits of classes.
    said: text that identifies the kind, for config.json.
    """

    has_classes, said = True, ""

    def check(self, name, model, data):
        """Raises UserError if the labels are not those of the model."""
        classes = max(2, model.outputs[0].shape[-1])
        if data.classes > classes:
            raise UserError(
                f"{name} knows {classes} classes, but the labels go up to {data.classes - 1}"
            )

    def settle(self, name, networks, pixels):
        """(key of SCALINGS, text that says how good the model is), from the images tried.

        networks: KerasNetworks; pixels: the key that was asked for, or None. Raises UserError if
        the model guesses.
        """
        if networks.head == "logits":
            _check_logits(name, networks)
        images, labels = networks.images, networks.labels
        scaling, accuracy = expected_pixels(name, networks.predict, images, labels, pixels)
        return scaling, f"{accuracy:.1%} of {len(labels)} training images are right"


def _check_logits(name, networks):
    """Raises UserError if what the model gives for logits looks like probabilities."""
    for scaling in scalings_for(networks.images):
        outputs = outputs_of(networks.predict, networks.images, scaling)
        if outputs.min() < 0 or outputs.max() > 1 or np.ptp(outputs) == 0:
            return
    raise UserError(
        f"the outputs of {name} are all between 0 and 1, so they are probabilities, but not of a"
        " layer or activation softmax or sigmoid at its end; end it with one, or with logits"
    )
