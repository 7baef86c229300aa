"""The networks of a run on a Keras model (engine.networks.Networks), and their files."""

import os

import keras
import numpy as np
import tensorflow as tf

from coupling.extraction import copied, extract
from coupling.heads import Head, without_head
from coupling.masking import kept_filters, whole_mask
from coupling.prunable import PrunableModel
from dataloader.arrays import SCALINGS
from ekg.importance import first_filters
from ekg.keras_pixels import tried_images
from ekg.task import CLASSES
from engine.configuration import versions
from engine.run_files import KERAS_RESULT, KERAS_UNFINISHED
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from utils import UserError, rename

COMPARED = 32  # training images, to compare masked and extracted
CLOSE = 1e-3  # largest difference of their logits, relative to the largest logit


class Scaled:
    """A PrunableModel that is given pixels 0..255, and makes of them what its model expects."""

    def __init__(self, network, mean, std, kept, spread=None):
        """
        Args:
            network: PrunableModel.
            mean, std: of pixels.
            kept: int [G], how many filters of each gate of the original model are left.
            spread: float32 [outputs], what outputs are divided by; None for logits of classes.
        """
        self.network, self.mean, self.std, self.kept = network, mean, std, kept
        self.parts, self.first_parts = [self], network.first_parts
        self.spread = spread
        self.classes = max(2, network.classes) if spread is None else network.classes

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, images, ctx):
        mean, std = (tf.constant(value, tf.float32) for value in (self.mean, self.std))
        outputs = self.network((tf.cast(images, tf.float32) - mean) / std, ctx)
        return of_classes(outputs) if self.spread is None else outputs / self.spread


def of_classes(logits):
    """Logits per class, float32 [B, 2 or more]: a single one is that of class 1, against 0."""
    return tf.pad(logits, [[0, 0], [1, 0]]) if logits.shape[-1] == 1 else logits


class KerasNetworks:
    """See engine.networks.Networks."""

    trained = True
    task = CLASSES

    def __init__(self, model, data, strategy, has_classes=True):
        """
        Args:
            model: functional model; it stays as it is.
            data: Dataset.
            strategy: tf.distribute.Strategy of the devices.
            has_classes: whether its outputs are those of a classifier.
        """
        self.data, self.strategy, self.arch = data, strategy, model.name
        self.size = data.x_train.shape[1:]
        self.pixels, self.source, self.keeps = SCALINGS["0..255"], model.name, True
        with strategy.scope():
            whole = copied(model)
            self.notes = made_trainable(whole)
            logits, head = without_head(whole) if has_classes else (whole, Head.none())
            self.original = PrunableModel(logits, self.size)
        self.head, self.put_back, self.has_classes = head.kind, head.put_back, has_classes
        if head.kind == "sigmoid" and self.original.classes > 1:
            self.notes.append(
                "its sigmoids are trained as classes that exclude each other, not as probabilities"
            )
        self.spread: np.ndarray | None = None  # of the outputs, if they are no logits
        self.images, self.labels = tried_images(data)

    def predict(self, x):
        """Logits or other outputs of the unpruned model without its head, float32 [B, outputs].

        x: float32 [B, H, W, C], scaled as the model expects it.
        """
        outputs = self.original(x, Context("moving"))
        return (of_classes(outputs) if self.has_classes else outputs).numpy()

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
            small = PrunableModel(extract(network, masks, keep_norms), self.size)
        return Scaled(small, *self.pixels, kept, self.spread)

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
        if not self.keeps:
            return None
        path = os.path.join(folder, KERAS_RESULT)
        written = os.path.join(folder, KERAS_UNFINISHED)
        self.as_keras(network).save(written)
        with open(written, "rb+") as file:
            os.fsync(file.fileno())
        rename(written, path)
        return path

    def as_keras(self, network):
        """A plain keras.Model with the arrays and the function of `network`, and its head."""
        return self.put_back(extract(network, whole_mask(network)))


def made_trainable(model):
    """Makes all layers of a model train in float32; returns notes on what was different, a list.

    Filters are removed from all layers, so all of them must be able to adapt.
    """
    layers = list(model._flatten_layers(include_self=False))
    notes = []
    for weight in model.weights:
        if weight.dtype in ("float16", "bfloat16"):
            raise UserError(
                f"{weight.path} of {model.name} is {weight.dtype}; only float32 weights are pruned"
            )
    frozen = sum(not layer.trainable and bool(layer.weights) for layer in layers)
    if frozen:
        notes.append(f"{frozen} layers that were not trainable are now: they lose filters too")
    halves = [layer for layer in layers if layer.compute_dtype in ("float16", "bfloat16")]
    if halves:
        notes.append(f"{halves[0].compute_dtype} layers compute in float32, also in the result")
    for layer in halves:
        layer.dtype_policy = keras.DTypePolicy("float32")
    for layer in layers:
        layer.trainable = True
    return notes
