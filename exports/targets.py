"""Where exported files go. Nothing here imports TensorFlow."""

import os

from utils import UserError


def target(folder, stem, wanted):
    """The path of a file to export to."""
    return os.path.join(folder, stem + wanted.ending)


def check_targets(folder, stem, formats, source):
    """Raises UserError if files cannot be written, or would replace what is not an export.

    Args:
        folder: to write to; "" is the working folder.
        stem: the names of all files without their endings.
        formats: list of Format.
        source: path of the file that is exported.
    """
    if not os.path.isdir(folder or "."):
        raise UserError(f"--out {folder}: there is no such folder")
    if not os.access(folder or ".", os.W_OK):
        raise UserError(f"--out {folder}: nothing can be written there")
    for wanted in formats:
        path = target(folder, stem, wanted)
        if not os.path.lexists(path):
            continue
        if os.path.exists(source) and os.path.samefile(path, source):
            raise UserError(f"{path} is the file to export; give another folder with --out")
        own = os.path.isfile(path)
        if wanted.opener == "savedmodel":
            own = os.path.exists(os.path.join(path, "saved_model.pb"))
        if not own:
            raise UserError(f"{path} was not written by this program; give another --out")


def files_of(path):
    """The files at `path`: itself, or all within the folder."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(place, name) for place, _, names in os.walk(path) for name in names]


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    return sum(map(os.path.getsize, files_of(path)))
