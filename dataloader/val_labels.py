"""The list of labels of a flat folder of validation images, in the forms it is passed around in.

A line an image. Either `name label`, in any order of lines, separated by spaces or a comma; or a
label alone, for the images in the order of their names. A label is a class's name (wnid) or its
number. Numbers alone are those of meta.mat, where that lies beside the list, as in ILSVRC2012's
development kit; otherwise they count the classes in the order of their names, from 0 or from 1.
"""

import os

import numpy as np

from files.guards import one_line, refusals
from utils import UserError

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"  # its numbers are in no order of the names
LARGEST = 2**28  # bytes of a list; that of ImageNet has 2 MB at most


def read_val_labels(path, images, names):
    """(labels int64 [N], names, notes) of the sorted file names `images`.

    names: the classes' names in order, [] where only the list knows them. Raises UserError naming
    the line that is wrong.
    """
    rows = _rows(path)
    alone = rows[0][0] is None
    if alone:
        if len(rows) != len(images):
            raise UserError(f"--val_labels {path}: {len(rows)} labels for {len(images)} images")
        given = [label for _, label in rows]
    else:
        given = _by_name(path, rows, images)
    if all(label.isascii() and label.isdigit() for label in given):
        return _numbers(path, np.array([int(label[:9]) for label in given], np.int64), names, alone)
    names = names or sorted(set(given))
    known = {name: number for number, name in enumerate(names)}
    strange = next((label for label in given if label not in known), None)
    if strange is not None:
        raise UserError(
            f"--val_labels {path}: {one_line(strange)[:50]!r} is none of the {len(names)} classes"
        )
    return np.array([known[label] for label in given], np.int64), names, ()


def _rows(path):
    """[(name or None, label)] of the lines."""
    try:
        if os.path.getsize(path) > LARGEST:
            raise ValueError("it is too large")
        with open(path, encoding="utf-8") as file:
            rows = [_row(line.strip()) for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"--val_labels {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--val_labels {path} is no list of labels: {one_line(error)}") from error
    if rows and rows[0][0] == "ImageId":  # a heading
        del rows[0]
    if not rows:
        raise UserError(f"--val_labels {path}: it is empty")
    return rows


def _row(line):
    """(name or None, label): behind a comma the first word is the label, else the last one of the
    line is.
    """
    name, comma, labels = line.partition(",")
    if comma and labels.split():
        return name.strip(), labels.split()[0]
    *names, label = line.rsplit(None, 1)
    return (names[0] if names else None), label


def _by_name(path, rows, images):
    """The label of each of `images`, found by its name, else by its name without the ending."""
    labels = {}
    for name, label in rows:
        if name is not None:
            base = os.path.basename(name)
            for key in {base, os.path.splitext(base)[0]}:
                if labels.setdefault(key, label) != label and key == base:
                    raise UserError(
                        f"--val_labels {path}: {one_line(base)} is in it with two labels"
                    )
    stem = lambda image: os.path.splitext(image)[0]
    missing = next(
        (image for image in images if image not in labels and stem(image) not in labels), None
    )
    if missing:
        raise UserError(f"--val_labels {path}: {one_line(missing)} is not in it")
    return [labels[image] if image in labels else labels[stem(image)] for image in images]


def _numbers(path, numbers, names, alone):
    meta = os.path.join(os.path.dirname(path), "meta.mat")
    if alone and os.path.exists(meta):
        wnids = _devkit(meta)
        names = names or sorted(wnids.values())
        known = {name: number for number, name in enumerate(names)}
        strange = next((number for number in numbers if wnids.get(number) not in known), None)
        if strange is not None:
            raise UserError(
                f"--val_labels {path}: {strange} is none of the {len(names)} classes by {meta}"
            )
        return np.array([known[wnids[number]] for number in numbers], np.int64), names, ()
    if alone and os.path.basename(path) == DEVKIT:
        raise UserError(
            f"--val_labels {path}: its numbers are those of the development kit's meta.mat; put"
            " that beside it"
        )
    first = 0 if (numbers == 0).any() else 1
    labels = numbers - first
    if names and labels.max() >= len(names):
        raise UserError(
            f"--val_labels {path}: {numbers.max()} is none of the {len(names)} classes, counted"
            f" from {first}"
        )
    names = names or [str(number + first) for number in range(labels.max() + 1)]
    return (
        labels,
        names,
        (f"--val_labels: numbers count the classes in the order of their names, from {first}",),
    )


def _devkit(path):
    """dict number -> wnid of the development kit's meta.mat."""
    from scipy import io  # scikit-learn brings it

    try:
        with refusals():
            synsets = io.loadmat(path, squeeze_me=True)["synsets"]
            return {
                int(number): str(wnid)
                for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"])
            }
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no meta.mat of ILSVRC2012: {one_line(error)}") from error
