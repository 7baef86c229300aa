"""A run is a folder: each stage reads files and writes files, whole or not at all, and a second
start goes on.
"""

import contextlib
import fcntl
import glob
import json
import os
import platform
import socket
import time

from engine.configuration import differences
from files.guards import refusals
from utils import FULL, TEMPORARY, UserError, whole_file, write_json

# The file that a stage ends with, in the order of the stages, and the one that says how far an
# unfinished stage is.
STAGES = {
    "baseline": "baseline_param.pkl",
    "warm_up": os.path.join("checkpoints", "warm_param.pkl"),
    "search": "search_state.npz",
    "memory_bank": "memory_bank.npy",
    "extraction": "slimmed_param.pkl",
    "fine_tuning": "trained_param.pkl",
}
UNFINISHED = {
    stage: os.path.join("checkpoints", f"{stage}.npz")
    for stage in ("baseline", "warm_up", "search", "fine_tuning")
}
UNFINISHED["memory_bank"] = os.path.join("checkpoints", "memory_bank.json")
BROKEN = "broken.json"  # images that were skipped
BANK = "memory_bank.npy.part"  # the unfinished bank itself, in the folder where it gets its name
# The records of a run, and what each of their lines has.
RECORDS = {
    "search.jsonl": {
        "step": int,
        "flops_rate": (int, float),
        "loss": (int, float),
        "accuracy": (int, float),
    },
    "training.jsonl": {"stage": str, "epoch": int, "loss": (int, float), "accuracy": (int, float)},
}
FIGURES = tuple(
    os.path.join("figures", f"{name}.png") for name in ("trajectory", "filters", "training")
)
LOCK = ".lock"
CONFIG = {"options": dict}
RESULT = {"seconds": dict, "peak_rss_mib": dict}  # what result.json holds from the first stage on
SIDES = ("baseline", "pruned")  # what it holds in the end besides, each with these
MEASURED = ("top1", "top5", "loss", "params", "flops", "latency_ms")


class RunFolder:
    """The folder of one run, `path`, with the stages' seconds and memory in result.json.

    Of several machines the chief alone writes; what the others are told to write is dropped
    (`writes`). It is locked until it is closed, by the operating system, which also forgets the
    locks of those that died.
    """

    def __init__(self, path, options, versions, machines, overwrite=False, adopted=None):
        """Opens or makes the folder.

        Args:
            path: of the folder.
            options: dict, from engine.configuration.described.
            versions: dict of what the run is made with.
            machines: from distribution.machines.meet.
            overwrite: whether files of an earlier run are deleted first.
            adopted: engine.adoption.Adopted, a search that is taken over, or None.

        Raises UserError if the folder holds another run, or files that belong to no run; if it is
        in use or cannot be written; or if it is not the chief's.
        """
        self.path, self.writes, self.result, self._lock = path, machines.chief, None, None
        self.locked = (
            False  # stays so where the file system has no locks, and where nothing is left to write
        )
        try:
            with machines.together():
                if self.writes:
                    self._open(
                        {"options": options, "versions": versions, "begun": time.time()},
                        overwrite,
                        adopted,
                    )
            # What is there is the chief's word, given once: who looked later would find what
            # another has just written.
            self._there, config, result = machines.exchange(
                self._contents() if self.writes else None
            )[0]
            with machines.together():
                if not self.writes and self._read("config.json", CONFIG) != config:
                    raise UserError(
                        f"--train_path {path} is not the chief's; the machines must share the"
                        " storage it is on"
                    )
                if self.writes and self._lock is None and not is_finished(result):
                    raise UserError(
                        f"--train_path {path} is in use by another process, which has just begun it"
                        " anew"
                    )
        except BaseException:
            self.close()
            raise
        self.result = result or {"seconds": {}, "peak_rss_mib": {}}

    def close(self):
        """Lets other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _contents(self):
        """Stages' files that are there, whole or begun, config.json and result.json."""
        there = [name for name in (*STAGES.values(), *UNFINISHED.values()) if self.has(name)]
        return there, self._read("config.json", CONFIG), self._read("result.json", RESULT)

    def _open(self, config, overwrite, adopted):
        path = self.path
        fresh = self._check(config, overwrite)
        if not fresh and not overwrite and is_finished(self._read("result.json", RESULT)):
            return  # nothing will be written
        try:
            os.makedirs(self.file("checkpoints"), exist_ok=True)
            self._take_lock()
            fresh = self._check(config, overwrite)  # of two that began together, one is late
            self._tidy(overwrite)
            if fresh or overwrite:
                write_json(self.file("config.json"), config)
            if adopted is not None:
                adopted.copy_to(path)
        except OSError as error:
            if error.errno in FULL:
                raise  # no mistake in the command
            raise UserError(f"--train_path {path} cannot be written: {error.strerror}") from error

    def _read(self, name, entries):
        return read_object(self.path, name, entries)

    def _check(self, config, overwrite):
        """Whether there is no run yet; raises UserError if there is something that this run may not
        go on with.
        """
        former = self._read("config.json", CONFIG)
        if overwrite:
            return former is None
        self._read("result.json", RESULT)
        instead = "choose another folder, or --overwrite"
        if former is None:
            stray = [name for name in STAGES.values() if self.has(name)]
            if stray:
                raise UserError(
                    f"--train_path {self.path} holds {stray[0]} of an unknown run; {instead}"
                )
            return True
        differ = differences(former["options"], config["options"])
        if differ:
            raise UserError(
                f"--train_path {self.path} holds a run with other options ({differ}); {instead}"
            )
        return False

    def _take_lock(self):
        self._lock = open(
            self.file(LOCK), "a+b", buffering=0
        )  # what a full disk refuses is not tried again
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read(200).decode(errors="replace").strip() or "another process"
            self.close()
            raise UserError(
                f"--train_path {self.path} is in use by {owner}; wait for it, or choose another"
                " folder"
            ) from error
        except OSError:
            return  # this file system has no locks
        self.locked = True
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its owner's name
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _tidy(self, overwrite):
        """Deletes what killed processes were writing; with `overwrite` all that a run writes,
        config.json last.
        """
        for folder in ("", "checkpoints", "figures"):
            if self.locked and os.path.isdir(
                self.file(folder)
            ):  # without a lock they may be a living process's
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
        """Whether a former start of the run has finished the stage."""
        return STAGES[stage] in self._there

    def begun(self, stage):
        """Whether a former start has left the stage unfinished."""
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
        """A stage: its wall-clock seconds and its peak of resident memory are measured, and kept if
        it `completes`.

        Numbers that went wrong in it get its name, and are told what is left.
        """
        reset_peak()
        self._stage, self._began = name, time.perf_counter()
        try:
            yield
        except FloatingPointError as error:
            kept = name in UNFINISHED and self.has(UNFINISHED[name])
            left = f"; {self.unfinished} keeps what was done before" if kept else ""
            raise FloatingPointError(f"{name.replace('_', ' ')}: {error}{left}") from error

    def goes_on(self, seconds):
        """The stage was under way for `seconds` in former starts."""
        self._began -= seconds

    @property
    def seconds(self):
        """Seconds of the stage so far, over all starts."""
        return round(time.perf_counter() - self._began, 3)

    @contextlib.contextmanager
    def completes(self):
        """Around the writing of the file that ends the stage; gives its path. What the stage kept
        meanwhile is dropped after.
        """
        # Before, so that a stage whose file is there has its figures, whenever the process is
        # killed.
        self.result["seconds"][self._stage] = self.seconds
        self.result["peak_rss_mib"][self._stage] = peak_rss_mib()
        self.update_result()
        yield self.file(STAGES[self._stage])
        if self.writes and self._stage in UNFINISHED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.unfinished)

    @property
    def unfinished(self):
        """Path of what the stage keeps while it is under way."""
        return self.file(UNFINISHED[self._stage])

    # -------------------------------------------------------------------------------------- records

    def start_lines(self, name, keep=None):
        """Begins a .jsonl file anew, keeping the lines of a former start for which `keep` holds;
        without it none is read.
        """
        if self.writes:
            write_lines(
                self.path, name, [line for line in self.lines(name) if keep(line)] if keep else []
            )

    def add_line(self, name, record):
        if self.writes:
            write_lines(self.path, name, [*self.lines(name), record])

    def lines(self, name):
        """The records of a .jsonl file; none if there is no file."""
        return read_lines(self.path, name)


