"""From an Exportable to a checked file, which is there once it is whole and checked."""

import os
import tempfile

from exports.checking import check
from exports.targets import files_of
from exports.writing import write
from utils import rename


def export(exportable, wanted, path, images, representative=None):
    """Writes one file, checks it in another process and returns the Check.

    Args:
        exportable: Exportable.
        wanted: Format.
        path: str; a file, or a SavedModel's folder, that is there is replaced.
        images: uint8 [N, H, W, C], to check with.
        representative: see exports.writing.write.

    Raises UserError if the file cannot be made or differs; then `path` is as it was before.
    """
    folder, name = os.path.split(os.path.abspath(path))
    place = dict(prefix=f".{name}.", suffix=".tmp", dir=folder)
    with tempfile.TemporaryDirectory(**place, ignore_cleanup_errors=True) as temporary:
        written = os.path.join(temporary, name)
        write(exportable, wanted, written, representative)
        result = check(exportable, wanted, written, images)
        for file in files_of(written):
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        if os.path.isdir(path):  # a folder cannot be replaced in one step
            os.rename(path, os.path.join(temporary, "former"))
        rename(written, path)
    return result
