"""Lists folders of images as people have them: with hidden and system files, with files that are no
images read here, and with empty folders.
"""

import collections
import os
import re

from dataloader.encoded import ENDINGS
from files.guards import one_line
from utils import UserError

IMAGE = re.compile(rf".+\.({'|'.join(ENDINGS)})", re.IGNORECASE | re.DOTALL)
# What operating systems and archivers leave behind, besides names that begin with a point.
SYSTEM = {
    "__macosx",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}
NAMED = 3  # examples in a message


class Skipped:
    """What was skipped in one or several folders.

    hidden: names of hidden and system files and folders; endings: Counter of the endings of other
    files; folders: number of folders within folders of classes; beside: number of images beside
    the folders of classes, which belong to none.
    """

    def __init__(self):
        self.hidden, self.endings, self.folders, self.beside = set(), collections.Counter(), 0, 0

    def __str__(self):
        parts = [f"{count} {ending}" for ending, count in self.endings.most_common(NAMED)]
        if len(self.endings) > NAMED:
            rest = sum(self.endings.values()) - sum(n for _, n in self.endings.most_common(NAMED))
            parts.append(f"{rest} others")
        if self.beside:
            parts.append(f"{self.beside} images beside the folders of classes")
        if self.folders:
            parts.append(f"{self.folders} folders within folders of classes")
        if self.hidden:
            parts.append(f"hidden and system files ({some(sorted(self.hidden))})")
        return ", ".join(parts)

    def note(self, where):
        """[line about what was skipped in `where`], [] for nothing."""
        if not str(self):
            return []
        read = ", ".join(f".{ending}" for ending in ENDINGS)
        wrong = f"; images end in {read}" if self.endings else ""
        return [f"{one_line(where)}: skipped {self}{wrong}"]


class Listing:
    """The names in the folder `path`, sorted: `folders` and `images`; hidden and system ones, and
    other files, are counted in `skipped`.

    skipped: Skipped to add to; None for a new one. Raises UserError if the folder cannot be read.
    """

    def __init__(self, path, skipped=None):
        self.path, self.skipped = path, skipped or Skipped()
        self.folders, self.images, self.others = [], [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._add(entry)
        except OSError as error:
            raise UserError(f"--data_path: {path} cannot be read: {error.strerror}") from error
        self.folders.sort()
        self.images.sort()

    def _add(self, entry):
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
            self.skipped.hidden.add(entry.name)
        elif _is_folder(entry):
            self.folders.append(entry.name)
        elif IMAGE.fullmatch(entry.name):
            self.images.append(entry.name)
        else:
            ending = os.path.splitext(entry.name)[1].lower()[:20]
            self.skipped.endings[one_line(ending) if ending else "without an ending"] += 1
            self.others.append(entry.name)

    def __str__(self):
        """What is in the folder, for a message."""
        parts = [
            f"{len(names)} {kind}{'' if len(names) == 1 else 's'} ({some(sorted(names))})"
            for kind, names in (
                ("folder", self.folders),
                ("image", self.images),
                ("other file", self.others),
            )
            if names
        ]
        return " and ".join(parts) or "nothing"


def some(names):
    """The first few of a list of names as text."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*(one_line(name)[:50] for name in names[:NAMED]), *more])


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # e.g. a link to itself; reading it will report the error
        return False
