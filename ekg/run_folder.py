"""A run is a folder: each stage reads files and writes files, whole or not at all, and a second start goes on."""

import contextlib
import dataclasses
import json
import os
import platform
import time

from utils import UserError, whole_file, write_json

# What may differ when a run goes on: it changes where and how fast, not what is computed.
FREE = {"train_path", "log_every", "gpu_id", "compile"}
VERSION = "0.1.0"

WARM = os.path.join("checkpoints", "warm_param.pkl")
STAGE_FILES = ("baseline_param.pkl", WARM, "search_state.npz", "memory_bank.npy", "slimmed_param.pkl", "trained_param.pkl")


class RunFolder:
    """The folder of one run, `path`, with the stages' seconds and memory in result.json."""

    def __init__(self, path, options, start, versions):
        """Opens or makes the folder. `start` tells the starting network from any other (JSON).

        Raises UserError if the folder holds another run or files of none, or cannot be written.
        """
        self.path = path
        config = {"options": dataclasses.asdict(options) | {"start": start}, "versions": versions}
        config = json.loads(json.dumps(config))  # as it will be read back: lists, not tuples
        former = self._read("config.json", {"options": dict})
        result = self._read("result.json", {"seconds": dict, "peak_rss_mib": dict})
        if former is not None:
            differ = _differences(former["options"], config["options"])
            if differ:
                raise UserError(f"--train_path {path} holds a run with other options ({differ}); choose another folder")
        else:
            stray = [name for name in STAGE_FILES if self.has(name)]
            if stray:
                raise UserError(f"--train_path {path} holds {stray[0]} of an unknown run; choose another folder")
            try:
                os.makedirs(os.path.join(path, "checkpoints"), exist_ok=True)
                write_json(self.file("config.json"), config)
            except OSError as error:
                raise UserError(f"--train_path {path} cannot be written: {error.strerror}") from error
        self.result = result or {"seconds": {}, "peak_rss_mib": {}}

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    @property
    def finished(self):
        return all(isinstance(self.result.get(side), dict) for side in ("baseline", "pruned"))

    def _read(self, name, entries):
        """The JSON object in a file, which must have `entries` (dict name -> type); None if there is no file."""
        try:
            with open(self.file(name)) as file:
                value = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.file(name)} cannot be read: {error}; choose another --train_path") from error
        if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in entries.items()):
            raise UserError(f"{self.file(name)} is none of this program's; choose another --train_path")
        return value

    def update_result(self, **entries):
        self.result.update(entries)
        write_json(self.file("result.json"), self.result)

    @contextlib.contextmanager
    def stage(self, name, file):
        """Measures a stage that writes `file`, if it does so now: wall-clock seconds and the peak of resident memory."""
        done_before = self.has(file)
        _reset_peak()
        begin = time.perf_counter()
        yield
        if done_before or not self.has(file):
            return
        self.result["seconds"][name] = round(time.perf_counter() - begin, 3)
        self.result["peak_rss_mib"][name] = peak_rss_mib()
        self.update_result()

    def start_lines(self, name, keep=lambda record: False):
        """Begins a .jsonl file anew, keeping the lines of a former start for which `keep` holds."""
        kept = [line for line in self.lines(name) if keep(line)]
        with whole_file(self.file(name), "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def add_line(self, name, record):
        with open(self.file(name), "a") as file:
            file.write(json.dumps(record) + "\n")

    def lines(self, name):
        """The records of a .jsonl file, without a last line that a killed run left unfinished; none if there is no file."""
        if not self.has(name):
            return []
        try:
            with open(self.file(name)) as file:
                return [json.loads(line) for line in file if line.endswith("\n")]
        except ValueError as error:
            raise UserError(f"{self.file(name)} is damaged ({error}); delete it") from error


def _flat(options, prefix=""):
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in FREE:
            yield prefix + name, value


def _differences(former, new):
    former, new = dict(_flat(former)), dict(_flat(new))
    keys = sorted(k for k in former.keys() | new.keys() if former.get(k) != new.get(k))
    return ", ".join(f"{k}: {former.get(k)} there, {new.get(k)} asked for" for k in keys)


def versions():
    """What a run was made with."""
    import numpy as np
    import tensorflow as tf

    return {"ekg": VERSION, "python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__}


def _reset_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Linux: the peak starts again from what is resident now


def peak_rss_mib():
    """Peak of resident memory in MiB since the stage began (Linux); elsewhere of the whole process."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    import resource

    unit = 1024 if platform.system() == "Linux" else 1024**2
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
