"""Prunes a Keras model from Python: `smaller = prune(model, (x, y), flops=0.5)`.

The run is that of prune_keras.py, on a model and data in memory.
"""

import contextlib
import dataclasses
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from coupling.sources import GivenModel
from dataloader.arrays import MOST_BYTES, SCALINGS, VIEWS, checked, own_dataset
from ekg import pipeline
from ekg.keras_settings import check_choice, options_of
from ekg.keras_subject import KerasSubject
from engine.run_files import STAGES
from engine.signals import listening
from utils import UserError


def prune(
    model,
    data,
    flops=0.5,
    *,
    test=None,
    folder=None,
    views=("crop", "colour"),
    pixels="0..255",
    custom_objects=None,
    verbose=True,
    **settings,
):
    """A smaller keras.Model with at most a share of the FLOPs of `model`, fine-tuned (METHOD 0).

    Args:
        model: trained keras.Model, a classifier of images that ends in logits, softmax or sigmoid;
            it stays as it is.
        data: training images as the model takes them and their classes: (x, y), or a
            tf.data.Dataset of such pairs, batched or not. x: [N, H, W, C]; y: class numbers [N], or
            one-hot [N, classes].
        flops: share of the FLOPs that may remain, above 0, at most 1.
        test: test images, in the same form; None: every fifth training image of each class.
        folder: run folder, in which a second call continues; None: a temporary one.
        views: how the views of an image may differ in the fine-tuning: "flip", "crop", "colour".
        pixels: "0..255": as they are. "0..1", "-1..1", "imagenet": the images have pixels 0..255,
            and the model expects what these make of them. None: what it is most accurate with.
        custom_objects: dict name -> class or function that the model needs to be copied.
        verbose: whether to print what happens.
        settings: flags of prune_keras.py by their names: train_epoch=5, score="l1" ... PLACES lists
            them, `prune_keras.py --help` explains them.

    Raises UserError for what cannot be pruned, TypeError for settings that do not exist.
    """
    options = options_of(flops, settings)
    check_choice("pixels", pixels, (None, *SCALINGS))
    for view in views:
        check_choice("views", view, VIEWS)
    loaded = own_dataset("data", _arrays("data", data), _arrays("test", test), views)
    source, text = GivenModel(model), " ".join(sorted(views))
    subject = KerasSubject(source, lambda shape: loaded, pixels, text, keeps=bool(folder))
    with contextlib.ExitStack() as stack:
        stack.enter_context(keras.saving.custom_object_scope(custom_objects or {}))
        path = os.fspath(folder) if folder else stack.enter_context(tempfile.TemporaryDirectory())
        with listening():
            pipeline.prune(dataclasses.replace(options, train_path=path), subject, verbose)
        stage = "fine_tuning" if options.fine_tuning.epochs else "extraction"
        networks = subject.made
        # Not pruned.keras: a Lambda layer may not load where its module is not known.
        return networks.as_keras(networks.read(os.path.join(path, STAGES[stage])))


# --------------------------------------------------------------------------------------------- data


def _arrays(name, data):
    """(images [N, H, W, C], labels int64 [N]) of a pair of arrays or a tf.data.Dataset."""
    if data is None:
        return None
    if isinstance(data, tf.data.Dataset):
        return _from_dataset(name, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UserError(f"{name} is a {type(data).__name__}; (x, y) or a tf.data.Dataset is needed")
    return checked(f"x of {name}", f"y of {name}", *map(np.asarray, data))


def _from_dataset(name, dataset):
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or not hasattr(spec[0], "shape"):
        raise UserError(f"{name} is a dataset of {spec}; pairs (image, label) are needed")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError(f"{name} repeats without end; leave .repeat() out")
    if spec[0].shape.rank == 3:
        dataset = dataset.batch(256)
    parts, size = [], 0
    for x, y in dataset.as_numpy_iterator():
        parts.append((x, y))
        size += x.nbytes
        if size > MOST_BYTES:
            raise UserError(f"{name} holds more than {MOST_BYTES // 2**30} GiB of images")
    if not parts:
        raise UserError(f"{name} is empty")
    x, y = (np.concatenate(part) for part in zip(*parts))
    return checked(f"x of {name}", f"y of {name}", x, y)
