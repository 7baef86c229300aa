"""Reads Keras models from files: .keras, and .h5 or .hdf5 of older versions."""

import json
import os
import warnings
import zipfile

import h5py
import keras

from utils import UserError

# What a file may name without --trust: Keras' own classes and functions.
KNOWN_MODULES = ("keras", "builtins")


def load_model(path, trust=False):
    """The keras.Model in a file, not compiled.

    trust: whether code that the file brings along may run: Lambda layers, classes of other modules.
    Raises UserError for files that cannot be read, with what to do.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            f"Keras computes with {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow"
        )
    config = _read_config(path)
    if not trust:
        _check_trusted(path, config)
    custom = {"DepthwiseConv2D": OldDepthwiseConv2D}
    try:
        # A scope: Keras 3.0 does not hand `custom_objects` on to the layers of .h5 files.
        with warnings.catch_warnings(), keras.saving.custom_object_scope(custom):
            warnings.simplefilter("ignore")  # about how old files make layers: nothing to be done
            return keras.models.load_model(path, compile=False, safe_mode=not trust)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # Keras raises whatever the parts of a model raise
        line = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {line[0][:300] if line else ''}"
        raise UserError(
            f"{path}: Keras {keras.__version__} cannot load this model ({reason})"
        ) from error


class OldDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D from files of Keras 2, which say groups=1 to a layer that has no groups."""

    @classmethod
    def from_config(cls, config):
        config = {key: value for key, value in config.items() if key != "groups"}
        return keras.layers.DepthwiseConv2D.from_config(config)


def _read_config(path):
    """The configuration of the model in a file, a dict. Raises UserError."""
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            raise UserError(
                f"{path} is a SavedModel, which Keras 3 does not load: load it with TensorFlow 2.15"
                " or tf_keras and save it as .keras or .h5"
            )
        raise UserError(f"{path} is a folder; a .keras, .h5 or .hdf5 file is needed")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file")
    if not path.endswith((".keras", ".h5", ".hdf5")):
        raise UserError(f"{path}: a file that ends in .keras, .h5 or .hdf5 is needed")
    try:
        text = _zip_config(path) if path.endswith(".keras") else _hdf5_config(path)
        config = json.loads(text)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        kind = "a .keras" if path.endswith(".keras") else "an HDF5"
        raise UserError(f"{path} is not {kind} file of a model, or it is damaged") from error
    return config


def _zip_config(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json")


def _hdf5_config(path):
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise UserError(
            f"{path} has weights only; save the whole model with model.save(...) where it was made"
        )
    return config


def _check_trusted(path, config):
    """Raises UserError if the file brings code along, or names modules that would be imported."""
    for node in _nodes(config):
        if node.get("class_name") in ("Lambda", "__lambda__"):
            inner = node.get("config")
            name = inner.get("name", "") if isinstance(inner, dict) else ""
            raise UserError(
                f"{path} has a Lambda layer {name}, which is code that would run here; add --trust"
                " if you trust whoever made the file"
            )
        module = node.get("module")
        if isinstance(module, str) and module.partition(".")[0] not in KNOWN_MODULES:
            kind = node.get("class_name")
            raise UserError(
                f"{path} names {kind} of module {module}, which would be imported here;"
                " add --trust if you trust whoever made the file"
            )


def _nodes(value):
    """All dicts in nested lists and dicts."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