def read_object(folder, name, entries, flag="--train_path"):
    """The JSON object in a file of the run folder that `flag` names, which must have `entries`
    (dict name -> type); None if there is no file. Raises UserError for anything else.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file, refusals():
            value = json.load(file)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(f"{flag} {folder} is no folder, or in none; choose another one") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; choose another {flag}") from error
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), kind) for key, kind in entries.items()
    ):
        raise UserError(f"{path} is none of this program's; choose another {flag}")
    return value


def read_lines(folder, name):
    """The records of a .jsonl file of a run folder; none if there is no file. Raises UserError for
    a damaged one.
    """
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return []
    try:
        with open(path, "rb") as file, refusals():
            records = [json.loads(line) for line in file]
        for record in records:
            if not isinstance(record, dict) or not all(
                isinstance(record.get(k), t) for k, t in RECORDS[name].items()
            ):
                raise ValueError("a line is no record of a run")
        return records
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it") from error


def write_lines(folder, name, records):
    """Writes the records of a .jsonl file of a run folder anew."""
    with whole_file(os.path.join(folder, name), "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def own_files(path):
    """Paths of all that a run writes into the folder `path`, what depends on others first."""
    events = glob.glob(os.path.join(glob.escape(path), "events.out.tfevents.*"))
    names = (
        "result.json",
        *FIGURES,
        *reversed(STAGES.values()),
        *UNFINISHED.values(),
        BANK,
        BROKEN,
        *RECORDS,
        "config.json",
    )
    return [*events, *(os.path.join(path, name) for name in names)]


def is_finished(result):
    """Whether a run with this result.json, a dict or None, has nothing left to do."""
    if result is None or not all(isinstance(result.get(side), dict) for side in SIDES):
        return False
    seconds = all(isinstance(value, (int, float)) for value in result["seconds"].values())
    measured = [result[side].get(name) for side in SIDES for name in MEASURED]
    costs = [result[side].get(name) for side in SIDES for name in ("params", "flops", "latency_ms")]
    return (
        seconds
        and all(isinstance(value, (int, float)) for value in measured)
        and all(value > 0 for value in costs)
    )


def reset_peak():
    """Lets the peak of resident memory start again from what is resident now (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_rss_mib():
    """Peak of resident memory in MiB, since the stage began (Linux) or the process (elsewhere)."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    import resource

    unit = 1024 if platform.system() == "Linux" else 1024**2
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
