"""Writes a small CIFAR in every form it comes in."""

import tarfile

import numpy as np
from python2 import python2

PER_FILE = 10  # images in a training file of CIFAR-10 and in the test file
PYTHON = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
BINARY = {"CIFAR10": "cifar-10-batches-bin", "CIFAR100": "cifar-100-binary"}
TRAIN = {"CIFAR10": [f"data_batch_{i}" for i in range(1, 6)], "CIFAR100": ["train"]}
TEST = {"CIFAR10": "test_batch", "CIFAR100": "test"}
CLASSES = {"CIFAR10": 10, "CIFAR100": 100}
FORMS = [
    "python",
    "python parent",
    "python archive",
    "binary",
    "binary parent",
    "binary archive",
    "npz",
]


def generate(name, seed=0):
    """(x_train, y_train, x_test, y_test) of noise: no two rows, columns or channels are alike."""
    rng = np.random.default_rng(seed)
    arrays = []
    for count in (5 * PER_FILE, PER_FILE):
        arrays.append(rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8))
        arrays.append(rng.permutation(np.arange(count) * 7 % CLASSES[name]).astype(np.int64))
    return arrays


def planes(images):
    """Rows of the official files: all of red, then green, then blue, each row by row."""
    return np.stack(
        [images[..., channel].reshape(len(images), -1) for channel in range(3)], 1
    ).reshape(len(images), -1)


def files_of(name, arrays):
    """file -> (images, labels), as the official folders split the set."""
    x_train, y_train, x_test, y_test = arrays
    parts = zip(np.split(x_train, len(TRAIN[name])), np.split(y_train, len(TRAIN[name])))
    return {**dict(zip(TRAIN[name], parts)), TEST[name]: (x_test, y_test)}


def write_python(root, name, arrays):
    folder = root / PYTHON[name]
    folder.mkdir(parents=True)
    for file, (images, labels) in files_of(name, arrays).items():
        content = {
            "data": planes(images),
            "batch_label": file,
            "filenames": [f"{i}.png" for i in range(len(images))],
        }
        if name == "CIFAR10":
            content["labels"] = labels.tolist()
        else:
            content |= {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()}
        (folder / file).write_bytes(python2(content))
    (folder / "batches.meta").write_bytes(python2({"label_names": ["a", "b"]}))
    return folder


def write_binary(root, name, arrays):
    folder = root / BINARY[name]
    folder.mkdir(parents=True)
    for file, (images, labels) in files_of(name, arrays).items():
        columns = [labels] if name == "CIFAR10" else [labels // 5, labels]  # coarse label first
        rows = np.concatenate([np.stack(columns, 1).astype(np.uint8), planes(images)], 1)
        (folder / f"{file}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def write_archive(folder):
    path = folder.parent / f"{folder.name}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(folder, folder.name)
    return path


def write_npz(root, arrays, **other):
    path = root / "cifar.npz"
    content = dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays)) | other
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def write(form, root, name, arrays):
    """Writes the set in one form and gives the --data_path that names it."""
    if form == "npz":
        return write_npz(root, arrays)
    kind, _, where = form.partition(" ")
    folder = (write_python if kind == "python" else write_binary)(root, name, arrays)
    return {
        "": folder,
        "parent": root,
        "archive": folder if where != "archive" else write_archive(folder),
    }[where]
