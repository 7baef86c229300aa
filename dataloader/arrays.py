"""Images and labels of one's own as arrays: what they must be, and an .npz of them."""

import numpy as np

from dataloader import Augmentation, Dataset
from files import npz
from nets.catalogue import PIXELS
from utils import UserError

TEST_NAMES = ("test", "val", "validation")
HELD_OUT = 5  # without a test set, every fifth image of each class is one
MOST_BYTES = 8 * 2**30  # of images in memory
# What a network may expect pixels 0..255 to be made into: mean and deviation per channel.
SCALINGS = {
    "0..255": ((0.0,), (1.0,)),
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": PIXELS["ImageNet"],
}
VIEWS = ("flip", "crop", "colour")  # how views of an image may differ


def own_dataset(name, train, test, views, class_names=None):
    """The Dataset of images and labels in memory. Raises UserError if they are invalid.

    Args:
        name: of the data, for messages.
        train, test: (images [N, H, W, C], labels: int64 [N], or float32 [N, L] if they are no
            classes); no test set: None.
        views: of VIEWS.
        class_names: list; None if classes are numbers.
    """
    notes = []
    if test is None:
        train, test = _held_out(*train)
        notes.append(f"{name} has no test set: every {HELD_OUT}th image of each class is held out")
    _check_alike(name, train[0], test[0])
    x = train[0]
    colour = "colour" in views and (x.shape[-1] in (1, 3) and x.min() >= 0)
    if "colour" in views and not colour:
        why = "are below 0" if x.shape[-1] in (1, 3) else f"have {x.shape[-1]} channels"
        notes.append(f"views do not differ in colour: pixels {why}")
    shorter = min(x.shape[1:3])
    pad = min(max(1, shorter // 8), shorter - 1) if "crop" in views else 0
    augmentation = Augmentation(*SCALINGS["0..255"], "flip" in views, pad, colour)
    has_classes = train[1].ndim == 1
    classes = int(max(train[1].max(), test[1].max())) + 1 if has_classes else 0
    return Dataset(name, classes, *train, *test, augmentation, class_names, tuple(notes))


def _check_alike(name, train, test):
    """Raises UserError if test images are of another size or kind than training images."""
    of = lambda x: f"{x.dtype} {list(x.shape[1:])}"
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise UserError(f"{name}: training images are {of(train)}, but test images {of(test)}")


def read_npz(path):
    """(train, test or None), each (images [N, H, W, C], labels int64 [N]), of an .npz file."""
    try:
        arrays = npz.load_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--data_path {path} cannot be read: {error}") from error
    train = _pair(path, arrays, "train")
    if train is None:
        raise UserError(
            f"--data_path {path} needs x_train and y_train; it has {', '.join(arrays) or 'nothing'}"
        )
    tests = (_pair(path, arrays, name) for name in TEST_NAMES)
    return train, next((pair for pair in tests if pair is not None), None)


def _pair(path, arrays, name):
    """(images [N, H, W, C], labels int64 [N]) of one split; None if it is not there."""
    if f"x_{name}" not in arrays or f"y_{name}" not in arrays:
        return None
    return checked(f"{path}: x_{name}", f"y_{name}", arrays[f"x_{name}"], arrays[f"y_{name}"])


def checked(images, labels, x, y):
    """(images uint8 or float32 [N, H, W, C], labels int64 [N]) of arrays that may be neither.

    images, labels: what to call them. Raises UserError for arrays that are no such thing.
    """
    x = images_of(images, x)
    if y.ndim == 2 and y.shape[1] > 1 and len(y) == len(x):
        y = _of_one_hot(labels, y)
    y = y.reshape(-1)
    if len(y) != len(x):
        raise UserError(f"{images} has {len(x)} images, but {labels} {len(y)} class numbers")
    if y.dtype.kind not in "buif" or (y != y.astype(np.int64)).any():
        raise UserError(
            f"{labels} is {y.dtype}, but no class numbers; for other labels give ekg.keras.prune a"
            " loss function"
        )
    if y.min() < 0:
        raise UserError(f"{images}: {labels} holds the label {int(y.min())}")
    return x, y.astype(np.int64)


def images_of(name, x):
    """uint8 or float32 [N, H, W, C], of an array of images. Raises UserError for other arrays."""
    if x.ndim == 3:
        x = x[..., None]  # grey images
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    if x.ndim != 4 or x.dtype.kind not in "uif" or len(x) == 0:
        raise UserError(f"{name} is {x.dtype} {list(x.shape)}, not [N, H, W, C] numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise UserError(f"{name} holds NaN or infinite values")
    return x if x.dtype == np.uint8 else x.astype(np.float32)


def _of_one_hot(labels, y):
    """int64 [N], from rows with a single 1."""
    if y.dtype.kind not in "buif" or not np.isin(y, (0, 1)).all() or (y.sum(1) != 1).any():
        raise UserError(
            f"{labels} is {y.dtype} {list(y.shape)}, but its rows are not one-hot: a class number"
            " per image is needed"
        )
    return y.argmax(1)


def _held_out(images, labels):
    """(train, test): every fifth image of each class is in the test set."""
    test = np.zeros(len(labels), bool)
    if labels.ndim > 1:  # no classes
        test[HELD_OUT - 1 :: HELD_OUT] = True
    for label in np.unique(labels) if labels.ndim == 1 else ():
        test[np.flatnonzero(labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    if not test.any():
        raise UserError(f"no class has {HELD_OUT} images, so none can be held out as a test set")
    return (images[~test], labels[~test]), (images[test], labels[test])
