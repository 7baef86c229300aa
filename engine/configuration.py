"""What a run computes: how that is written down, compared with what a folder holds, and agreed on
between machines.
"""

import dataclasses
import json
import platform

from utils import UserError

# What may differ when a run goes on, and between machines: it changes where and how fast, not what
# is computed. In how many parts a batch is taken does, replicas or not, since each has its own
# batch statistics. Which width a run has the start tells.
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
FREE |= {
    "trained_param",
    "search_from",
    "width_multiplier",
}  # what start and ADOPTED tell, wherever files lie
PARTS = "replicas x accum"
ADOPTED = "adopted"  # the search that --search_from took over
PATHS = (
    "data_path",
    "trained_param",
    "files.val_labels",
)  # may differ between machines: what they hold is compared
VERSION = "0.1.0"


def described(options, start, parts):
    """What a run computes, as config.json keeps it (JSON). `start` tells the starting network from
    any other.
    """
    return json.loads(json.dumps(dataclasses.asdict(options) | {"start": start, PARTS: parts}))


def _flat(options, prefix=""):
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name not in FREE:
            yield prefix + name, value


def differences(former, new, ignored=(), words=("there", "asked for")):
    """In what two descriptions of runs differ, in words; "" if in nothing that counts."""
    former, new = dict(_flat(former)), dict(_flat(new))
    for options in (former, new):  # before --search_precision there was one for all
        options.setdefault("device.search_precision", options.get("device.precision"))
    keys = sorted(
        k for k in former.keys() | new.keys() if former.get(k) != new.get(k) and k not in ignored
    )
    return ", ".join(f"{k}: {former.get(k)} {words[0]}, {new.get(k)} {words[1]}" for k in keys)


def check_agreement(machines, facts, data):
    """Raises UserError on all machines if they would not compute the same: other options, images or
    versions.

    facts: what this machine was asked for, a dict (JSON); data: its Dataset.
    """
    if len(machines.addresses) == 1:
        return
    said = machines.exchange({**facts, "data": data.digest(), "versions": versions()})
    for index, (address, theirs) in enumerate(zip(machines.addresses, said)):
        differ = differences(said[0], theirs, ignored=PATHS, words=("at the chief", "there"))
        if differ:
            raise UserError(
                f"machine {index}, {address}, would compute something else than the chief"
                f" ({differ})"
            )


def versions():
    """What a run was made with."""
    import numpy as np
    import tensorflow as tf

    return {
        "ekg": VERSION,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }
