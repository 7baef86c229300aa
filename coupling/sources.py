"""Where a Keras model comes from: a file, or the program that calls this one."""

import functools
import hashlib
import json
import re

import keras
import numpy as np

from coupling.graph import as_functional
from coupling.loading import load_model
from utils import UserError, digest


class ModelFile:
    """A model in a file.

    Args:
        path: of the file, also its name in messages.
        trust: see coupling.loading.load_model.
    """

    def __init__(self, path, trust=False):
        self.name, self.trust = path, trust

    @functools.cached_property
    def model(self):
        """The functional model. Raises UserError for files without one."""
        return as_functional(load_model(self.name, self.trust))

    def identity(self):
        """16 hex digits. Raises UserError if the file cannot be read."""
        try:
            with open(self.name, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()[:16]
        except OSError as error:
            raise UserError(f"cannot read {self.name}: {error.strerror or error}") from error


class GivenModel:
    """A model in memory. It is copied, never changed.

    model: keras.Model. Raises UserError if it cannot be written as a graph of layers.
    """

    def __init__(self, model):
        self.model = as_functional(model)
        self.name = model.name

    def identity(self):
        """16 hex digits of its layers and weights."""
        try:
            layers = json.dumps(self.model.get_config(), default=repr)
        except (NotImplementedError, TypeError):  # a layer without a configuration
            layers = " ".join(f"{type(layer).__name__} {layer.name}" for layer in self.model.layers)
        layers = re.sub(r" at 0x[0-9a-f]+", "", layers)  # places in memory
        weights = enumerate(self.model.weights)
        arrays = {f"{i} {w.name}": keras.ops.convert_to_numpy(w) for i, w in weights}
        return digest(arrays | {"layers": np.frombuffer(layers.encode(), np.uint8)})
