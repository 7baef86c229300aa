"""Reads images of one's own from folders of classes into memory."""

import os

import numpy as np
import tensorflow as tf

from dataloader.arrays import MOST_BYTES, TEST_NAMES
from dataloader.class_folders import by_class
from dataloader.decoder import reason
from dataloader.encoded import count_scans
from dataloader.listing import Listing
from dataloader.views import whole_view
from utils import UserError


def read_folder(path, size):
    """(train, test or None, names of the classes, lines to print).

    path: folder with train/CLASS/* and test/CLASS/* (or val), or with CLASS/* alone; size: (H, W,
    C), the shape to read images as. train, test: (uint8 [N, H, W, C], int64 [N]). Raises UserError
    if there are no classes, or if an image is broken.
    """
    splits = Listing(path).folders
    root = "train" if "train" in splits else ""
    listing = Listing(os.path.join(path, root))
    names = listing.folders
    if len(names) < 2:
        raise UserError(
            f"--data_path {listing.path}: it needs a folder per class; it holds {listing}"
        )
    found = [by_class(path, root, listing, names, True)]
    name = next((name for name in TEST_NAMES if root and name in splits), None)
    if name:
        found.append(by_class(path, name, Listing(os.path.join(path, name)), names, False))
    notes = [note for one in found for note in one.notes]
    train, *test = [(_decoded(one.files, size), one.labels) for one in found]
    return train, test[0] if test else None, names, notes


def _decoded(files, size):
    """uint8 [N, H, W, C]: the images of `files`, resized."""
    if len(files) * int(np.prod(size)) > MOST_BYTES:
        raise UserError(
            f"--data_path {files.root}: {len(files):,} images of {size[0]}x{size[1]} take more than"
            f" {MOST_BYTES // 2**30} GiB of memory"
        )
    decode = tf.function(
        lambda encoded, scans: whole_view(encoded, scans, size),
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)],
        autograph=False,
    )
    images = np.empty((len(files), *size), np.uint8)
    for i in range(len(files)):
        try:
            data = files.read(i)
            images[i] = decode(data, count_scans(data)).numpy()
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise UserError(f"{files.name(i)} cannot be read: {reason(error)}") from error
    return images
