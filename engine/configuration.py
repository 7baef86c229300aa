"""Description of what a run computes: how it is stored, compared with a folder's, and checked
between machines.
"""

import dataclasses
import json
import pathlib
import platform
import re

from utils import UserError

# Options that may differ when a run is resumed, and between machines: they change where and how
# fast a run computes, not its results. The number of parts (replicas x accum) does change results,
# because each part has its own batch statistics; it is compared as PARTS.
FREE = {
    "train_path",
    "overwrite",
    "log_every",
    "gpu_id",
    "cpu_replicas",
    "compile",
    "accum",
    "steps_per_call",
    "resident_mib",
}
# These are compared by content, wherever the files are: see `start` below, ADOPTED and
# ekg.predicted_time.
FREE |= {"trained_param", "trained_key", "search_from", "layer_times", "width_multiplier"}
PARTS = "replicas x accum"
# Options that older runs do not name, and what these runs did.
LATER_OPTIONS = {
    "search.least_filters": 1,
    "search.round_to": 1,
    "search.target": "flops",
    "search.slice_by": "share",
    "search.latency_batch_size": 32,
}
ADOPTED = "adopted"  # identity of the search that --search_from took over
DATA = "data"  # dataloader.Dataset.digest; older runs with images in memory do not have it
# Where the data are. Two runs of the same data may differ in it, and so may machines.
PLACES = ("data_path", "files.val_labels")


def described(options, start, parts):
    """Description (JSON) of what a run computes, as config.json stores it.

    start: text that identifies the starting network, including its width; parts: replicas x accum.
    """
    return json.loads(json.dumps(dataclasses.asdict(options) | {"start": start, PARTS: parts}))


def _flat(options, prefix=""):
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in FREE:
            yield prefix + name, value


def differences(former, new, ignored=(), words=("there", "asked for")):
    """Text that lists the differences between two descriptions of runs; "" if none matters.

    ignored: names of options to leave out; words: what to write after the former and the new value.
    """
    former, new = dict(_flat(former)), dict(_flat(new))
    if DATA not in former or DATA not in new:
        ignored = (*ignored, DATA)
    elif former[DATA] == new[DATA]:
        ignored = (*ignored, *PLACES)
    for options in (former, new):
        # Older runs have one precision for all stages, and not all options of the search.
        options.setdefault("device.search_precision", options.get("device.precision"))
        for name, default in LATER_OPTIONS.items():
            options.setdefault(name, default)
    keys = sorted(
        k for k in former.keys() | new.keys() if former.get(k) != new.get(k) and k not in ignored
    )
    return ", ".join(f"{k}: {former.get(k)} {words[0]}, {new.get(k)} {words[1]}" for k in keys)


def check_agreement(machines, facts, data):
    """Raises UserError on all machines if their options, images or versions differ.

    facts: dict (JSON) of this machine's options; data: its Dataset.
    """
    if len(machines.addresses) == 1:
        return
    all_facts = machines.exchange({**facts, DATA: data.digest, "versions": versions()})
    chief = all_facts[0]
    for index, (address, theirs) in enumerate(zip(machines.addresses, all_facts)):
        differ = differences(chief, theirs, ignored=PLACES, words=("at the chief", "there"))
        if differ:
            raise UserError(
                f"machine {index}, {address}, would not compute the same as the chief ({differ})"
            )


def version():
    """The version of this project. pyproject.toml is its only source.

    Not importlib.metadata: the programs run from a clone, without an installed package. Not
    tomllib: Python 3.10 has none.
    """
    text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
    (found,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    return found


def versions():
    """dict name -> version, of everything that affects the results of a run."""
    import numpy as np
    import tensorflow as tf

    return {
        "ekg": version(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }
