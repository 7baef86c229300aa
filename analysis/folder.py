"""The folder of an analysis: what was asked for, and its results, each file whole or absent."""

import contextlib
import os
import time

from engine.configuration import differences, versions
from engine.folder_lock import FolderLock
from engine.run_files import CONFIG, read_object
from utils import FULL, TEMPORARY, UserError, write_json

FLAG = "--analysis_path"


class AnalysisFolder:
    """The folder PATH/KIND. It has one set of options, so that its networks can be compared.

    Opening it makes it if it does not exist, and locks it until it is closed.
    """

    def __init__(self, path, kind, options, made_with, overwrite=False, flag=FLAG):
        """
        Args:
            path: of the folder of all analyses.
            kind: of this one: hessian, landscape or potential.
            options: dict (JSON) of what decides the results.
            made_with: dict (JSON), further facts to write down: hardware, command.
            overwrite: whether to delete earlier results of this kind.
            flag: the option that gave `path`, for messages.

        Raises UserError if the folder holds results of other options, is in use, or cannot be
        written.
        """
        self.path = os.path.join(path, kind)
        self._flag = flag
        former = None if overwrite else read_object(self.path, "config.json", CONFIG, flag)
        if former is not None:
            differ = differences(former["options"], options)
            if differ:
                raise UserError(
                    f"{flag} {path} holds a {kind} analysis with other options ({differ}); choose"
                    " another folder, or --overwrite"
                )
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock = FolderLock(self.path, flag)
            self._tidy(overwrite)
            if former is None:
                facts = {"versions": versions(), "begun": time.time()} | made_with
                write_json(self.file("config.json"), {"options": options} | facts)
        except OSError as error:
            if error.errno in FULL:
                raise  # a full disk is not a mistake in the command
            raise UserError(f"{flag} {path} cannot be written: {error.strerror}") from error

    def _tidy(self, overwrite):
        """Deletes temporary files of killed processes. With `overwrite`, all files but the lock."""
        for name in os.listdir(self.path) if self._lock.locked else ():
            temporary = TEMPORARY.fullmatch(name)
            if temporary or (overwrite and name.endswith((".json", ".npz", ".basis", ".png"))):
                os.unlink(self.file(name))

    def close(self):
        """Frees the folder for other processes."""
        self._lock.close()

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    def read(self, name, entries):
        """The JSON object in a file, None if there is none. entries: see run_files.read_object."""
        return read_object(self.path, name, entries, self._flag)

    def delete(self, *names):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file(name))
