"""The folder of a run. Each stage reads files and writes files, complete or not at all, so that a
second start can resume the run.
"""

import contextlib
import os
import time

from engine.configuration import differences
from engine.folder_lock import FolderLock
from engine.memory import peak_rss_mib, reset_peak
from engine.run_files import (
    CONFIG,
    RESULT,
    STAGES,
    UNFINISHED,
    is_finished,
    own_files,
    read_lines,
    read_object,
    write_lines,
)
from utils import TEMPORARY, UserError, write_json, writing_to


def check_folder(path, options, overwrite):
    """Whether the folder `path` holds no run yet. Raises UserError if it holds a run that one with
    `options`, from engine.configuration.described, must not continue, or files of no run.
    """
    former = read_object(path, "config.json", CONFIG)
    if overwrite:
        return former is None
    read_object(path, "result.json", RESULT)
    instead = "choose another folder, or --overwrite"
    if former is None:
        stray = [name for name in STAGES.values() if os.path.exists(os.path.join(path, name))]
        if stray:
            raise UserError(f"--train_path {path} holds {stray[0]} of an unknown run; {instead}")
        return True
    differ = differences(former["options"], options)
    if differ:
        older = "search_precision" not in former["options"].get("device", {})
        if older and differ.startswith("device.search_precision"):
            # From before this option: the search has the precision of the trainings.
            instead = f"give it the same --search_precision, {instead}"
        raise UserError(f"--train_path {path} holds a run with other options ({differ}); {instead}")
    return False


