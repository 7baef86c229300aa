"""What is exported: a network of a parameter file, or a Keras model."""

import dataclasses
import typing

import keras
import numpy as np
import tensorflow as tf

from coupling.graph import as_functional
from coupling.heads import SIGMOID, activation_at_end, without_head
from coupling.loading import load_model
from exports.silence import silent_layers
from nets.keras_copy import keras_copy
from nets.predictor import Predictor
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A network in the forms that files are made from.

    Args:
        name: of the network.
        trainable: keras.Model of pixels 0..255, float32 [B, H, W, C], for a .keras file.
        inference: keras.Model of such pixels to logits, for the other files.
        activation: function of logits [B, classes] to probabilities.
        gives_logits: whether the outputs of `trainable` are logits, not probabilities.
        for_int8: function of training images, uint8 [N, H, W, C], to what takes the place of
            `inference` in int8.
        reference: function of uint8 images [B, H, W, C] to logits, float32 [B, classes]: what the
            exported files are compared with.
    """

    name: str
    trainable: keras.Model
    inference: keras.Model
    activation: typing.Callable
    gives_logits: bool
    for_int8: typing.Callable
    reference: typing.Callable

    @property
    def image_shape(self):
        """(H, W, C)."""
        return tuple(self.inference.input_shape[1:])

    def expected(self, images):
        """dict of logits and probabilities, float32 [B, classes]. images: uint8 [B, H, W, C]."""
        batches = [images[i : i + 32] for i in range(0, len(images), 32)]
        logits = np.concatenate([np.asarray(self.reference(batch)) for batch in batches])
        return {"logits": logits, "probabilities": self.activation(tf.constant(logits)).numpy()}


def of_network(network, mean, std):
    """The Exportable of a Network, with its normalisation, three floats each."""
    inference = keras_copy(network, mean, std, folded=True)

    def for_int8(images):
        silent = silent_layers(inference, images)
        return keras_copy(network, mean, std, folded=True, silent=silent) if silent else inference

    return Exportable(
        name=network.arch,
        trainable=keras_copy(network, mean, std),
        inference=inference,
        for_int8=for_int8,
        activation=tf.nn.softmax,
        gives_logits=True,
        reference=Predictor(network, mean, std),
    )


def of_model(path, mean, std, trust=False):
    """The Exportable of the Keras model in a file.

    Args:
        path: of the file.
        mean, std: what the model expects (x - mean) / std of pixels x to be; one float each, or one
            per channel.
        trust: see coupling.loading.load_model.

    Raises UserError for models that are no classifiers of images of one size.
    """
    model = as_functional(load_model(path, trust))
    _check_images(path, model)
    end, logits = activation_at_end(model), logits_of_file(path, trust)
    sigmoid = end is SIGMOID or logits.output_shape[-1] == 1
    normalised = lambda images: (tf.cast(images, tf.float32) - mean) / std
    inference = _of_pixels(logits, mean, std)
    return Exportable(
        name=model.name,
        trainable=_of_pixels(model, mean, std),
        inference=inference,
        for_int8=lambda images: inference,
        activation=tf.nn.sigmoid if sigmoid else tf.nn.softmax,
        gives_logits=end is None,
        reference=lambda images: logits(normalised(images), training=False),
    )


def logits_of_file(path, trust=False):
    """The keras.Model in a file, without a softmax or sigmoid at its end."""
    model, _ = without_head(as_functional(load_model(path, trust)))
    return model


def image_shape(path, trust=False):
    """(H, W, C) of the images that the Keras model in a file takes."""
    model = as_functional(load_model(path, trust))
    _check_images(path, model)
    return tuple(model.inputs[0].shape[1:])


def _check_images(path, model):
    """Raises UserError unless a model takes images of one size and gives numbers per class."""
    shapes = [tuple(x.shape) for x in (*model.inputs, *model.outputs)]
    if len(shapes) != 2 or len(shapes[0]) != 4 or len(shapes[1]) != 2:
        raise UserError(f"{path} has inputs and outputs {shapes}, not one image and its classes")
    if None in shapes[0][1:]:
        raise UserError(f"{path} takes images of any size; make the model with one, and save it")


def _of_pixels(model, mean, std):
    """The model behind a layer that normalises pixels."""
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return model
    pixels = keras.Input(model.input_shape[1:], name="pixels", dtype="float32")
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std)]
    if len(scale) == 1:
        scale, offset = scale[0], offset[0]
    y = model(keras.layers.Rescaling(scale, offset, name="normalise")(pixels))
    return keras.Model(pixels, y, name=model.name)
