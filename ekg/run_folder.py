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


class RunFolder:
    """The folder of one run, `path`, with the stages' seconds and memory in result.json."""

    def __init__(self, path, options, versions):
        """Opens or makes the folder. Raises UserError if it holds a run with other options, or cannot be written."""
        self.path = path
        config = {"options": dataclasses.asdict(options), "versions": versions}
        config = json.loads(json.dumps(config))  # as it will be read back: lists, not tuples
        former = self._read("config.json")
        if former is not None:
            differ = _differences(former.get("options", {}), config["options"])
            if differ:
                raise UserError(f"--train_path {path} holds a run with other options ({differ}); choose another folder")
        else:
            try:
                os.makedirs(os.path.join(path, "checkpoints"), exist_ok=True)
                write_json(self.file("config.json"), config)
            except OSError as error:
                raise UserError(f"--train_path {path} cannot be written: {error.strerror}") from error
        self.result = self._read("result.json") or {"seconds": {}, "peak_rss_mib": {}}

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    def _read(self, name):
        try:
            with open(self.file(name)) as file:
                value = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.file(name)} cannot be read: {error}; is {self.path} a run's folder?") from error
        if not isinstance(value, dict):
            raise UserError(f"{self.file(name)} is none of this program's; choose another --train_path")
        return value

    def update_result(self, **entries):
        self.result.update(entries)
        write_json(self.file("result.json"), self.result)

    @contextlib.contextmanager
    def stage(self, name):
        """Measures a stage, unless a former start has: wall-clock seconds and the peak of resident memory in it."""
        _reset_peak()
        begin = time.perf_counter()
        yield
        if name in self.result["seconds"]:
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
        with open(self.file(name)) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]


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
