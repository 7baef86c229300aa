"""Images and labels of one's own: an .npz of arrays, or a folder with a folder per class."""

import dataclasses
import os

from dataloader.arrays import own_dataset, read_npz
from utils import UserError


def load_own(path, size, views=("crop", "colour")):
    """The Dataset at `path`: images [N, H, W, C], pixels as they are.

    Args:
        path: .npz with x_train, y_train and x_test, y_test (or x_val); or a folder, either with
            train/CLASS/* and test/CLASS/* (or val) or with CLASS/* alone.
        size: (H, W, C), the shape to read image files as.
        views: of VIEWS.

    Without a test set, every fifth image of each class is held out. Raises UserError if data are
    missing or invalid.
    """
    names, notes = None, ()
    if os.path.isdir(path):
        from dataloader.own_folders import read_folder  # imports TensorFlow

        train, test, names, notes = read_folder(path, size)
    elif path.endswith(".npz"):
        train, test = read_npz(path)
    else:
        raise UserError(f"--data_path {path}: an .npz, or a folder of class folders is needed")
    data = own_dataset(path, train, test, views, names)
    return dataclasses.replace(data, notes=(*notes, *data.notes))
