"""ImageNet and what is laid out like it: a folder of JPEGs a class, a flat folder with a list of
labels, or TFRecord shards.

    DATA/train/<wnid>/*.JPEG  DATA/val/<wnid>/*.JPEG     classes are numbered in the order of their
    folders' names
    DATA/val/*.JPEG and --val_labels FILE                see dataloader.val_labels
    DATA/train-00000-of-01024  DATA/validation-*-of-*    image/encoded and image/class/label,
    counted from 0 or from 1

Here is found out where the images are; dataloader.images reads them.
"""

import dataclasses
import os
import re

import numpy as np

from dataloader.places import Places
from dataloader.shards import index_shard
from dataloader.val_labels import read_val_labels
from files.guards import one_line
from utils import UserError

IMAGE = re.compile(r".+\.(jpe?g|png)", re.IGNORECASE | re.DOTALL)
SHARD = re.compile(r"(train|val|validation)\b.*(-\d+-of-\d+|\.tfrecords?)")
SPLITS = {"train": ("train",), "val": ("val", "validation")}


@dataclasses.dataclass(frozen=True)
class Found:
    """A set: places, labels int64 [N]; names of the classes, or None where they are numbers; lines
    to say of it.
    """

    places: Places
    labels: np.ndarray
    names: list = None
    notes: tuple = ()


def find_imagenet(path, splits=("train", "val"), val_labels=None, classes=None):
    """dict split -> Found of those `splits` of the data in the folder `path`. Raises UserError
    naming what is wrong.

    classes: how many there are, where the caller knows: what helps to tell from which number shards
    count.
    """
    if path is None:
        raise UserError(
            "--data_path is needed: the folder that holds train and val, or TFRecord shards"
        )
    if not os.path.isdir(path):
        raise UserError(f"--data_path {path}: there is no such folder")
    shards = {split: _shards(path, split) for split in SPLITS}
    if any(shards.values()):
        if val_labels:
            raise UserError(f"--val_labels {val_labels}: shards bring their labels; leave it out")
        found = {split: _from_shards(path, split, shards[split]) for split in splits}
        return _numbered(path, found, shards["train"], classes)
    return _from_folders(path, splits, val_labels)


def _listing(path):
    """(folders, images) in the folder `path`, sorted names."""
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
    except OSError:  # a link that leads to itself is found out when it is read
        return False


# ------------------------------------------------------------------------------------------ folders


def _from_folders(path, splits, val_labels):
    there = lambda name: os.path.isdir(os.path.join(path, name))
    roots = {split: next(filter(there, names), None) for split, names in SPLITS.items()}
    listings = {
        split: _listing(os.path.join(path, root)) if root else ([], [])
        for split, root in roots.items()
    }
    for split in splits:
        if not any(listings[split]):
            wanted = " or ".join(os.path.join(path, name) for name in SPLITS[split])
            raise UserError(
                f"--data_path {path}: neither images nor shards of {split} are there; expected"
                f" {wanted}"
            )
    # Numbers are those of the training set, also where it is not asked for.
    names = listings["train"][0] or listings["val"][0]
    found = {}
    for split in splits:
        root, (folders, images) = roots[split], listings[split]
        if folders:
            if split == "val" and val_labels:
                raise UserError(
                    f"--val_labels {val_labels}: {os.path.join(path, root)} has a folder a class;"
                    " leave it out"
                )
            found[split] = _by_class(path, root, folders, names)
        elif split == "train":
            raise UserError(f"--data_path {path}: {root} holds images, but no folder a class")
        elif not val_labels:
            raise UserError(
                f"--data_path {path}: {root} has no folder a class; give the list of its labels"
                " with --val_labels"
            )
        else:
            labels, names, notes = read_val_labels(val_labels, images, names)
            places = Places(
                path, np.array([os.fsencode(os.path.join(root, image)) for image in images])
            )
            found[split] = Found(places, labels, names, notes)
    return found


def _by_class(path, root, folders, names):
    numbers = {name: number for number, name in enumerate(names)}
    files, labels = [], []
    for folder in folders:
        if folder not in numbers:
            raise UserError(
                f"--data_path {path}: {os.path.join(root, folder)} is none of the {len(names)}"
                " classes of train"
            )
        images = _listing(os.path.join(path, root, folder))[1]
        files += [os.fsencode(os.path.join(root, folder, image)) for image in images]
        labels += [numbers[folder]] * len(images)
    if not files:
        raise UserError(
            f"--data_path {path}: the folders of {root} hold no image (.JPEG, .jpg, .png)"
        )
    return Found(Places(path, np.array(files)), np.array(labels, np.int64), names)


# ------------------------------------------------------------------------------------------- shards


def _shards(path, split):
    """Shards of a split, sorted, as paths below `path`: beside each other or in a folder of the
    split's name.
    """
    found = []
    for folder in ("", *SPLITS[split]):
        if os.path.isdir(os.path.join(path, folder)):
            try:
                names = sorted(os.listdir(os.path.join(path, folder)))
            except OSError as error:
                raise UserError(
                    f"--data_path: {os.path.join(path, folder)} cannot be read: {error.strerror}"
                ) from error
            files = [
                os.path.join(folder, n)
                for n in names
                if (m := SHARD.fullmatch(n)) and m[1] in SPLITS[split]
            ]
            found += [file for file in files if os.path.isfile(os.path.join(path, file))]
    return found


def _from_shards(path, split, shards):
    if not shards:
        raise UserError(
            f"--data_path {path}: there are shards, but none of {split}"
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
            f"--data_path {path}: the shards of {split} hold no image"
            + "".join(f"; {line}" for line in notes[:1])
        )
    names = np.array([os.fsencode(shard) for shard in shards])
    return Found(Places(path, names, file, offsets, sizes), labels, notes=tuple(notes))


def _numbered(path, found, train, classes):
    """`found` with labels from 0: shards customarily count from 1, 0 being the background, which no
    image has.

    train: the shards of the training set, which are asked where neither the labels found nor the
    number of classes tell.
    """
    values = np.concatenate([part.labels for part in found.values()])
    first = 0 if (values == 0).any() else 1
    if first and "train" not in found and values.max() != classes:
        first = (
            0
            if any((index_shard(os.path.join(path, shard))[2] == 0).any() for shard in train)
            else 1
        )
    if values.min() < 0 or values.max() >= 2**31:
        raise UserError(
            f"--data_path {path}: label {values.min() if values.min() < 0 else values.max()} is"
            " that of no class"
        )
    if "train" in found:
        most = found["train"].labels.max()
        strange = values[values > most]
        if len(strange):
            raise UserError(
                f"--data_path {path}: label {strange[0]} of val is above {most}, the last one of"
                " train"
            )
    return {
        split: dataclasses.replace(part, labels=part.labels - first)
        for split, part in found.items()
    }
