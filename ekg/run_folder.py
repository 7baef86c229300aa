"""A run is a folder: each stage reads files and writes files, whole or not at all, and a second start goes on."""

import contextlib
import dataclasses
import json
import os
import platform
import time

from utils import UserError, digest, whole_file, write_json

# What may differ when a run goes on, and between machines: it changes where and how fast, not what is computed. In how many
# parts a batch is taken does, replicas or not, since each has its own batch statistics.
FREE = {"train_path", "log_every", "gpu_id", "cpu_replicas", "compile", "accum", "steps_per_call", "resident_mib"}
PARTS = "replicas x accum"
VERSION = "0.1.0"

WARM = os.path.join("checkpoints", "warm_param.pkl")
RESULT = {"seconds": dict, "peak_rss_mib": dict}  # what result.json holds from the first stage on
STAGE_FILES = ("baseline_param.pkl", WARM, "search_state.npz", "memory_bank.npy", "slimmed_param.pkl", "trained_param.pkl")


def described(options, start, parts):
    """What a run computes, as config.json keeps it (JSON). `start` tells the starting network from any other."""
    return json.loads(json.dumps(dataclasses.asdict(options) | {"start": start, PARTS: parts}))


class RunFolder:
    """The folder of one run, `path`, with the stages' seconds and memory in result.json.

    Of several machines the chief alone writes; what the others are told to write is dropped (`writes`).
    """

    def __init__(self, path, options, versions, machines):
        """Opens or makes the folder. `options`: from `described`; machines: from machines.meet.

        Raises UserError if the folder holds another run or files of none, cannot be written, or is not the chief's.
        """
        self.path, self.writes, self.result = path, machines.chief, None
        with machines.together():
            if self.writes:
                self._open({"options": options, "versions": versions, "begun": time.time()})
        # What is there is the chief's word, given once: who looked later would find what another has just written.
        self._done, config, result = machines.exchange(self._contents() if self.writes else None)[0]
        with machines.together():
            if not self.writes and self._read("config.json", {"options": dict}) != config:
                raise UserError(f"--train_path {path} is not the chief's; the machines must share the storage it is on")
        self.result = result or {"seconds": {}, "peak_rss_mib": {}}

    def _contents(self):
        """Stages that are done, config.json and result.json."""
        done = [name for name in STAGE_FILES if self.has(name)]
        return done, self._read("config.json", {"options": dict}), self._read("result.json", RESULT)

    def _open(self, config):
        path = self.path
        former = self._read("config.json", {"options": dict})
        self._read("result.json", RESULT)
        if former is not None:
            differ = differences(former["options"], config["options"])
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

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    def done(self, name):
        """Whether a former start of the run has written this stage's file."""
        return name in self._done

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
        if self.writes:
            write_json(self.file("result.json"), self.result)

    @contextlib.contextmanager
    def stage(self, name, file):
        """Measures a stage that writes `file`, if it does so now: wall-clock seconds and the peak of resident memory."""
        reset_peak()
        begin = time.perf_counter()
        yield
        if self.done(file) or not (self.writes and self.has(file)):
            return
        self.result["seconds"][name] = round(time.perf_counter() - begin, 3)
        self.result["peak_rss_mib"][name] = peak_rss_mib()
        self.update_result()

    def start_lines(self, name, keep=lambda record: False):
        """Begins a .jsonl file anew, keeping the lines of a former start for which `keep` holds."""
        if not self.writes:
            return
        kept = [line for line in self.lines(name) if keep(line)]
        with whole_file(self.file(name), "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def add_line(self, name, record):
        if self.writes:
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


def differences(former, new, ignored=(), words=("there", "asked for")):
    """In what two descriptions of runs differ, in words; "" if in nothing that counts."""
    former, new = dict(_flat(former)), dict(_flat(new))
    keys = sorted(k for k in former.keys() | new.keys() if former.get(k) != new.get(k) and k not in ignored)
    return ", ".join(f"{k}: {former.get(k)} {words[0]}, {new.get(k)} {words[1]}" for k in keys)


def check_agreement(machines, facts, data):
    """Raises UserError on all machines if they would not compute the same: other options, images or versions.

    facts: what this machine was asked for, a dict (JSON); data: its Dataset.
    """
    if len(machines.addresses) == 1:
        return
    arrays = {"x": data.x_train, "y": data.y_train, "test x": data.x_test, "test y": data.y_test}
    said = machines.exchange({**facts, "data": digest(arrays), "versions": versions()})
    for index, (address, theirs) in enumerate(zip(machines.addresses, said)):
        differ = differences(said[0], theirs, ignored=("data_path", "trained_param"), words=("at the chief", "there"))
        if differ:
            raise UserError(f"machine {index}, {address}, would compute something else than the chief ({differ})")


def versions():
    """What a run was made with."""
    import numpy as np
    import tensorflow as tf

    return {"ekg": VERSION, "python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__}


def reset_peak():
    """Lets the peak of resident memory start again from what is resident now (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_rss_mib():
    """Peak of resident memory in MiB since the stage began (Linux); elsewhere of the whole process."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    import resource

    unit = 1024 if platform.system() == "Linux" else 1024**2
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
