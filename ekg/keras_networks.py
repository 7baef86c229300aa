"""A Keras model as the subject of a run (engine.networks)."""

import dataclasses
import hashlib
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from coupling.extraction import extract
from coupling.graph import as_functional
from coupling.heads import without_head
from coupling.loading import load_model
from coupling.masking import kept_filters, whole_mask
from coupling.network import KerasNetwork
from coupling.prunable import PrunableModel
from coupling.samples import sample_inputs
from dataloader.arrays import SCALINGS
from ekg.importance import first_filters
from engine.configuration import versions
from engine.run_files import KERAS_RESULT
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from utils import UserError

TRIED = 512  # training images on which a model's accuracy is measured before the run
COMPARED = 32  # of these, to compare masked and extracted
CLOSE = 1e-3  # largest difference of their logits, relative to the largest logit


class Scaled:
    """A PrunableModel that is given pixels 0..255, and makes of them what its model expects."""

    def __init__(self, network, mean, std, kept):
        """kept: int [G], how many filters of each gate of the original model are left."""
        self.network, self.mean, self.std, self.kept = network, mean, std, kept
        self.parts, self.first_parts = [self], network.first_parts
        self.classes = max(2, network.classes)

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, images, ctx):
        mean, std = (tf.constant(value, tf.float32) for value in (self.mean, self.std))
        return of_classes(self.network((tf.cast(images, tf.float32) - mean) / std, ctx))


def of_classes(logits):
    """Logits per class, float32 [B, 2 or more]: a single one is that of class 1, against 0."""
    return tf.pad(logits, [[0, 0], [1, 0]]) if logits.shape[-1] == 1 else logits


def image_shape(path, trust):
    """(H, W, C) of the images that the model in a file takes."""
    (image,) = sample_inputs(as_functional(load_model(path, trust)))
    return image.shape[1:]


