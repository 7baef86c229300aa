"""A Keras model as the subject of a run (engine.networks), and what it must fulfil."""

import dataclasses
import typing

import keras
import numpy as np

from coupling.prunable import check_ends
from coupling.samples import SIZE
from dataloader.arrays import SCALINGS
from ekg.keras_networks import KerasNetworks
from engine.evaluation import measure
from utils import UserError

TRIED = 512  # training images on which a model's accuracy is measured before the run
AS_GOOD = 0.02  # accuracies so close do not tell how a model expects its pixels


class KerasSubject:
    """See engine.networks.Subject.

    Args:
        source: of the model, see coupling.sources.
        data: function of the shape of images that the model takes, (H, W, C), to the Dataset.
        pixels: a key of SCALINGS; None: the one with which the model is most accurate.
        views: text that says how views of images differ.
        input_size: height and width of images where both the model and the data leave them open.
        keeps: whether the run folder stays, with the result as a file in it.
    """

    computes = True

    def __init__(self, source, data, pixels=None, views="", input_size=None, keeps=True):
        self.source, self.load_data, self.pixels = source, data, pixels
        self.views, self.size, self.keeps = views, input_size or SIZE, keeps
        self.digest = ""  # of the data
        self.made: typing.Any = None  # the KerasNetworks of the run

    def data(self, share):
        model = self.source.model
        check_ends(model)
        shape = model.inputs[0].shape[1:]
        data = self.load_data(tuple(n or self.size for n in shape))
        self.digest = data.digest()
        return data

    def runtime(self, runtime):
        return dataclasses.replace(runtime, multiple=1, drops=False)

    def find(self, begun):
        pixels = self.pixels or "as measured"
        return (
            f"model {self.source.identity()}, data {self.digest}, pixels {pixels},"
            f" views {self.views or 'as given'}"
        )

    def networks(self, data, strategy):
        name = self.source.name
        _check_fits(name, self.source.model, data)
        networks = KerasNetworks(self.source.model, data, strategy, TRIED)
        if networks.head == "logits":
            _check_logits(name, networks)
        scaling, accuracy = _expected(name, networks, self.pixels)
        networks.pixels = SCALINGS[scaling]
        networks.source = (
            f"{name}: {accuracy:.1%} of {len(networks.labels)} training images are right, pixels"
            f" {scaling}{''.join(f'; {note}' for note in networks.notes)}"
        )
        networks.keeps, self.made = self.keeps, networks
        return networks


def _check_fits(name, model, data):
    """Raises UserError if images or classes are not those of the model."""
    takes, shape = model.inputs[0].shape[1:], data.x_train.shape[1:]
    if any(n not in (None, m) for n, m in zip(takes, shape)):
        size = tuple("any" if n is None else n for n in takes)
        raise UserError(f"{name} takes images {size}, but the data are {shape}".replace("'", ""))
    classes = max(2, model.outputs[0].shape[-1])
    if data.classes > classes:
        raise UserError(
            f"{name} knows {classes} classes, but the labels go up to {data.classes - 1}"
        )
    if keras.backend.floatx() != "float32":
        raise UserError(f"Keras computes in {keras.backend.floatx()} here; set it to float32")


def _check_logits(name, networks):
    """Raises UserError if what the model gives for logits looks like probabilities."""
    for scaling in filter(networks.applies, SCALINGS):
        outputs = networks.outputs(*SCALINGS[scaling])
        if outputs.min() < 0 or outputs.max() > 1 or np.ptp(outputs) == 0:
            return
    raise UserError(
        f"the outputs of {name} are all between 0 and 1, so they are probabilities, but not of a"
        " layer or activation softmax or sigmoid at its end; end it with one, or with logits"
    )


def _expected(name, networks, pixels):
    """(key of SCALINGS, accuracy). Raises UserError if the model guesses."""
    if pixels and not networks.applies(pixels):
        channels = networks.images.shape[-1]
        raise UserError(f"--pixels {pixels} is for 3 channels; the images have {channels}")
    scalings = filter(networks.applies, SCALINGS)
    found = {s: _quality(networks, s) for s in scalings}
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
