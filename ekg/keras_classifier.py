"""Keras models that are classifiers: what they must fulfil, and how they expect pixels."""

import numpy as np

from dataloader.arrays import SCALINGS
from engine.evaluation import measure
from utils import UserError

AS_GOOD = 0.02  # accuracies so close do not tell how a model expects its pixels


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
        scaling, accuracy = _expected(name, networks, pixels)
        return scaling, f"{accuracy:.1%} of {len(networks.labels)} training images are right"


def _check_logits(name, networks):
    """Raises UserError if what the model gives for logits looks like probabilities."""
    for scaling in networks.scalings():
        outputs = networks.outputs(*SCALINGS[scaling])
        if outputs.min() < 0 or outputs.max() > 1 or np.ptp(outputs) == 0:
            return
    raise UserError(
        f"the outputs of {name} are all between 0 and 1, so they are probabilities, but not of a"
        " layer or activation softmax or sigmoid at its end; end it with one, or with logits"
    )


def _expected(name, networks, pixels):
    """(key of SCALINGS, accuracy). Raises UserError if the model guesses."""
    found = {s: _quality(networks, s) for s in networks.scalings(pixels)}
    # Pixels 255 times too large leave an easy task right, and make its loss 0. Pixels 255 times too
    # small make a model guess. So of scalings that are nearly as accurate, 0..255 comes last.
    near = max(accuracy for accuracy, _ in found.values()) - AS_GOOD
    likely = lambda s: (s == "0..255", found[s][1])
    best = pixels or min((s for s in found if found[s][0] >= near), key=likely)
    chance = 1 / max(2, networks.original.classes)
    # Three deviations of guessing away from it.
    least = chance + 3 * (chance * (1 - chance) / len(networks.labels)) ** 0.5
    if found[best][0] <= least:
        each = ", ".join(f"{key} {accuracy:.1%}" for key, (accuracy, _) in found.items())
        raise UserError(
            f"{name} is right on {found[best][0]:.1%} of {len(networks.labels)} training images, no"
            f" more than guesses are; is its preprocessing another one? with pixels {each}"
        )
    return best, found[best][0]


def _quality(networks, scaling):
    """(accuracy, mean loss) on the images tried."""
    sums = measure(networks.labels, networks.outputs(*SCALINGS[scaling]))
    return sums["top1"] / len(networks.labels), sums["loss"] / len(networks.labels)
