"""The files of a run folder: their names, and how records are read and written."""

import glob
import json
import os

from files.guards import refusals
from utils import UserError, whole_file

# Stages in their order, each with the file that completes it.
STAGES = {
    "baseline": "baseline_param.pkl",
    "warm_up": os.path.join("checkpoints", "warm_param.pkl"),
    "search": "search_state.npz",
    "memory_bank": "memory_bank.npy",
    "extraction": "slimmed_param.pkl",
    "fine_tuning": "trained_param.pkl",
}
# The file with the progress of an unfinished stage.
UNFINISHED = {
    stage: os.path.join("checkpoints", f"{stage}.npz")
    for stage in ("baseline", "warm_up", "search", "fine_tuning")
}
UNFINISHED["memory_bank"] = os.path.join("checkpoints", "memory_bank.json")
BROKEN = "broken.json"  # skipped images
KERAS_RESULT = "pruned.keras"  # the result of a run on a Keras model
KERAS_UNFINISHED = os.path.join("checkpoints", KERAS_RESULT)  # while it is written
TIMES = "layer_times.json"  # what a search in time predicts with
BANK = "memory_bank.npy.part"  # the unfinished bank, next to the file it will be renamed to
# The records of a run, with the entries that each line must have.
RECORDS: dict[str, dict[str, type | tuple]] = {
    "search.jsonl": {
        "step": int,
        "flops_rate": (int, float),
        "loss": (int, float),
        "accuracy": (int, float),
    },
    "training.jsonl": {"stage": str, "epoch": int, "loss": (int, float), "accuracy": (int, float)},
}
PLOTS = tuple(
    os.path.join("figures", f"{name}.png") for name in ("trajectory", "filters", "training")
)
CONFIG = {"options": dict}
RESULT = {"seconds": dict, "peak_rss_mib": dict}  # entries of result.json from the first stage on
SIDES = ("baseline", "pruned")  # entries of a finished run, each with the metrics MEASURED
MEASURED = ("top1", "top5", "loss", "params", "flops", "latency_ms")


def read_object(folder, name, entries, flag="--train_path"):
    """The JSON object in a file of a run folder; None if there is no file.

    entries: dict name -> type, what the object must have; flag: the option that gave the folder,
    for messages. Raises UserError if the file is damaged or something else.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file, refusals():
            value = json.load(file)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(
            f"{flag} {folder} is a file, or lies inside one; choose another folder"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; choose another {flag}") from error
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), kind) for key, kind in entries.items()
    ):
        raise UserError(f"{path} was not written by this program; choose another {flag}")
    return value


def read_lines(folder, name):
    """The records of a .jsonl file of a run folder, a list of dicts; empty if there is no file.

    Raises UserError for a damaged file.
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
                raise ValueError("a line is not a record of a run")
        return records
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it") from error


def write_lines(folder, name, records):
    """Writes a .jsonl file of a run folder, in place of the former one."""
    with whole_file(os.path.join(folder, name), "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def own_files(path):
    """Paths of all files that a run writes into the folder `path`.

    A file comes before the files it depends on: in this order they can be deleted safely.
    """
    events = glob.glob(os.path.join(glob.escape(path), "events.out.tfevents.*"))
    names = (
        "result.json",
        KERAS_RESULT,
        KERAS_UNFINISHED,
        *PLOTS,
        *reversed(STAGES.values()),
        *UNFINISHED.values(),
        BANK,
        BROKEN,
        TIMES,
        *RECORDS,
        "config.json",
    )
    return [*events, *(os.path.join(path, name) for name in names)]


def is_finished(result):
    """Whether a run has finished. result: content of result.json, a dict or None."""
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
