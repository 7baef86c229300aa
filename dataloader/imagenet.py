"""Finds the images and labels of ImageNet, or of other data in one of its layouts.

    DATA/train/<wnid>/*.JPEG  DATA/val/<wnid>/*.JPEG
        one folder per class; classes are numbered in the order of their folders' names
    DATA/val/*.JPEG and --val_labels FILE
        a flat folder, see dataloader.val_labels
    DATA/train-00000-of-01024  DATA/validation-*-of-*
        TFRecord shards with image/encoded and image/class/label, counted from 0 or from 1

dataloader.images reads the images.
"""

import dataclasses
import os
import re

import numpy as np

from dataloader.image_files import ImageFiles
from dataloader.shards import index_shard
from dataloader.val_labels import read_val_labels
from files.guards import one_line
from utils import UserError

IMAGE = re.compile(r".+\.(jpe?g|png)", re.IGNORECASE | re.DOTALL)
SHARD = re.compile(r"(train|val|validation)\b.*(-\d+-of-\d+|\.tfrecords?)")
SPLITS = {"train": ("train",), "val": ("val", "validation")}


@dataclasses.dataclass(frozen=True)
class Found:
    """The images and labels of a split."""

    files: ImageFiles
    labels: np.ndarray  # int64 [N]
    names: list = None  # of the classes; None if they are numbers
    notes: tuple = ()  # lines to print


def find_imagenet(path, splits=("train", "val"), val_labels=None, classes=None):
    """dict split -> Found, for the data in the folder `path`.

    splits: of "train" and "val"; val_labels: path of the list of labels of a flat folder; classes:
    number of classes if known, which helps to decide whether labels in shards start at 0 or 1.
    Raises UserError if data are missing or invalid.
    """
    if path is None:
        raise UserError(
            "--data_path is needed: the folder that contains train and val, or TFRecord shards"
        )
    if not os.path.isdir(path):
        raise UserError(f"--data_path {path}: there is no such folder")
    shards = {split: _shards(path, split) for split in SPLITS}
    if any(shards.values()):
        if val_labels:
            raise UserError(f"--val_labels {val_labels}: shards contain labels; leave it out")
        found = {split: _from_shards(path, split, shards[split]) for split in splits}
        return _numbered(path, found, shards["train"], classes)
    return _from_folders(path, splits, val_labels)


