"""Loads CIFAR-10 and CIFAR-100 from the official folder or archive, an .npz, or Keras' cache."""

import contextlib
import io
import os
import pathlib
import tempfile

import numpy as np

from dataloader.archive import read_tar_gz
from dataloader.sampling import whole_labels
from files import guards, npz, pickle_reader, pickles
from utils import UserError

# The official files: names of the python and the binary folder, of the training and test files, the
# key of the labels, and label bytes per image in the binary format (the last one is the label).
OFFICIAL = {
    "CIFAR10": dict(
        python="cifar-10-batches-py",
        binary="cifar-10-batches-bin",
        train=[f"data_batch_{i}" for i in range(1, 6)],
        test="test_batch",
        binary_train=[f"data_batch_{i}.bin" for i in range(1, 6)],
        binary_test="test_batch.bin",
        labels=b"labels",
        label_bytes=1,
        origin="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "CIFAR100": dict(
        python="cifar-100-python",
        binary="cifar-100-binary",
        train=["train"],
        test="test",
        binary_train=["train.bin"],
        binary_test="test.bin",
        labels=b"fine_labels",
        label_bytes=2,
        origin="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
}
PIXELS = 32 * 32 * 3
# Where Keras has its cache if it cannot write to the user's home.
KERAS_FALLBACK = os.path.join("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")


def load_cifar(name, classes, data_path=None):
    """(x_train, y_train, x_test, y_test): uint8 [N, 32, 32, 3], int64 [N].

    data_path: the official python or binary folder, or a folder that contains it; its .tar.gz; an
    .npz with x_train, y_train, x_test, y_test; or None for Keras' cache, or else its download.
    Raises UserError if data are missing or invalid.
    """
    if data_path is None:
        arrays = _from_keras(name)
    elif data_path.endswith(".npz"):
        arrays = _from_npz(data_path)
    elif os.path.isdir(data_path):
        arrays = _from_folder(name, pathlib.Path(data_path))
    elif os.path.isfile(data_path):
        arrays = _from_archive(name, data_path)
    else:
        raise UserError(f"--data_path {data_path}: there is no such file or folder")
    return _checked(arrays, name, classes, data_path)


def _checked(arrays, name, classes, source):
    """The arrays as load_cifar returns them. Raises UserError if they are invalid."""
    checked = []
    for split in (0, 2):
        images, labels = arrays[split], arrays[split + 1]
        if images.ndim != 4 or images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
            raise UserError(
                f"{source}: images are {images.dtype} {list(images.shape)}, expected uint8 [N, 32,"
                " 32, 3]"
            )
        labels = whole_labels(labels, len(images), classes, source)
        invalid = labels[(labels < 0) | (labels >= classes)]
        if len(invalid):
            raise UserError(
                f"{source}: label {invalid[0]} is not one of the {classes} classes of {name}"
            )
        checked += [images, labels]
    return tuple(checked)


def _from_npz(path):
    try:
        arrays = npz.load_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    except OSError as error:
        raise UserError(f"--data_path {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"--data_path {path} is not a usable .npz: {error}") from error
    return list(arrays.values())


def _keras_homes():
    """The folders in which Keras may have its cache.

    Keras uses the folder for temporary files only if it cannot write to its own. Any user can write
    there, so it must not be read in other cases: its data may be forged.
    """
    user = os.path.expanduser("~")
    own = os.environ.get("KERAS_HOME")
    home = own or os.path.join(user, ".keras")
    writable = _can_create(home) and (own or os.access(user, os.W_OK))
    return (home,) if writable else (home, KERAS_FALLBACK)


def _can_create(folder):
    """Whether this user can write to `folder`, or create it if it does not exist."""
    folder = os.path.abspath(folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def _from_keras(name):
    """From Keras' cache, or from its download.

    Keras only fetches the archive. It is read here, because Keras would unpickle it.
    """
    official = OFFICIAL[name]
    files = [*official["train"], official["test"]]
    for home in _keras_homes():
        # Keras 2 and Keras 3 unpack to different folders.
        for parent in ("", f"{official['python']}-target"):
            folder = pathlib.Path(home, "datasets", parent, official["python"])
            # Skip a folder that Keras could not fill completely.
            if all(os.path.isfile(folder / file) for file in files):
                return _from_folder(name, folder)
    import tensorflow as tf

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar is for terminals
            path = tf.keras.utils.get_file(
                f"{official['python']}.tar.gz", official["origin"], file_hash=official["sha256"]
            )
    except Exception as error:
        reason = guards.one_line(error)
        raise UserError(
            f"{name} is not in Keras' cache and cannot be downloaded ({reason}); give --data_path"
        ) from error
    return _from_archive(name, path)


def _from_archive(name, path):
    """Reads the official files out of a .tar.gz without unpacking it to disk."""
    try:
        files = read_tar_gz(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--data_path {path} is not a .tar.gz, or is cut short: {guards.one_line(error)}"
        ) from error
    return _from_files(name, path, set(files), files.__getitem__)


def _from_folder(name, path):
    """From the official python or binary folder `path`, or from one below it."""
    official = OFFICIAL[name]
    names = {
        official["test"],
        official["binary_test"],
        *official["train"],
        *official["binary_train"],
    }
    for folder in (path, path / official["python"], path / official["binary"]):
        if not folder.is_dir():
            continue
        files = {entry.name for entry in folder.iterdir() if entry.is_file()}
        if files & names:
            read = lambda file, folder=folder: guards.read_file(folder / file)
            return _from_files(name, folder, files, read)
    raise UserError(
        f"--data_path {path}: neither {official['python']} nor {official['binary']} is in this"
        " folder"
    )


def _from_files(name, source, files, read):
    """The arrays of an official folder or archive.

    source: its name, for messages; files: set of the file names in it; read(name) -> bytes.
    """
    official = OFFICIAL[name]
    binary = not files & {official["test"], *official["train"]}
    train = official["binary_train" if binary else "train"]
    test = official["binary_test" if binary else "test"]
    missing = [file for file in [*train, test] if file not in files]
    if missing:
        raise UserError(f"--data_path {source}: {missing[0]} is missing")

    def parse(file):
        try:
            if binary:
                return _parse_binary(read(file), official["label_bytes"])
            return _parse_python(read(file), official["labels"])
        except pickle_reader.UnsafePickle as error:
            raise UserError(f"{source}: {file} is refused: it names {error}") from error
        except OSError as error:
            raise UserError(f"{source}: {file} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{source}: {file} is damaged or cut short: {error}") from error

    batches = [parse(file) for file in [*train, test]]
    # All training files have the same size, five times the test set in total. So a file that is cut
    # exactly between two images is detected here.
    for file, (images, _) in zip(train, batches):
        if len(images) * len(train) != 5 * len(batches[-1][0]):
            counts = f"{len(images)} images, {test} {len(batches[-1][0])}"
            raise UserError(f"{source}: {file} has {counts}: one of them is cut short")
    x_train, y_train = (np.concatenate(part) for part in zip(*batches[:-1]))
    return [x_train, y_train, *batches[-1]]


def _parse_python(data, labels_key):
    """(images, labels) of a file in the python format."""
    content = pickles.load_pickle(data, encoding="bytes")
    if not isinstance(content, dict) or b"data" not in content or labels_key not in content:
        raise ValueError(f"it has no {labels_key.decode()} or no data")
    rows, labels = content[b"data"], content[labels_key]
    # Only a flat list: nested lists of a malicious file may expand to 2^n labels.
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.asarray(labels)
    valid = (
        isinstance(rows, np.ndarray)
        and isinstance(labels, np.ndarray)
        and rows.dtype == np.uint8
        and rows.shape[1:] == (PIXELS,)
        and labels.shape == rows.shape[:1]
    )
    if not valid:
        raise ValueError(f"it does not have rows of {PIXELS} bytes with one label each")
    return _images(rows), labels


def _parse_binary(data, label_bytes):
    """(images, labels) of a file in the binary format."""
    record = PIXELS + label_bytes
    if not data or len(data) % record:
        raise ValueError(f"{len(data)} bytes are not a whole number of images of {record} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return _images(rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int64)


def _images(rows):
    """uint8 [N, 32, 32, 3] from rows uint8 [N, 3072], channels first."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
