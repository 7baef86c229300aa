"""Ablations: what the rows of a table vary, which runs they take, what runs share, and these runs
one after another.

A row is a name and flags of the training program. Rows and seeds start from one baseline; rows of a
seed that differ in their fine-tuning alone share a search, which is a run of its own with
--train_epoch 0, from which they are started by --search_from.
"""

import dataclasses
import gc
import os
import re
from collections.abc import Callable

from distribution.machines import Alone
from ekg.candidates import FILTERS
from ekg.scores import SCORES
from ekg.strategies import STRATEGIES
from engine.adoption import LATER
from engine.configuration import ADOPTED, PARTS, described, differences
from engine.options import Options
from engine.run_folder import CONFIG, RESULT, STAGES, RunFolder, is_finished, own_files, read_object
from utils import UserError

BASELINE = "baseline"
TABLES = {
    # The paper's: teachers of search / fine-tuning.
    "teachers": {
        BASELINE: None,  # the network that all others start from
        "none / none": {"search_teacher": "none", "finetune_teacher": "none"},
        "single / none": {"search_teacher": "single", "finetune_teacher": "none"},
        "ensemble / none": {"search_teacher": "ensemble", "finetune_teacher": "none"},
        "ensemble / single": {"search_teacher": "ensemble", "finetune_teacher": "single"},
        "ensemble / ensemble": {"search_teacher": "ensemble", "finetune_teacher": "ensemble"},
    },
    # Importance scores, as the paper compares them: without a teacher in the fine-tuning.
    "scores": {
        name: {"score": name, "search_teacher": "ensemble", "finetune_teacher": "none"}
        for name in SCORES
    },
    "filters": {name: {"candidate_filter": name} for name in FILTERS},
    "searches": {name: {"search": name} for name in STRATEGIES},
}
# All flags that rows may set, in the order in which folders are named by them.
FLAGS = ("search", "search_teacher", "score", "candidate_filter", "finetune_teacher")
# Of what a run computes, what its options alone do not tell; all but the search has to be the same
# in all runs of a table.
COMPARED = ("start", PARTS, "machines", "data")
UNKNOWN = (*COMPARED, ADOPTED)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked for. tables: names of TABLES; seeds: ints; path: folder of all runs; options:
    makes the Options of a run from dict flag -> value, on top of the flags that are the same for
    all; flags, defaults: dict, what FLAGS are where no row sets them, and by default; command: as
    it was typed; rows: names of rows, of those tables, None for all.
    """

    tables: tuple
    seeds: tuple
    path: str
    options: Callable
    flags: dict
    defaults: dict
    command: str = ""
    rows: tuple | None = None

    def rows_of(self, table):
        """dict row -> flags or None, as TABLES has it: the rows asked for, and the baseline, which
        needs no run of its own.
        """
        wanted = lambda row: self.rows is None or row in self.rows or row == BASELINE
        return {row: flags for row, flags in TABLES[table].items() if wanted(row)}

    def file(self, name):
        return os.path.join(self.path, name)


@dataclasses.dataclass(frozen=True)
class Task:
    """One run. kind: "baseline", "search" or "row"; label: for people; search: folder of the run
    whose search a row takes.
    """

    kind: str
    label: str
    options: Options
    search: str = None

    @property
    def folder(self):
        return self.options.train_path

    def file(self, name):
        return os.path.join(self.folder, name)


@dataclasses.dataclass(frozen=True)
class Plan:
    """tasks: list of Task, in their order; rows: dict (table, row) -> the Tasks it is the mean of,
    one a seed.
    """

    tasks: list
    rows: dict


def plan(study, baseline_seed=None):
    """The Plan of a Study. baseline_seed: of the baseline to be trained first; None where the runs
    are given one.
    """
    tasks, rows, common = {}, {}, {}

    def add(kind, label, folder, flags, **more):
        if folder not in tasks:  # else another row has it too
            options = study.options(common | flags | {"train_path": folder})
            tasks[folder] = Task(kind, label, options, **more)
        return tasks[folder]

    if baseline_seed is not None:
        # No flag of a row: a baseline does not depend on them, and serves other tables too.
        alone = {"seed": baseline_seed, "search_seed": baseline_seed} | study.defaults
        first = add(BASELINE, f"baseline, seed {baseline_seed}", study.file("baseline"), alone)
        common = {"trained_param": first.file(STAGES["baseline"])}
    for seed in study.seeds:
        seeds = {"seed": seed, "search_seed": seed}
        for table in study.tables:
            for row, varied in study.rows_of(table).items():
                of_row = rows.setdefault((table, row), [])
                if varied is None:
                    continue
                flags, label = study.flags | varied, f"{table}: {row}, seed {seed}"
                searching = flags | {flag: study.defaults[flag] for flag in flags if flag in LATER}
                folder = study.file(
                    os.path.join(f"seed-{seed}", "searches", _folder(searching, study.defaults))
                )
                add("search", f"{label}, search", folder, seeds | searching | {"train_epoch": 0})
                own = study.file(os.path.join(f"seed-{seed}", _folder(flags, study.defaults)))
                of_row.append(
                    add("row", label, own, seeds | flags | {"search_from": folder}, search=folder)
                )
    return Plan(list(tasks.values()), rows)


def _folder(flags, defaults):
    """The name of a run's folder: its flags that are not the defaults."""
    return (
        "_".join(f"{flag}-{flags[flag]}" for flag in FLAGS if flags[flag] != defaults[flag])
        or "default"
    )


