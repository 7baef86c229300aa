"""A Keras model as the subject of a run (engine.networks)."""

import dataclasses
import typing

import keras

from coupling.prunable import check_input, check_output
from coupling.samples import SIZE
from dataloader.arrays import SCALINGS
from ekg.keras_classifier import Classifier
from ekg.keras_networks import KerasNetworks
from utils import UserError


class KerasSubject:
    """See engine.networks.Subject.

    Args:
        source: of the model, see coupling.sources.
        data: function of the shape of images that the model takes, (H, W, C), to the Dataset.
        pixels: a key of SCALINGS; None: the one with which the model is most accurate.
        views: text that says how views of images differ.
        input_size: height and width of images where both the model and the data leave them open.
        keeps: whether the run folder stays, with the result as a file in it.
        kind: what the outputs mean: Classifier, or ekg.keras_own_loss.OwnLoss.
    """

    computes = True

    def __init__(self, source, data, pixels=None, views="", input_size=None, keeps=True, kind=None):
        self.source, self.load_data, self.pixels = source, data, pixels
        self.views, self.size, self.keeps = views, input_size or SIZE, keeps
        self.kind = kind or Classifier()
        self.digest = ""  # of the data
        self.made: typing.Any = None  # the KerasNetworks of the run

    def data(self, share):
        model = self.source.model
        check_input(model)
        check_output(model, several=not self.kind.has_classes)
        shape = model.inputs[0].shape[1:]
        data = self.load_data(tuple(n or self.size for n in shape))
        self.digest = data.digest
        return data

    def runtime(self, runtime):
        return dataclasses.replace(runtime, multiple=1, drops=False)

    def find(self, begun):
        pixels = self.pixels or "as measured"
        return (
            f"model {self.source.identity()}, data {self.digest}, pixels {pixels},"
            f" views {self.views or 'as given'}{self.kind.said}"
        )

    def networks(self, data, strategy):
        name, model = self.source.name, self.source.model
        _check_images(name, model, data)
        self.kind.check(name, model, data)
        networks = KerasNetworks(model, data, strategy, self.kind.has_classes)
        if not networks.original.gates:
            raise UserError(f"{name} has no filters that can go; prune_keras.py --gates says why")
        scaling, quality = self.kind.settle(name, networks, self.pixels)
        networks.pixels = SCALINGS[scaling]
        notes = "".join(f"; {note}" for note in networks.notes)
        networks.source = f"{name}: {quality}, pixels {scaling}{notes}"
        networks.keeps, self.made = self.keeps, networks
        return networks


def _check_images(name, model, data):
    """Raises UserError if images are not those of the model, or Keras computes otherwise."""
    takes, shape = model.inputs[0].shape[1:], data.x_train.shape[1:]
    if any(n not in (None, m) for n, m in zip(takes, shape)):
        size = tuple("any" if n is None else n for n in takes)
        raise UserError(f"{name} takes images {size}, but the data are {shape}".replace("'", ""))
    if keras.backend.floatx() != "float32":
        raise UserError(f"Keras computes in {keras.backend.floatx()} here; set it to float32")