class RunFolder:
    """The folder of one run, `path`. result.json holds the seconds and the memory of each stage.

    With several machines only the chief writes (`writes`); the others ignore requests to write.
    The folder is locked until it is closed. The operating system frees the lock of a process that
    dies.
    """

    def __init__(self, path, options, versions, machines, overwrite=False, adopted=None):
        """Opens the folder, and makes it if it does not exist.

        Args:
            path: the folder.
            options: dict, from engine.configuration.described.
            versions: dict from engine.configuration.versions.
            machines: from distribution.machines.meet.
            overwrite: whether to delete files of an earlier run first.
            adopted: engine.adoption.Adopted, a search to take over, or None.

        Raises UserError if the folder holds another run, or files that belong to no run; if it is
        in use or cannot be written; or if this machine sees another folder than the chief.
        """
        self.path, self.writes = path, machines.chief
        self._lock: FolderLock | None = None  # a finished run is not locked
        self.result: dict = {}
        try:
            with machines.together():
                if self.writes:
                    config = {"options": options, "versions": versions, "begun": time.time()}
                    self._open(config, overwrite, adopted)
            # The chief lists the folder once for all machines: a machine that looked later would
            # find files that another one has just written.
            contents = self._contents() if self.writes else None
            self._there, config, result = machines.exchange(contents)[0]
            with machines.together():
                if not self.writes and self._read("config.json", CONFIG) != config:
                    raise UserError(
                        f"--train_path {path} is not the chief's folder; the machines must share"
                        " the storage it is on"
                    )
                if self.writes and self._lock is None and not is_finished(result):
                    raise UserError(
                        f"--train_path {path} is in use by another process, which has just"
                        " restarted it"
                    )
        except BaseException:
            self.close()
            raise
        self.result = result or {"seconds": {}, "peak_rss_mib": {}}

    def close(self):
        """Frees the folder for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def locked(self):
        """Whether other processes are kept out. Not if the file system has no locks, or if the run
        is finished.
        """
        return self._lock is not None and self._lock.locked

    def _contents(self):
        """(names of the stages' files that exist, config.json, result.json)"""
        there = [name for name in (*STAGES.values(), *UNFINISHED.values()) if self.has(name)]
        return there, self._read("config.json", CONFIG), self._read("result.json", RESULT)

    def _open(self, config, overwrite, adopted):
        path = self.path
        fresh = check_folder(path, config["options"], overwrite)
        if not fresh and not overwrite and is_finished(self._read("result.json", RESULT)):
            return  # a finished run is only read: it needs no lock
        with writing_to("--train_path", path):
            os.makedirs(self.file("checkpoints"), exist_ok=True)
            self._lock = FolderLock(path)
            # Check again under the lock: another process may have started at the same time.
            fresh = check_folder(path, config["options"], overwrite)
            self._tidy(overwrite)
            if fresh or overwrite:
                write_json(self.file("config.json"), config)
            if adopted is not None:
                adopted.copy_to(path)

    def _read(self, name, entries):
        return read_object(self.path, name, entries)

    def _tidy(self, overwrite):
        """Deletes temporary files of killed processes, and checkpoints of finished stages. With
        `overwrite`, deletes all files of a run instead of the checkpoints, config.json last.
        """
        for folder in ("", "checkpoints", "figures"):
            # Without a lock the temporary files may belong to a running process.
            if self.locked and os.path.isdir(self.file(folder)):
                for name in filter(TEMPORARY.fullmatch, os.listdir(self.file(folder))):
                    os.unlink(os.path.join(self.file(folder), name))
        done = [UNFINISHED[stage] for stage in UNFINISHED if self.has(STAGES[stage])]
        for path in own_files(self.path) if overwrite else map(self.file, done):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    def done(self, stage):
        """Whether an earlier start of the run has finished the stage."""
        return STAGES[stage] in self._there

    def begun(self, stage):
        """Whether an earlier start has left the stage unfinished."""
        return not self.done(stage) and UNFINISHED[stage] in self._there

    @property
    def finished(self):
        return is_finished(self.result)

    def update_result(self, **entries):
        self.result.update(entries)
        if self.writes:
            write_json(self.file("result.json"), self.result)

    # --------------------------------------------------------------------------------------- stages

    @contextlib.contextmanager
    def stage(self, name):
        """Measures the wall-clock seconds and the peak memory of a stage. `completes` stores them.

        Adds the name of the stage to a FloatingPointError, and the path of the saved progress.
        """
        reset_peak()
        self._stage, self._began = name, time.perf_counter()
        try:
            yield
        except FloatingPointError as error:
            kept = name in UNFINISHED and self.has(UNFINISHED[name])
            left = f"; {self.unfinished} holds the progress before that" if kept else ""
            raise FloatingPointError(f"{name.replace('_', ' ')}: {error}{left}") from error

    def resumed_after(self, seconds):
        """Adds `seconds`, which earlier starts spent on the stage."""
        self._began -= seconds

    @property
    def seconds(self):
        """Seconds of the stage so far, summed over all starts."""
        return round(time.perf_counter() - self._began, 3)

    @contextlib.contextmanager
    def completes(self):
        """Wraps the writing of the file that completes the stage; gives its path. Afterwards the
        progress file of the stage is deleted.
        """
        # Order matters: result.json first. Then a stage with its file always has its seconds and
        # memory too, whenever the process is killed.
        self.result["seconds"][self._stage] = self.seconds
        self.result["peak_rss_mib"][self._stage] = peak_rss_mib()
        self.update_result()
        yield self.file(STAGES[self._stage])
        if self.writes and self._stage in UNFINISHED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.unfinished)

    @property
    def unfinished(self):
        """Path of the stage's progress file."""
        return self.file(UNFINISHED[self._stage])

    # -------------------------------------------------------------------------------------- records

    def start_lines(self, name, keep=None):
        """Starts a .jsonl file. keep(record) selects the records of an earlier start to keep;
        without it the file starts empty, and an earlier one is not even read.
        """
        if self.writes:
            kept = [line for line in self.lines(name) if keep(line)] if keep else []
            write_lines(self.path, name, kept)

    def add_line(self, name, record):
        if self.writes:
            write_lines(self.path, name, [*self.lines(name), record])

    def lines(self, name):
        """The records of a .jsonl file, a list of dicts; empty if there is no file."""
        return read_lines(self.path, name)
