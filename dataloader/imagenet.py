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

from dataloader.class_folders import Found, by_class
from dataloader.image_files import ImageFiles
from dataloader.listing import Listing
from dataloader.shards import compression_of, index_shard
from dataloader.val_labels import read_val_labels
from files.guards import one_line
from utils import UserError

SHARD = re.compile(r"(train|val|validation)\b.*(-\d+-of-\d+|\.tfrecords?)(\.gz)?")
SPLITS = {"train": ("train",), "val": ("val", "validation")}


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


# ------------------------------------------------------------------------------------------ folders


def _from_folders(path, splits, val_labels):
    exists = lambda name: os.path.isdir(os.path.join(path, name))
    roots = {split: next(filter(exists, names), None) for split, names in SPLITS.items()}
    listings = {
        split: Listing(os.path.join(path, root)) if root else None for split, root in roots.items()
    }
    for split in splits:
        listing = listings[split]
        if listing is None or not (listing.folders or listing.images):
            wanted = " or ".join(os.path.join(path, name) for name in SPLITS[split])
            where = listing or Listing(path)
            raise UserError(
                f"--data_path {path}: there are no images or shards of {split}; expected {wanted};"
                f" {where.path} holds {where}"
            )
    # Classes have the numbers of the training set, even if only val is asked for.
    names = next((one.folders for one in listings.values() if one and one.folders), [])
    found = {}
    for split in splits:
        root, listing = roots[split], listings[split]
        if listing.folders:
            if split == "val" and val_labels:
                raise UserError(
                    f"--val_labels {val_labels}: {os.path.join(path, root)} has one folder per"
                    " class; leave it out"
                )
            found[split] = by_class(path, root, listing, names, split == "train")
        elif split == "train":
            raise UserError(
                f"--data_path {path}: {root} has images, but not in one folder per class; it holds"
                f" {listing}"
            )
        elif not val_labels:
            raise UserError(
                f"--data_path {path}: {root} does not have one folder per class; give the list of"
                " its labels with --val_labels"
            )
        else:
            images = listing.images
            labels, names, notes = read_val_labels(val_labels, images, names)
            notes = *notes, *listing.skipped.note(listing.path)
            paths = [os.fsencode(os.path.join(root, image)) for image in images]
            found[split] = Found(ImageFiles(path, np.array(paths)), labels, names, notes)
    return found


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
    # Compressed ones only count, to be named, where there are no others.
    return [name for name in found if not name.endswith(".gz")] or found


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
        offsets, sizes, labels, problems = _index(full)
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
    files = ImageFiles(path, names, file, offsets, sizes)
    return Found(files, labels, notes=tuple(notes), broken_records=len(notes))


def _index(path):
    """index_shard(path). Raises UserError if the file cannot be read or is compressed."""
    try:
        if how := compression_of(path):
            raise UserError(
                f"{path} is compressed ({how}), so its images cannot be read one by one; write the"
                " shards without compression, e.g. unpack each with `gzip -d`"
            )
        return index_shard(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _numbered(path, found, train, classes):
    """`found` with labels from 0.

    Shards usually count from 1: 0 is the background, which no image has. If neither the labels nor
    the number of classes decide that, the training set's shards `train` are searched for label 0.
    """
    values = np.concatenate([part.labels for part in found.values()])
    first = 0 if (values == 0).any() else 1
    if first and "train" not in found and values.max() != classes:
        has_zero = lambda shard: (_index(os.path.join(path, shard))[2] == 0).any()
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
