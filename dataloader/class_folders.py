"""Finds the images of a folder with one folder per class."""

import dataclasses
import os

import numpy as np

from dataloader.image_files import ImageFiles
from dataloader.listing import Listing, some
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Found:
    """The images and labels of a split."""

    files: ImageFiles
    labels: np.ndarray  # int64 [N]
    names: list = None  # of the classes; None if they are numbers
    notes: tuple = ()  # lines to print
    broken_records: int = 0  # records of shards that were skipped


def by_class(path, root, listing, names, whole):
    """Found for the folder path/root, which has one folder per class.

    Args:
        path: of the data.
        root: of the split, below `path`.
        listing: Listing of the split.
        names: of all classes.
        whole: whether every class needs an image.
    """
    numbers = {name: number for number, name in enumerate(names)}
    files, labels, empty, skipped = [], [], [], listing.skipped
    skipped.beside = len(listing.images)
    for folder in listing.folders:
        if folder not in numbers:
            raise UserError(
                f"--data_path {path}: {os.path.join(root, folder)} is not one of the {len(names)}"
                " classes in train"
            )
        inside = Listing(os.path.join(listing.path, folder), skipped)
        skipped.folders += len(inside.folders)
        files += [os.fsencode(os.path.join(root, folder, image)) for image in inside.images]
        labels += [numbers[folder]] * len(inside.images)
        if not inside.images:
            empty.append(inside)
    if not files:
        raise UserError(
            f"--data_path {path}: the folders in {root} have no images (.JPEG, .jpg, .png ...);"
            f" {empty[0].path} holds {empty[0]}"
        )
    if empty and whole:
        others = f", as {len(empty) - 1} more folders" if empty[1:] else ""
        raise UserError(
            f"--data_path {path}: the class {empty[0].path} has no images{others}; it holds"
            f" {empty[0]}; delete the folder, or put images there"
        )
    notes = [*skipped.note(listing.path)]
    if empty:
        named = some([os.path.basename(one.path) for one in empty])
        notes.append(f"{listing.path}: no images in {named}")
    files = ImageFiles(path, np.array(files))
    return Found(files, np.array(labels, np.int64), names, tuple(notes))
