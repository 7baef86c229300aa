"""Reads the list of labels for a flat folder of validation images, in its usual formats.

One line per image: either `name label`, in any order, separated by spaces or a comma; or only the
label, for the images sorted by name. Fields may be quoted, separated by semicolons and named in a
first line, as spreadsheets write them. A label is the name of a class (wnid) or its number. If
lines have only numbers and meta.mat is in the same folder, as in ILSVRC2012's development kit, they
are the numbers of meta.mat. Otherwise numbers count the classes sorted by name, from 0 or from 1.
"""

import csv
import os

import numpy as np

from files.guards import one_line, refusals
from utils import UserError

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"  # its numbers do not follow the names' order
NAME_COLUMNS = {"imageid", "image", "img", "filename", "file", "name", "path", "filepath", "id"}
LABEL_COLUMNS = {"label", "labels", "class", "classid", "classname", "category", "target", "wnid"}
LABEL_COLUMNS |= {"synset", "predictionstring"}
LARGEST = 2**28  # bytes of a list; those of ImageNet have up to 2 MB


def read_val_labels(path, images, names):
    """(labels int64 [N], names of the classes, notes) for the images.

    images: sorted file names; names: sorted names of the classes, [] if only the list knows them.
    Raises UserError if the list does not fit.
    """
    rows = _rows(path, names)
    without_names = rows[0][0] is None
    if without_names:
        if len(rows) != len(images):
            raise UserError(f"--val_labels {path}: {len(rows)} labels for {len(images)} images")
        given = [label for _, label in rows]
    else:
        given = _by_name(path, rows, images)
    if all(label.isascii() and label.isdigit() for label in given):
        numbers = np.array([int(label[:9]) for label in given], np.int64)
        return _from_numbers(path, numbers, names, without_names)
    names = names or sorted(set(given))
    known = {name: number for number, name in enumerate(names)}
    unknown = next((label for label in given if label not in known), None)
    if unknown is not None:
        raise UserError(
            f"--val_labels {path}: {one_line(unknown)[:50]!r} is not one of the"
            f" {len(names)} classes"
        )
    return np.array([known[label] for label in given], np.int64), names, ()


def _rows(path, classes):
    """[(name or None, label)] of the lines. classes: names of the known classes."""
    try:
        if os.path.getsize(path) > LARGEST:
            raise ValueError("it is too large")
        with open(path, encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
            fields = _table([line.strip() for line in file if line.strip()])
    except OSError as error:
        raise UserError(f"--val_labels {path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        reason = one_line(error)
        raise UserError(f"--val_labels {path} is not a list of labels: {reason}") from error
    named = fields and fields[0][-1] not in classes
    columns = _columns(fields[0]) if named else None
    if columns is not None:
        del fields[0]
    if not fields:
        raise UserError(f"--val_labels {path}: it is empty")
    return [_row(row, columns or (0, 1)) for row in fields]


def _table(lines):
    """The fields of each line: as a spreadsheet writes them if that gives every line the same
    number, at least two; else see _fields.
    """
    quoted = any('"' in line for line in lines)
    for separator in ",;\t " if quoted else ",;":
        rows = list(csv.reader(lines, delimiter=separator))
        widths = {len(row) for row in rows}
        if len(rows) == len(lines) and len(widths) == 1 and widths != {1}:
            return [[field.strip() for field in row] for row in rows]
    return [_fields(line) for line in lines]


def _fields(line):
    """What is before the first comma and what is behind it; else the last word and what is before
    it.
    """
    name, comma, label = line.partition(",")
    if comma and label.split():
        return [name.strip(), label.strip()]
    *names, label = line.rsplit(None, 1)
    return [one.strip('"') for one in (*names, label)]


def _columns(header):
    """(column of names, column of labels) if the fields name the columns, else None."""
    words = [field.lower().replace("_", "").replace(" ", "") for field in header]
    names = [place for place, word in enumerate(words) if word in NAME_COLUMNS]
    labels = [place for place, word in enumerate(words) if word in LABEL_COLUMNS]
    if names:
        others = [place for place in range(names[0] + 1, len(words))]
        return names[0], (labels or others or [names[0] + 1])[0]
    return (None, labels[0]) if labels and len(words) == 1 else None


def _row(fields, columns):
    """(name or None, label) of the fields of a line. The label is the first word of its field."""
    name, label = columns
    if len(fields) == 1 or name is None:
        return None, fields[0]
    if max(columns) >= len(fields):
        name, label = 0, 1
    return fields[name], (fields[label].split() or [""])[0]


def _by_name(path, rows, images):
    """The label of each image, found by its file name, or else by that without the extension."""
    labels = {}
    for name, label in rows:
        if name is not None:
            base = os.path.basename(name)
            for key in {base, os.path.splitext(base)[0]}:
                if labels.setdefault(key, label) != label and key == base:
                    raise UserError(f"--val_labels {path}: {one_line(base)} has two labels")
    stem = lambda image: os.path.splitext(image)[0]
    missing = next(
        (image for image in images if image not in labels and stem(image) not in labels), None
    )
    if missing:
        raise UserError(f"--val_labels {path}: {one_line(missing)} has no label")
    return [labels[image] if image in labels else labels[stem(image)] for image in images]


def _from_numbers(path, numbers, names, without_names):
    """(labels, names, notes) from the numbers in a list. without_names: it has only numbers."""
    meta = os.path.join(os.path.dirname(path), "meta.mat")
    if without_names and os.path.exists(meta):
        wnids = _devkit(meta)
        names = names or sorted(wnids.values())
        known = {name: number for number, name in enumerate(names)}
        unknown = next((number for number in numbers if wnids.get(number) not in known), None)
        if unknown is not None:
            raise UserError(
                f"--val_labels {path}: {unknown} is not one of the {len(names)} classes in {meta}"
            )
        return np.array([known[wnids[number]] for number in numbers], np.int64), names, ()
    if without_names and os.path.basename(path) == DEVKIT:
        raise UserError(
            f"--val_labels {path}: its numbers need the development kit's meta.mat; put it in the"
            " same folder"
        )
    first = 0 if (numbers == 0).any() else 1
    labels = numbers - first
    if names and labels.max() >= len(names):
        raise UserError(
            f"--val_labels {path}: {numbers.max()} is not one of the {len(names)} classes, counted"
            f" from {first}"
        )
    names = names or [str(number + first) for number in range(labels.max() + 1)]
    note = f"--val_labels: numbers count the classes in the order of their names, from {first}"
    return labels, names, (note,)


def _devkit(path):
    """dict number -> wnid from the development kit's meta.mat."""
    from scipy import io  # a dependency of scikit-learn

    try:
        with refusals():
            synsets = io.loadmat(path, squeeze_me=True)["synsets"]
            return {
                int(number): str(wnid)
                for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"])
            }
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not ILSVRC2012's meta.mat: {one_line(error)}") from error
