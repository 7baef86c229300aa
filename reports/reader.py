"""Reads run folders. A run is only read: it may be finished, stopped or still running.

Everything is checked here, so that what is shown later has the expected types.
"""

import contextlib
import os

from engine.configuration import LATER_OPTIONS
from engine.run_files import (
    CONFIG,
    MEASURED,
    RESULT,
    SIDES,
    STAGES,
    UNFINISHED,
    is_finished,
    read_lines,
    read_object,
)
from reports.runs import Run, Stage, names_of
from utils import UserError

NUMBER = (int, float)
# What lines of a run may have besides what engine.run_files.RECORDS demands.
MORE: dict[str, dict[str, type | tuple]] = {
    "search.jsonl": {
        "gate": str,
        "filters": list,
        "candidates": list,
        "flops": NUMBER,
        "params": NUMBER,
        "score": NUMBER,
        "seconds": NUMBER,
        "best": bool,
    },
    "training.jsonl": {
        "learning_rate": NUMBER,
        "seconds": NUMBER,
        "test_loss": NUMBER,
        "test_top1": NUMBER,
        "test_top5": NUMBER,
    },
}
TRAININGS = ("baseline", "warm_up", "fine_tuning")


def read_runs(paths):
    """list of Run. Raises UserError for a folder given twice, without a run, or with a damaged
    file.
    """
    seen = set()
    for path in paths:
        if os.path.realpath(path) in seen:
            raise UserError(f"{path} is given twice")
        seen.add(os.path.realpath(path))
    return [read_run(path, name) for path, name in zip(paths, names_of(paths))]


def read_run(path, name):
    """The Run in the folder `path`. Raises UserError unless it holds a run, and undamaged files."""
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; give the --train_path of a run")
    config = read_object(path, "config.json", CONFIG, "RUN")
    if config is None:
        raise UserError(f"{path} holds no run (no config.json); give the --train_path of a run")
    with written_by_a_run(os.path.join(path, "config.json")):
        options = _options(config["options"])
        versions = {str(key): str(value) for key, value in config.get("versions", {}).items()}
        begun = number(config.get("begun"))
    result = read_object(path, "result.json", RESULT, "RUN") or {entry: {} for entry in RESULT}
    search, training = (_records(path, file) for file in MORE)
    finished, sides = is_finished(result), {}
    with written_by_a_run(os.path.join(path, "result.json")):
        stages = _stages(path, options, result, search, training)
        broken = number(result.get("broken"))
        if finished:
            sides = {side: {key: number(result[side][key]) for key in MEASURED} for side in SIDES}
            for side in SIDES if "latency" in result else ():
                sides[side]["target_ms"] = number(result["latency"]["ms"][side])
    return Run(
        path=path,
        name=name,
        options=options,
        versions=versions,
        begun=begun,
        finished=finished,
        sides=sides,
        broken=broken,
        search=search,
        training=training,
        stages=stages,
    )


@contextlib.contextmanager
def written_by_a_run(path, advice="choose another RUN"):
    """Raises a UserError that names the file, if the block finds its content to be another."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{path} was not written by this program; {advice}") from error


def number(value):
    """`value`, a number that can be shown, or None. Raises TypeError or OverflowError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, NUMBER):
        raise TypeError("not a number")
    float(value)  # whole numbers have no limit in JSON; in plots and texts they do
    return value


def _options(options):
    """`options`, if they have what the page needs of them."""
    for name in ("arch", "dataset", "start", "finetune_teacher"):
        if not isinstance(options[name], str):
            raise TypeError(name)
    for stage in TRAININGS:
        if not isinstance(options[stage]["epochs"], int):
            raise TypeError(stage)
    number(options["search"]["target_rate"])
    device = options["device"]  # older runs have one precision for all stages
    device.setdefault("search_precision", device["precision"])
    for name, default in LATER_OPTIONS.items():
        group, _, option = name.partition(".")
        options[group].setdefault(option, default)
    return options


def _records(folder, name):
    """The records of a .jsonl file, list of dicts."""
    records = read_lines(folder, name)
    with written_by_a_run(os.path.join(folder, name)):
        for record in records:
            for key, kind in MORE[name].items():
                if record.get(key) is not None and not isinstance(record[key], kind):
                    raise TypeError(key)
            numbers = [v for v in record.values() if type(v) in NUMBER]
            for value in (*numbers, *(record.get("filters") or ())):
                number(value)
    return records


def _stages(folder, options, result, search, training):
    """list of Stage: those that a run with these options needs."""
    epochs = {stage: options[stage]["epochs"] for stage in TRAININGS}
    needed = set(STAGES)
    # Written so by ekg.paper_networks and ekg.keras_subject.
    if options["start"].startswith(("parameters", "model")):
        needed -= {"baseline"}
    if not epochs["fine_tuning"]:
        needed -= {"memory_bank", "fine_tuning"}
    if options["finetune_teacher"] != "ensemble":
        needed -= {"memory_bank"}
    stages = []
    for name in (name for name in STAGES if name in needed):
        has = lambda file: os.path.exists(os.path.join(folder, file))
        records = [record for record in training if record["stage"] == name]
        trained = len(records)
        begun = trained or (name in UNFINISHED and has(UNFINISHED[name]))
        state = "done" if has(STAGES[name]) else "unfinished" if begun else "not begun"
        of_all = (trained, epochs[name]) if epochs.get(name) else None
        seconds, mib = (number(result[entry].get(name)) for entry in RESULT)
        if seconds is None and state == "unfinished":
            steps = search if name == "search" else records
            seconds = sum(step.get("seconds") or 0 for step in steps)
        stages.append(Stage(name, state, of_all, seconds, mib))
    return stages
