"""Top-1, top-5 and loss of an exported file."""

import contextlib
import os

import numpy as np

from coupling.graph import as_functional
from coupling.heads import SIGMOID, activation_at_end
from coupling.loading import load_model
from dataloader.images import in_batches
from ekg.keras_networks import of_classes
from engine.console import Silent
from engine.evaluation import measure
from engine.logits import check_finite
from utils import UserError

SMALLEST = np.float32(1e-30)  # probability, before the logarithm


class Exported:
    """An exported file whose answers are understood.

    Args:
        running: exports.process.Running.
        path: of the file.
        activation: of a .keras file, as from check_keras.
        pixels: (mean, std) of what a .keras file expects, each a tuple of floats. Other files take
            uint8 images.

    Raises UserError for a file that takes no images of one size.
    """

    def __init__(self, running, path, activation=None, pixels=((0.0,), (1.0,))):
        self.running, self.path, self._activation = running, path, activation
        self.is_keras = path.endswith(".keras")
        self.mean, self.std = (np.array(value, np.float32) for value in pixels)
        kind = "float32" if self.is_keras else "uint8"
        self.image_shape = running.shape[1:]
        if len(running.shape) != 4 or None in self.image_shape or running.dtype != kind:
            sizes = ", ".join(str(size or "?") for size in running.shape)
            raise UserError(
                f"{path} takes {running.dtype} [{sizes}], not {kind} images of one size; only files"
                " of export.py can be evaluated"
            )

    def logits(self, images):
        """float32 [B, classes], of uint8 images [B, H, W, C]."""
        if not self.is_keras:
            found = self.running.answers(images)
            if "logits" not in found or found["logits"].ndim != 2:
                raise UserError(
                    f"{self.path} gives {', '.join(found)[:200]}, not logits; only files of"
                    " export.py can be evaluated"
                )
            return np.asarray(of_classes(found["logits"]))
        images = (images.astype(np.float32) - self.mean) / self.std
        outputs = self.running.answers(images)["outputs"]
        return logits_of(outputs, self._activation)


def check_keras(path):
    """What the outputs of a .keras file went through: "softmax", "sigmoid" or None.

    Raises UserError for a file that is damaged, brings code along, or is no classifier.
    """
    model = as_functional(load_model(path))
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise UserError(f"{path} does not take one image and give one number per class")
    found = activation_at_end(model)
    return None if found is None else "sigmoid" if found is SIGMOID else "softmax"


def logits_of(outputs, activation):
    """float32 [B, 2 or more], from the outputs of a classifier.

    activation: "softmax" or "sigmoid", which it ends with; None if it gives logits.
    """
    if activation is not None:
        log = lambda p: np.log(np.maximum(p, SMALLEST))
        outputs = log(outputs) - (log(1 - outputs) if activation == "sigmoid" else 0)
    return np.asarray(of_classes(outputs))


def evaluated(exported, images, labels, batch_size, track=Silent):
    """dict: top1 and top5 (fractions), loss (mean), images (count).

    Args:
        exported: Exported.
        images: uint8 [N, H, W, C], or EncodedImages.
        labels: int64 [N].
        batch_size: images per call; the last call has the rest.
        track: wraps the list of batches to show progress.
    """
    shape = tuple(images.shape[1:])
    if shape != exported.image_shape:
        raise UserError(
            f"{exported.path} takes images {exported.image_shape}, the data are {shape}"
        )
    totals, seen = {"top1": 0, "top5": 0, "loss": 0.0}, 0
    groups = np.split(np.arange(len(labels)), range(batch_size, len(labels), batch_size))
    progress = track(groups)
    with contextlib.closing(in_batches(images, groups, strict=True)) as batches:
        for group, (_, pixels) in zip(progress, batches):
            logits = exported.logits(pixels)
            if labels[group].max() >= logits.shape[-1]:
                raise UserError(
                    f"{exported.path} knows {logits.shape[-1]} classes, but the data have the label"
                    f" {labels[group].max()}; give its --dataset"
                )
            check_finite(logits, f"{os.path.basename(exported.path)}'s")
            for name, value in measure(labels[group], logits).items():
                totals[name] += value
            seen += len(group)
            progress.show(loss=totals["loss"] / seen, accuracy=totals["top1"] / seen)
    return {name: value / len(labels) for name, value in totals.items()} | {"images": len(labels)}
