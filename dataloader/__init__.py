"""Data sets as arrays: images uint8 [N, S, S, 3], labels int64 [N]."""

import dataclasses

import numpy as np

from utils import UserError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images of a data set become inputs: mean and std of 0..255 pixels by channel; flips; crops from `pad` pixels."""

    mean: tuple
    std: tuple
    flip: bool
    pad: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test set. images uint8 [N, S, S, 3], labels int64 [N] below `classes`."""

    name: str
    classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    augmentation: Augmentation

    @property
    def input_size(self):
        return self.x_train.shape[1]


# The published triples of CIFAR, for the channels as they lie in the array. The statistics of the data read the other way
# round, but a network absorbs the difference and published checkpoints expect these.
AUGMENTATIONS = {
    "CIFAR10": Augmentation((113.9, 123.0, 125.3), (66.7, 62.1, 63.0), flip=True, pad=4),
    "CIFAR100": Augmentation((112.0, 124.0, 129.0), (70.0, 65.0, 68.0), flip=True, pad=4),
    "DIGITS": Augmentation((77.7,) * 3, (95.9,) * 3, flip=False, pad=4),  # a mirrored digit is another sign
}
CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "DIGITS": 10}


def load_dataset(name, data_path=None):
    """The Dataset `name`; `data_path` as in dataloader.cifar. Raises UserError for data that are missing or damaged."""
    if name == "DIGITS":
        if data_path is not None:
            raise UserError(f"--data_path {data_path}: DIGITS comes with this program; leave --data_path out")
        from dataloader.digits import load_digits

        arrays = load_digits()
    else:
        from dataloader.cifar import load_cifar

        arrays = load_cifar(name, CLASSES[name], data_path)
    return Dataset(name, CLASSES[name], *arrays, AUGMENTATIONS[name])
