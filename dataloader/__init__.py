"""Data sets by name: images uint8 [N, S, S, 3], as an array or in files, labels int64 [N]."""

import dataclasses

import numpy as np

from utils import UserError, digest


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images of a data set become inputs: mean and std of 0..255 pixels by channel; flips;
    crops from `pad` pixels.
    """

    mean: tuple
    std: tuple
    flip: bool
    pad: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test set: images uint8 [N, S, S, 3] or dataloader.images.EncodedImages,
    labels int64 [N] below `classes`.

    The training set is None where it was not asked for. class_names: None where classes are
    numbers; notes: lines to say.
    """

    name: str
    classes: int
    x_train: object
    y_train: np.ndarray
    x_test: object
    y_test: np.ndarray
    augmentation: Augmentation
    class_names: list = None
    notes: tuple = ()
    broken_records: int = 0  # of shards, without an image that could be counted

    @property
    def input_size(self):
        return self.x_test.shape[1]

    @property
    def encoded(self):
        """Whether images lie in files and are decoded when they are needed."""
        return not isinstance(self.x_test, np.ndarray)

    def digest(self):
        """A few characters that tell this data set from others: by its pixels, or by its files'
        names and places.
        """
        arrays = {}
        for name, images, labels in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if images is not None:
                pixels = images.places.arrays() if self.encoded else {"x": images}
                arrays |= {f"{name} {key}": array for key, array in {**pixels, "y": labels}.items()}
        return digest(arrays)


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """How images in files are read. input_size: pixels a side; val_labels: list of labels of a flat
    folder, or None; shuffle_buffer: images of shards that are shuffled among each other.
    """

    input_size: int = 224
    val_labels: str = None
    shuffle_buffer: int = 16384


# The published triples of CIFAR, for the channels as they lie in the array. The statistics of the
# data read the other way round, but a network absorbs the difference and published checkpoints
# expect these.
AUGMENTATIONS = {
    "CIFAR10": Augmentation((113.9, 123.0, 125.3), (66.7, 62.1, 63.0), flip=True, pad=4),
    "CIFAR100": Augmentation((112.0, 124.0, 129.0), (70.0, 65.0, 68.0), flip=True, pad=4),
    "DIGITS": Augmentation(
        (77.7,) * 3, (95.9,) * 3, flip=False, pad=4
    ),  # a mirrored digit is another sign
    "ImageNet": Augmentation(
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), flip=True, pad=0
    ),  # crops come from its loader
}
CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "DIGITS": 10}
IN_FILES = ("ImageNet",)  # how many classes these have, the data say
DATASETS = (*CLASSES, *IN_FILES)


def load_dataset(name, data_path=None, files=None, share=(0, 1)):
    """The Dataset `name`; `data_path` as in dataloader.cifar or dataloader.imagenet. Raises
    UserError for data that are missing or damaged.

    files: FileOptions for images in files; share: (w, W), which of W machines this is.
    """
    if name in IN_FILES:
        return _in_files(name, data_path, files, share)
    if name == "DIGITS":
        if data_path is not None:
            raise UserError(
                f"--data_path {data_path}: DIGITS comes with this program; leave --data_path out"
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
    in_shards = train.places.file is not None
    images = EncodedImages(
        train.places, files.input_size, share, files.shuffle_buffer if in_shards else None
    )
    if not images.fewest:
        raise UserError(
            f"--data_path {data_path}: {len(train.places.names)} files are too few for {share[1]}"
            " machines"
        )
    classes = len(train.names) if train.names else int(train.labels.max()) + 1
    test = EncodedImages(val.places, files.input_size, share)
    arrays = images, train.labels, test, val.labels
    notes = train.notes + val.notes
    return Dataset(
        name,
        classes,
        *arrays,
        AUGMENTATIONS[name],
        train.names,
        notes,
        broken_records=len(train.notes),
    )


def load_test_set(name, data_path=None, files=None, share=(0, 1), classes=None):
    """The Dataset `name` as load_dataset has it, its training set not read where that would be a
    search of its own.

    classes: of the network, for data whose classes are mere numbers.
    """
    if name not in IN_FILES:
        return load_dataset(name, data_path)
    from dataloader.imagenet import find_imagenet
    from dataloader.images import EncodedImages

    val = find_imagenet(data_path, ("val",), files.val_labels, classes)["val"]
    known = len(val.names) if val.names else max(classes or 0, int(val.labels.max()) + 1)
    test = EncodedImages(val.places, files.input_size, share)
    return Dataset(
        name, known, None, None, test, val.labels, AUGMENTATIONS[name], val.names, val.notes
    )