class KerasSubject:
    """See engine.networks.Subject.

    Args:
        path: of the model's file.
        data: function of None to the Dataset.
        trust: see coupling.loading.load_model.
        pixels: a key of SCALINGS; None: the one with which the model is most accurate.
        views: text that says how views of images differ.
    """

    def __init__(self, path, data, trust=False, pixels=None, views=""):
        self.path, self.load_data, self.trust = path, data, trust
        self.pixels, self.views = pixels, views

    def data(self, share):
        return self.load_data()

    def runtime(self, runtime):
        return dataclasses.replace(runtime, multiple=1, drops=False)

    def find(self, begun):
        try:
            with open(self.path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()[:16]
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        pixels = self.pixels or "as measured"
        return f"model {content}, pixels {pixels}, views {self.views or 'as given'}"

    def networks(self, data, strategy):
        return KerasNetworks(self, load_model(self.path, self.trust), data, strategy)


class KerasNetworks:
    """See engine.networks.Networks."""

    trained = True

    def __init__(self, subject, model, data, strategy):
        self.data, self.strategy, self.arch = data, strategy, model.name
        with strategy.scope():
            self.original, self.put_back = _of_logits(model)
        _check_fits(subject.path, self.original, data)
        random = np.random.default_rng(0).permutation(len(data.y_train))[:TRIED]
        self.images, self.labels = data.x_train[random], data.y_train[random]
        name, accuracy = self._expected(subject.path, subject.pixels)
        self.pixels = SCALINGS[name]
        self.source = (
            f"{subject.path}: {accuracy:.1%} of {len(random)} training images are right, pixels"
            f" {name}"
        )

    def _expected(self, path, pixels):
        """(key of SCALINGS, accuracy). Raises UserError if the model guesses."""
        found = {name: self._accuracy(*SCALINGS[name]) for name in SCALINGS if self._applies(name)}
        name = pixels or max(found, key=found.__getitem__)
        chance = 1 / max(2, self.original.classes)
        # Three deviations of guessing away from it.
        least = chance + 3 * (chance * (1 - chance) / len(self.labels)) ** 0.5
        if found[name] <= least:
            each = ", ".join(f"{key} {value:.1%}" for key, value in found.items())
            raise UserError(
                f"{path} is right on {found[name]:.1%} of {len(self.labels)} training images, no"
                f" more than guesses are; is its preprocessing another one? with pixels {each}"
            )
        return name, found[name]

    def _applies(self, name):
        return len(SCALINGS[name][0]) in (1, self.images.shape[-1])

    def _accuracy(self, mean, std):
        logits = []
        for first in range(0, len(self.images), 64):
            x = (self.images[first : first + 64].astype(np.float32) - mean) / std
            found = self.original(x.astype(np.float32), Context("moving"))
            logits.append(of_classes(found).numpy())
        return float((np.concatenate(logits).argmax(-1) == self.labels).mean())

    # ------------------------------------------------------------------------- making of networks

    def start(self):
        return self._extracted(self.original, whole_mask(self.original), self.original.gate_sizes)

    def new(self):
        raise NotImplementedError("a run on a Keras model starts from a trained one")

    def copy(self, network):
        return self._extracted(network, whole_mask(network), network.kept)

    def sub_network(self, network, masks):
        kept = kept_filters(network, masks)
        small = self._extracted(network, masks, kept, keep_norms=True)
        self._check_same(network, masks, small)
        return small

    def _extracted(self, network, masks, kept, keep_norms=False):
        """What is left of `network`, with kept[i] filters of gate i of the original model."""
        with self.strategy.scope():
            small = PrunableModel(extract(network, masks, keep_norms))
        return Scaled(small, *self.pixels, kept)

    def _check_same(self, network, masks, small):
        """Raises UserError unless the masked and the extracted network give the same logits."""
        images = self.images[:COMPARED]
        masked = network(images, Context("batch", network.split_masks(tf.constant(masks))))
        masked, extracted = masked.numpy(), small(images, Context("batch")).numpy()
        off = np.abs(masked - extracted).max() / np.abs(masked).max()
        if not off <= CLOSE:
            raise UserError(
                f"{self.arch} cannot be pruned: without the filters it gives other logits than with"
                f" them masked, by {off:.1e} of the largest; some layer is not understood"
            )

    def filter_weights(self, network, masks):
        return network.filter_weights(masks)

    # -------------------------------------------------------------------------------------- files

    def read(self, path):
        arrays, meta = read_parameters(path)
        try:
            kept = np.array(meta["filters"], np.int64)
            masks = first_filters(self.original.gate_sizes, kept)
            network = self._extracted(self.original, masks, kept)
            network.assign(arrays)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"{path} holds no network of this run: {error}") from error
        return network

    def write(self, path, network):
        flops, params = network.cost()
        meta = {"arch": self.arch, "dataset": self.data.name, "classes": network.classes}
        meta |= {"flops": flops, "params": params, "filters": [int(n) for n in network.kept]}
        meta |= {"flops_rate": flops / self.original.cost()[0], "versions": versions()}
        write_parameters(path, network.parameters(), meta)

    def deliver(self, folder, name, network):
        """Writes the network as a Keras model beside its parameters; returns its path."""
        path = os.path.join(folder, KERAS_RESULT)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            written = os.path.join(place, KERAS_RESULT)
            self.put_back(extract(network, whole_mask(network))).save(written)
            os.replace(written, path)
        return path


def _of_logits(model):
    """(PrunableModel of a copy without softmax or sigmoid, function that puts it back on)."""
    whole = KerasNetwork(model)
    logits, put_back = without_head(extract(whole, whole_mask(whole)))
    return PrunableModel(logits), put_back


def _check_fits(path, network, data):
    """Raises UserError if images or classes are not those of the model."""
    shape = tuple(data.x_train.shape[1:])
    if shape != tuple(network.image_shape):
        raise UserError(f"{path} takes images {network.image_shape}, but the data are {shape}")
    classes = max(2, network.classes)
    if data.classes > classes:
        raise UserError(
            f"{path} knows {classes} classes, but the labels go up to {data.classes - 1}"
        )
    if keras.backend.floatx() != "float32":
        raise UserError(f"Keras computes in {keras.backend.floatx()} here; set it to float32")
