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
from dataloader.arrays import MOST_BYTES, SCALINGS, VIEWS, checked, images_of, own_dataset
from ekg import pipeline
from ekg.keras_classifier import Classifier
from ekg.keras_own_loss import OwnLoss
from ekg.keras_settings import check_choice, options_of
from ekg.keras_subject import KerasSubject
from ekg.other_tasks import Packing
from engine.run_files import STAGES
from engine.signals import listening
from utils import UserError


def prune(
    model,
    data,
    flops=0.5,
    *,
    test=None,
    loss=None,
    folder=None,
    overwrite=False,
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
            tf.data.Dataset of such pairs, batched or not, or a keras.utils.PyDataset. x:
            [N, H, W, C]; y: class numbers [N], or one-hot [N, classes].
        flops: share of the FLOPs that may remain, above 0, at most 1.
        test: test images, in the same form; None: every fifth training image of each class.
        loss: for models that are no classifiers (regression, several outputs): keras.losses.Loss,
            or function of labels and outputs, as the model has them, to one number per image. y
            may then be any structure of arrays. See ekg.other_tasks. Such losses often need a
            smaller learning_rate than the default.
        folder: run folder, in which a second call with the same model, data and settings continues;
            None: a temporary one. A dataset that shuffles is other data at every call.
        overwrite: whether to delete an earlier run in the folder first.
        views: how the views of an image may differ in the fine-tuning: "flip", "crop", "colour".
        pixels: "0..255": as they are. "0..1", "-1..1", "imagenet": the images have pixels 0..255,
            and the model expects what these make of them. None: what it is most accurate with.
        custom_objects: dict name -> class or function that the model needs to be copied.
        verbose: whether to print what happens.
        settings: flags of prune_keras.py by their names: train_epoch=5, score="l1" ... PLACES lists
            them, `prune_keras.py --help` explains them.

    Raises UserError for what cannot be pruned, TypeError for settings that do not exist.
    """
    options = dataclasses.replace(options_of(flops, settings), overwrite=overwrite)
    check_choice("pixels", pixels, (None, *SCALINGS))
    views = tuple(
        view for view in ((views,) if isinstance(views, str) else views or ()) if view != "none"
    )
    for view in views:
        check_choice("views", view, VIEWS)
    kind, loaded = _data(data, test, views, loss)
    settings = dict(pixels=pixels, views=" ".join(sorted(views)), keeps=bool(folder), kind=kind)
    subject = KerasSubject(GivenModel(model), lambda shape: loaded, **settings)
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


def _data(data, test, views, loss):
    """(what the outputs mean, Dataset)"""
    pairs = {"data": _pair("data", data)}
    if test is not None:
        pairs["test"] = _pair("test", test)
    if loss is None:
        kind: Classifier | OwnLoss = Classifier()
        arrays = {
            name: checked(f"x of {name}", f"y of {name}", x, np.asarray(y))
            for name, (x, y) in pairs.items()
        }
    else:
        packed = {name: Packing.of(y) for name, (_, y) in pairs.items()}
        kind = OwnLoss(loss, packed["data"][0])
        if "test" in packed and not packed["test"][0].like(packed["data"][0]):
            raise UserError("the labels of test have other parts than those of data")
        arrays = {}
        for name, (x, _) in pairs.items():
            images, rows = images_of(f"x of {name}", x), packed[name][1]
            if len(images) != len(rows):
                raise UserError(f"{name} has {len(images)} images, but {len(rows)} labels")
            arrays[name] = images, rows
    return kind, own_dataset("data", arrays["data"], arrays.get("test"), views)


def _pair(name, data):
    """(images, labels): an array, and an array or a structure of arrays."""
    if isinstance(data, tf.data.Dataset):
        return _from_dataset(name, data)
    if isinstance(data, keras.utils.PyDataset):
        return _from_batches(name, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UserError(f"{name} is a {type(data).__name__}; (x, y) or a dataset of them is needed")
    if isinstance(data[0], (tuple, list, dict)) and not all(np.ndim(x) >= 2 for x in data[0]):
        raise UserError(f"x of {name} is a {type(data[0]).__name__}; an array of images is needed")
    try:
        return np.asarray(data[0]), data[1]
    except ValueError as error:
        raise UserError(f"x of {name}: images of several shapes, or several inputs") from error


def _from_dataset(name, dataset):
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or not hasattr(spec[0], "shape"):
        raise UserError(f"{name} is a dataset of {spec}; pairs (image, label) are needed")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError(f"{name} repeats without end; leave .repeat() out")
    if not _is_batched(*spec):
        dataset = dataset.batch(256)
    try:
        return _joined(name, dataset.as_numpy_iterator())
    except tf.errors.OpError as error:
        reason = error.message.strip().partition("\n")[0][:200]
        raise UserError(f"{name} cannot be read: {type(error).__name__}: {reason}") from error


def _from_batches(name, dataset):
    """Of a keras.utils.PyDataset, each batch once."""
    if dataset.num_batches is None:
        raise UserError(f"{name} has no end; it needs a number of batches")
    return _joined(name, (_checked_batch(name, dataset[i]) for i in range(dataset.num_batches)))


def _checked_batch(name, batch):
    """(images, labels) as arrays. Raises UserError for other batches than pairs."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        parts = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise UserError(
            f"{name} gives a {type(batch).__name__}{parts}; pairs (images, labels) are needed"
        )
    return np.asarray(batch[0]), _as_arrays(batch[1])


def _as_arrays(labels):
    """The labels of a batch, an array or a structure of arrays; a list of numbers is an array."""
    if isinstance(labels, list) and all(np.ndim(label) == 0 for label in labels):
        return np.asarray(labels)
    return tf.nest.map_structure(np.asarray, labels)


def _joined(name, pairs):
    """(images, labels) of all pairs of (images, labels), in order."""
    parts, size = [], 0
    for pair in pairs:
        parts.append(pair)
        size += pair[0].nbytes
        if size > MOST_BYTES:
            raise UserError(f"{name} holds more than {MOST_BYTES // 2**30} GiB of images")
    if not parts:
        raise UserError(f"{name} is empty")
    try:
        return tf.nest.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: batches of several shapes or structures") from error


def _is_batched(images, labels):
    """Whether a dataset of these specs gives batches: images [B, H, W, C], or grey [B, H, W]."""
    rank = images.shape.rank
    if rank is None or rank >= 4:
        return True
    if rank < 3:
        return False
    label = tf.nest.flatten(labels)[0].shape
    # [B, H, W] of grey images has labels [B, ...], [H, W, C] of one image has a label of its own.
    return images.shape[0] is None and bool(label.rank) and label[0] is None
