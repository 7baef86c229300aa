"""Data sets by name: images uint8 [N, S, S, 3], in an array or in files, and labels int64 [N]."""

import dataclasses
import functools
import typing

import numpy as np

from nets.catalogue import PIXELS
from utils import UserError, digest


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images of a data set become inputs of a network."""

    mean: tuple  # of pixels 0..255, per channel
    std: tuple
    flip: bool  # whether to flip at random
    pad: int  # pixels per side, before a random crop to the original size
    colour: bool = True  # whether to change contrast and saturation of two views


class ImageSource(typing.Protocol):
    """Images that are not in memory: what a data set needs of them. EncodedImages is one.

    An image that cannot be read is skipped, and another one takes its place in its batch.
    """

    shape: tuple  # (N, S, S, 3)
    draws: int  # random numbers per view
    broken: dict  # image -> reason, of the images skipped so far
    owner: np.ndarray | None  # int [N], which machine reads an image; None: any of them
    fewest: int  # images of the machine that has fewest

    def __len__(self) -> int: ...

    def columns(self, batch_size: int) -> slice:
        """The slice of a batch that this machine reads."""

    def steps(self, batch_size: int) -> int:
        """Number of steps per epoch."""

    def batches(self, groups, draws=None, strict=False, pool=None):
        """Yields (ids, images uint8 [B, ...]) for each of `groups`, arrays of image indices."""

    def check(self) -> None:
        """Raises UserError if an image cannot be read."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training set and a test set. The training set is None if it was not asked for.

    Args:
        name: of the data set.
        classes: number of classes.
        x_train: uint8 [N, S, S, 3], or an ImageSource.
        y_train: int64 [N], 0 to classes - 1; or float32 [N, L], labels that are no classes.
        x_test, y_test: likewise.
        augmentation: Augmentation.
        class_names: list; None if classes are numbers.
        notes: lines to print.
        broken_records: records in shards that contain no image and were skipped.
    """

    name: str
    classes: int
    x_train: typing.Any
    y_train: np.ndarray
    x_test: typing.Any
    y_test: np.ndarray
    augmentation: Augmentation
    class_names: list | None = None
    notes: tuple = ()
    broken_records: int = 0

    @property
    def input_size(self):
        return self.x_test.shape[1]

    @property
    def strata(self):
        """(int64 [N], their number): of which sets like D_val take equally many training images.

        The classes; for labels that are no classes, arbitrary ones of equal size.
        """
        if self.y_train.ndim == 1:
            return self.y_train, self.classes
        return np.arange(len(self.y_train)) % STRATA, STRATA

    @property
    def encoded(self):
        """Whether images are in files and are decoded when they are needed."""
        return not isinstance(self.x_test, np.ndarray)

    @functools.cached_property
    def digest(self):
        """16 hex digits that identify this data set: from its pixels, or from the names of its
        files and the byte ranges in them. CIFAR-10 takes 0.15 s, once.
        """
        arrays = {}
        for name, images, labels in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if images is not None:
                parts = images.files.arrays() if self.encoded else {"x": images}
                arrays |= {f"{name} {key}": array for key, array in {**parts, "y": labels}.items()}
        return digest(arrays)


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """How images in files are read."""

    input_size: int = 224  # pixels per side
    val_labels: str | None = (
        None  # path of the list of labels of a flat folder, see dataloader.val_labels
    )
    shuffle_buffer: int = 16384  # images of shards are shuffled within this many images


AUGMENTATIONS = {
    "CIFAR10": Augmentation(*PIXELS["CIFAR10"], flip=True, pad=4),
    "CIFAR100": Augmentation(*PIXELS["CIFAR100"], flip=True, pad=4),
    # No flips: a mirrored digit is not a digit.
    "DIGITS": Augmentation(*PIXELS["DIGITS"], flip=False, pad=4),
    # No padding: dataloader.views crops.
    "ImageNet": Augmentation(*PIXELS["ImageNet"], flip=True, pad=0),
}
CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "DIGITS": 10}
STRATA = 10  # of training images without classes
IN_FILES = ("ImageNet",)  # their number of classes is found in the data
DATASETS = (*CLASSES, *IN_FILES)


def load_dataset(name, data_path=None, files=None, share=(0, 1)):
    """The Dataset `name`. Raises UserError if data are missing or damaged.

    data_path: see dataloader.cifar and dataloader.imagenet; files: FileOptions, for images in
    files; share: (w, W), this is machine w of W.
    """
    if name in IN_FILES:
        return _in_files(name, data_path, files, share)
    if name == "DIGITS":
        if data_path is not None:
            raise UserError(
                f"--data_path {data_path}: DIGITS needs no files; leave --data_path out"
            )
        from dataloader.digits import load_digits

        arrays = load_digits()
    else:
        from dataloader.cifar import load_cifar

        arrays = load_cifar(name, CLASSES[name], data_path)
    return Dataset(name, CLASSES[name], *arrays, AUGMENTATIONS[name])


def _in_files(name, data_path, files, share):
    from dataloader.imagenet import find_imagenet
    from dataloader.images import EncodedImages

    found = find_imagenet(data_path, val_labels=files.val_labels)
    train, val = found["train"], found["val"]
    in_shards = train.files.file is not None
    x_train = EncodedImages(
        train.files, files.input_size, share, files.shuffle_buffer if in_shards else None
    )
    if not x_train.fewest:
        raise UserError(
            f"--data_path {data_path}: {len(train.files.names)} files are too few for {share[1]}"
            " machines"
        )
    return Dataset(
        name=name,
        classes=len(train.names) if train.names else int(train.labels.max()) + 1,
        x_train=x_train,
        y_train=train.labels,
        x_test=EncodedImages(val.files, files.input_size, share),
        y_test=val.labels,
        augmentation=AUGMENTATIONS[name],
        class_names=train.names,
        notes=train.notes + val.notes,
        broken_records=train.broken_records,
    )


def load_test_set(name, data_path=None, files=None, share=(0, 1), classes=None):
    """Like load_dataset, but does not search the training images of a data set in files.

    Args:
        name: of the data set.
        data_path: see load_dataset.
        files: FileOptions, for images in files.
        share: (w, W), this is machine w of W.
        classes: of the network; used if the classes in the data are only numbers.
    """
    if name not in IN_FILES:
        return load_dataset(name, data_path)
    from dataloader.imagenet import find_imagenet
    from dataloader.images import EncodedImages

    val = find_imagenet(data_path, ("val",), files.val_labels, classes)["val"]
    known = len(val.names) if val.names else max(classes or 0, int(val.labels.max()) + 1)
    test = EncodedImages(val.files, files.input_size, share)
    return Dataset(
        name, known, None, None, test, val.labels, AUGMENTATIONS[name], val.names, val.notes
    )
