"""What a Keras model expects pixels to be made into, measured on training images."""

import numpy as np

from dataloader.arrays import SCALINGS
from engine.evaluation import measure
from utils import UserError

TRIED = 512  # training images on which a model is measured
BATCH = 64
# Accuracies and losses (nats) so close do not tell how a model expects its pixels.
AS_ACCURATE, AS_SURE = 0.02, 0.1


def tried_images(data):
    """(images, labels) of training images of a Dataset, to measure a model on."""
    random = np.random.default_rng(0).permutation(len(data.y_train))[:TRIED]
    return data.x_train[random], data.y_train[random]


def scalings_for(images, asked=None):
    """The keys of SCALINGS that fit the channels of images [N, H, W, C], a list.

    Raises UserError if the one that was asked for is not among them.
    """
    channels = images.shape[-1]
    fits = [name for name, (mean, _) in SCALINGS.items() if len(mean) in (1, channels)]
    if asked and asked not in fits:
        raise UserError(f"--pixels {asked} is for 3 channels; the images have {channels}")
    return fits


def outputs_of(predict, images, scaling):
    """What a model gives for images with a scaling, a key of SCALINGS: float32 [N, outputs].

    predict: function of float32 images [B, H, W, C] to float32 [B, outputs].
    """
    mean, std = SCALINGS[scaling]
    found = []
    for first in range(0, len(images), BATCH):
        x = (images[first : first + BATCH].astype(np.float32) - mean) / std
        found.append(np.asarray(predict(x.astype(np.float32))))
    return np.concatenate(found)


def expected_pixels(name, predict, images, labels, asked=None):
    """(key of SCALINGS, accuracy) of a classifier.

    Args:
        name: of the model, for messages.
        predict: see outputs_of; it gives logits.
        images, labels: as from tried_images.
        asked: a key of SCALINGS; None: the one with which the model is most accurate.

    Raises UserError if the model guesses.
    """
    logits = {s: outputs_of(predict, images, s) for s in scalings_for(images, asked)}
    found = {s: _quality(labels, outputs) for s, outputs in logits.items()}
    best = asked or _likely(found)
    chance = 1 / logits[best].shape[-1]
    # Three deviations of guessing away from it.
    least = chance + 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    same = len(set(logits[best].argmax(-1).tolist())) == 1 < len(set(labels.tolist()))
    if same or found[best][0] <= min(least, 1 - 1e-9):
        each = ", ".join(f"{key} {accuracy:.1%}" for key, (accuracy, _) in found.items())
        raise UserError(
            f"{name} is right on {found[best][0]:.1%} of {len(labels)} training images, no more"
            f" than guesses are; is its preprocessing another one? with pixels {each}"
        )
    return best, found[best][0]


def _likely(found):
    """The key with which a model was probably trained. found: dict key -> (accuracy, loss)."""
    most = max(accuracy for accuracy, _ in found.values())
    near = [s for s in found if found[s][0] >= most - AS_ACCURATE]
    least = min(found[s][1] for s in near)
    near = [s for s in near if found[s][1] <= least + AS_SURE]
    # Pixels 255 times too large leave an easy task right, and make its loss 0. Pixels 255 times too
    # small leave a model unsure. So among the rest, 0..255 comes last; the others in their order.
    return min(near, key=lambda s: (s == "0..255", [*found].index(s)))


def _quality(labels, logits):
    """(accuracy, mean loss)"""
    sums = measure(labels, logits)
    return sums["top1"] / len(labels), sums["loss"] / len(labels)