def _listing(path):
    """(folders, images): sorted names of those in the folder `path`."""
    folders, images = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_folder(entry):
                    folders.append(entry.name)
                elif IMAGE.fullmatch(entry.name):
                    images.append(entry.name)
    except OSError as error:
        raise UserError(f"--data_path: {path} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(images)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # e.g. a link to itself; reading it will report the error
        return False


# ------------------------------------------------------------------------------------------ folders


def _from_folders(path, splits, val_labels):
    exists = lambda name: os.path.isdir(os.path.join(path, name))
    roots = {split: next(filter(exists, names), None) for split, names in SPLITS.items()}
    listings = {
        split: _listing(os.path.join(path, root)) if root else ([], [])
        for split, root in roots.items()
    }
    for split in splits:
        if not any(listings[split]):
            wanted = " or ".join(os.path.join(path, name) for name in SPLITS[split])
            raise UserError(
                f"--data_path {path}: there are no images or shards of {split}; expected {wanted}"
            )
    # Classes have the numbers of the training set, even if only val is asked for.
    names = listings["train"][0] or listings["val"][0]
    found = {}
    for split in splits:
        root, (folders, images) = roots[split], listings[split]
        if folders:
            if split == "val" and val_labels:
                raise UserError(
                    f"--val_labels {val_labels}: {os.path.join(path, root)} has one folder per"
                    " class; leave it out"
                )
            found[split] = _by_class(path, root, folders, names)
        elif split == "train":
            raise UserError(
                f"--data_path {path}: {root} has images, but not in one folder per class"
            )
        elif not val_labels:
            raise UserError(
                f"--data_path {path}: {root} does not have one folder per class; give the list of"
                " its labels with --val_labels"
            )
        else:
            labels, names, notes = read_val_labels(val_labels, images, names)
            paths = [os.fsencode(os.path.join(root, image)) for image in images]
            found[split] = Found(ImageFiles(path, np.array(paths)), labels, names, notes)
    return found


def _by_class(path, root, folders, names):
    """Found for the folder path/root, which has one folder per class. names: of all classes."""
    numbers = {name: number for number, name in enumerate(names)}
    files, labels = [], []
    for folder in folders:
        if folder not in numbers:
            raise UserError(
                f"--data_path {path}: {os.path.join(root, folder)} is not one of the {len(names)}"
                " classes in train"
            )
        images = _listing(os.path.join(path, root, folder))[1]
        files += [os.fsencode(os.path.join(root, folder, image)) for image in images]
        labels += [numbers[folder]] * len(images)
    if not files:
        raise UserError(
            f"--data_path {path}: the folders in {root} have no images (.JPEG, .jpg, .png)"
        )
    return Found(ImageFiles(path, np.array(files)), np.array(labels, np.int64), names)


# ------------------------------------------------------------------------------------------- shards


def _shards(path, split):
    """Sorted paths, below `path`, of the shards of a split: in `path` itself, or in a folder with
    the split's name.
    """
    found = []
    for folder in ("", *SPLITS[split]):
        full = os.path.join(path, folder)
        if not os.path.isdir(full):
            continue
        try:
            names = sorted(os.listdir(full))
        except OSError as error:
            raise UserError(f"--data_path: {full} cannot be read: {error.strerror}") from error
        for name in names:
            match = SHARD.fullmatch(name)
            if match and match[1] in SPLITS[split] and os.path.isfile(os.path.join(full, name)):
                found.append(os.path.join(folder, name))
    return found


def _from_shards(path, split, shards):
    """Found for the shards of a split, with labels as they are in the shards."""
    if not shards:
        raise UserError(
            f"--data_path {path}: there are shards, but not of {split}"
            f" ({SPLITS[split][-1]}-00000-of-...)"
        )
    columns, notes = [], []
    for number, shard in enumerate(shards):
        full = os.path.join(path, shard)
        try:
            offsets, sizes, labels, problems = index_shard(full)
        except OSError as error:
            raise UserError(f"{full} cannot be read: {error.strerror}") from error
        lines = [f"{one_line(full)}: record {record}: {problem}" for record, problem in problems]
        if lines and split == "val":
            raise UserError(f"{lines[0]}; an evaluation needs every image")
        notes += [f"skipped: {line}" for line in lines]
        columns.append((np.full(len(labels), number, np.int32), offsets, sizes, labels))
    file, offsets, sizes, labels = (np.concatenate(column) for column in zip(*columns))
    if not len(labels):
        raise UserError(
            f"--data_path {path}: the shards of {split} have no images"
            + "".join(f"; {line}" for line in notes[:1])
        )
    names = np.array([os.fsencode(shard) for shard in shards])
    return Found(ImageFiles(path, names, file, offsets, sizes), labels, notes=tuple(notes))


def _numbered(path, found, train, classes):
    """`found` with labels from 0.

    Shards usually count from 1: 0 is the background, which no image has. If neither the labels nor
    the number of classes decide that, the training set's shards `train` are searched for label 0.
    """
    values = np.concatenate([part.labels for part in found.values()])
    first = 0 if (values == 0).any() else 1
    if first and "train" not in found and values.max() != classes:
        has_zero = lambda shard: (index_shard(os.path.join(path, shard))[2] == 0).any()
        first = 0 if any(map(has_zero, train)) else 1
    low, high = values.min(), values.max()
    if low < 0 or high >= 2**31:
        raise UserError(f"--data_path {path}: label {low if low < 0 else high} is not valid")
    if "train" in found:
        most = found["train"].labels.max()
        beyond = values[values > most]
        if len(beyond):
            raise UserError(
                f"--data_path {path}: label {beyond[0]} of val is above {most}, the largest in"
                " train"
            )
    return {
        split: dataclasses.replace(part, labels=part.labels - first)
        for split, part in found.items()
    }