def baseline_seed(study, options, given):
    """The seed of the baseline that is trained for all runs: that of a former start, else the
    first; None if none is needed.

    options: of any run of the study; given: the file they start from without --trained_param, or
    None.
    """
    config = (
        None if options.overwrite else read_object(study.file("baseline"), "config.json", CONFIG)
    )
    if options.trained_param or (given and config is None):
        return None
    former = config and config["options"].get("seed")
    return former if isinstance(former, int) else study.seeds[0]


def is_done(task):
    """Whether a former start has finished the run. Raises UserError if its folder holds one with
    other options.
    """
    config = read_object(task.folder, "config.json", CONFIG)
    if config is None:
        return False
    differ = differences(config["options"], described(task.options, None, None), ignored=UNKNOWN)
    differ = differ or _other_width(task, str(config["options"].get("start")))
    if differ:
        instead = "choose another --train_path, or --overwrite"
        raise UserError(
            f"{task.label}: {task.folder} holds a run with other options ({differ}); {instead}"
        )
    if task.kind == BASELINE:
        return os.path.exists(task.file(STAGES["baseline"]))
    return is_finished(read_object(task.folder, "result.json", RESULT))


def _other_width(task, start):
    """What is different of the width multiplier asked for, "" if nothing. start: what a former
    start said of its network.
    """
    asked = task.options.width_multiplier
    if asked is None and task.kind != BASELINE:
        return ""  # that of the file it starts from
    former, asked = width_of(start), float(asked or 1)
    return "" if former == asked else f"width_multiplier: {former} there, {asked} asked for"


def width_of(start):
    """The width multiplier of the network that a run started from, from what its config.json says
    of that.
    """
    said = re.search(r"width multiplier ([^,]+)", start)
    return float(said[1]) if said else 1.0


def clear(tasks):
    """Deletes what former starts wrote into the folders of `tasks`, so that none of it gets into a
    table of new runs.

    Raises UserError for a folder in use, and before anything is deleted if the file that the runs
    start from would be.
    """
    source = {task.options.trained_param for task in tasks} if tasks[0].kind != BASELINE else set()
    for path in filter(None, source):
        if any(
            os.path.realpath(path) in map(os.path.realpath, own_files(task.folder))
            for task in tasks
        ):
            raise UserError(
                f"--overwrite would delete {path}, which the runs start from; copy it to another"
                " place first"
            )
    folders = []
    try:
        for task in tasks:
            if os.path.exists(task.file("config.json")):
                folders.append(RunFolder(task.folder, {}, {}, Alone(), overwrite=True))
        for folder in folders:
            os.unlink(folder.file("config.json"))
    finally:
        for folder in folders:
            folder.close()


def carry_out(tasks, works, say, after):
    """Does the runs of `tasks` that are not done. Raises what they raise, a UserError with their
    label; a FloatingPointError, of a row that diverges say, at the end, when all that do not need
    the run's search are done too.

    works: dict kind -> function of Options that does such a run; say: takes a line; after(tasks
    done so far) is called once before and after every run.
    """
    done = [task for task in tasks if is_done(task)]
    after(done)
    failed = {}
    for number, task in enumerate(tasks, 1):
        if task in done or task.search in failed:
            continue
        say(f"\nrun {number}/{len(tasks)}: {task.label} ({task.folder})")
        try:
            works[task.kind](task.options)
        except UserError as error:
            raise UserError(f"{task.label}: {error}") from error
        except FloatingPointError as error:
            failed[task.folder] = f"{task.label}: {error}"
            say(f"not done: {failed[task.folder]}")
            if task.kind == BASELINE:
                break
            continue
        gc.collect()  # steps refer to themselves, and to their variables
        done.append(task)
        after(done)
    if failed:
        raise FloatingPointError("; ".join(failed.values()))
