"""The folder of an analysis: what was asked for, and its results, each file whole or absent."""

import contextlib
import os
import re
import time

from engine.configuration import differences, versions
from engine.folder_lock import FolderLock
from engine.run_files import CONFIG, read_object
from utils import TEMPORARY, UserError, write_json, writing_to

FLAG = "--analysis_path"
# Names of the results: those of a network end in 8 digits of its digest.
OWN = re.compile(
    r"(.+-[0-9a-f]{8}|sub-network-\d+(\.hessian)?)(\.density-\d+)?(\.process)?\.(json|npz|basis|png)"
    r"|grid\.npz|result\.json|correlations\.json|(surfaces|contours|potential)\.png"
)


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
        self._check(path, kind, options, overwrite)
        with writing_to(flag, path):
            os.makedirs(self.path, exist_ok=True)
            self._lock = FolderLock(self.path, flag)
            try:
                # Check again under the lock: another process may have started at the same time.
                fresh = self._check(path, kind, options, overwrite)
                self._tidy(overwrite)
                if fresh or overwrite:
                    facts = {"versions": versions(), "begun": time.time()} | made_with
                    write_json(self.file("config.json"), {"options": options} | facts)
            except BaseException:
                self.close()
                raise

    def _check(self, path, kind, options, overwrite):
        """Whether the folder holds no analysis yet. Raises UserError if it holds one of other
        options, or files of another program. For the arguments see __init__.
        """
        instead = "choose another folder, or --overwrite"
        former = read_object(self.path, "config.json", CONFIG, self._flag)
        if overwrite:
            return former is None
        if former is None:
            stray = self._results()
            if stray:
                raise UserError(
                    f"{self._flag} {path} holds {stray[0]} of an unknown {kind} analysis; {instead}"
                )
            return True
        differ = differences(former["options"], options)
        if differ:
            raise UserError(
                f"{self._flag} {path} holds a {kind} analysis with other options ({differ});"
                f" {instead}"
            )
        return False

    def _results(self):
        """Names of the results that are there, config.json not among them."""
        names = sorted(os.listdir(self.path)) if os.path.isdir(self.path) else ()
        return [name for name in names if OWN.fullmatch(name)]

    def _tidy(self, overwrite):
        """Deletes temporary files of killed processes. With `overwrite`, all results too."""
        if self._lock.locked:
            self.delete(*filter(TEMPORARY.fullmatch, os.listdir(self.path)))
        if overwrite:
            # Order matters: results without a config.json could be taken for those of others.
            self.delete(*self._results(), "config.json")

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
