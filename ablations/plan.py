"""Plans and does the runs of ablations.

A row of a table is a name and flags of the training program. All rows and seeds start from one
baseline. Rows of the same seed that differ only in their fine-tuning share a search: it is a run
with --train_epoch 0, and the rows start from it with --search_from.
"""

import dataclasses
import gc
import os
import re
from collections.abc import Callable

from analysis.options import CurvatureOptions
from distribution.machines import Alone
from ekg.candidates import FILTERS
from ekg.scores import SCORES
from ekg.strategies import STRATEGIES
from engine.adoption import LATER
from engine.configuration import ADOPTED, DATA, PARTS, described, differences
from engine.options import Options
from engine.run_files import CONFIG, RESULT, STAGES, is_finished, own_files, read_object
from engine.run_folder import RunFolder
from utils import UserError

BASELINE = "baseline"
TABLES = {
    # Teachers of search / fine-tuning, as in the paper.
    "teachers": {
        BASELINE: None,  # the network that all other rows start from
        "none / none": {"search_teacher": "none", "finetune_teacher": "none"},
        "single / none": {"search_teacher": "single", "finetune_teacher": "none"},
        "ensemble / none": {"search_teacher": "ensemble", "finetune_teacher": "none"},
        "ensemble / single": {"search_teacher": "ensemble", "finetune_teacher": "single"},
        "ensemble / ensemble": {"search_teacher": "ensemble", "finetune_teacher": "ensemble"},
    },
    # Importance scores. As in the paper, fine-tuning has no teacher.
    "scores": {
        name: {"score": name, "search_teacher": "ensemble", "finetune_teacher": "none"}
        for name in SCORES
    },
    "filters": {name: {"candidate_filter": name} for name in FILTERS},
    "searches": {name: {"search": name} for name in STRATEGIES},
}
# All flags that rows may set, in the order in which they appear in names of folders.
FLAGS = ("search", "search_teacher", "score", "candidate_filter", "finetune_teacher")
# Entries of a run's description that its options do not determine. All runs of a table must have
# the same ones, except for the search they adopted.
COMPARED = ("start", PARTS, "machines", DATA)
UNKNOWN = (*COMPARED, ADOPTED)


@dataclasses.dataclass(frozen=True)
class Study:
    """What the user asked for.

    Args:
        tables: names in TABLES.
        seeds: ints.
        path: folder of all runs.
        options: options(dict flag -> value) makes the Options of a run from its own flags and the
            flags that all runs share.
        flags: dict name in FLAGS -> value where no row sets it.
        defaults: dict name in FLAGS -> default of the training program.
        command: the command line, as it was typed.
        rows: names of rows in these tables, None for all.
        curvature: CurvatureOptions of the condition numbers in a table of scores, None
            to leave them out.
    """

    tables: tuple
    seeds: tuple
    path: str
    options: Callable
    flags: dict
    defaults: dict
    command: str = ""
    rows: tuple | None = None
    curvature: CurvatureOptions | None = None

    def rows_of(self, table):
        """The part of TABLES[table] that was asked for, dict row -> flags or None.

        It always includes the baseline, which needs no run of its own.
        """
        wanted = lambda row: self.rows is None or row in self.rows or row == BASELINE
        return {row: flags for row, flags in TABLES[table].items() if wanted(row)}

    def file(self, name):
        return os.path.join(self.path, name)


@dataclasses.dataclass(frozen=True)
class Task:
    """One run. kind: "baseline", "search" or "row"; label: for messages; search: for a row, the
    folder of the run with its search.
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
    """tasks: list of Task in the order to run them; rows: dict (table, row) -> list of Task, one
    per seed, whose mean the row is.
    """

    tasks: list
    rows: dict


def plan(study, baseline_seed=None):
    """The Plan of a Study.

    baseline_seed: seed of the baseline to train first, None if the runs start from a given file.
    """
    tasks, rows, common = {}, {}, {}

    def add(kind, label, folder, flags, **more):
        if folder not in tasks:  # otherwise another row shares this run
            options = study.options(common | flags | {"train_path": folder})
            tasks[folder] = Task(kind, label, options, **more)
        return tasks[folder]

    if baseline_seed is not None:
        # The defaults, not study.flags: a baseline does not depend on them, so it can serve other
        # tables too.
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
    """The name of a run's folder: its flags that differ from the defaults."""
    return (
        "_".join(f"{flag}-{flags[flag]}" for flag in FLAGS if flags[flag] != defaults[flag])
        or "default"
    )


def baseline_seed(study, options, given):
    """The seed of the baseline to train for all runs, None if the runs start from a given file.

    It is the seed that an earlier start used, else the first of the study. options: of any run of
    the study; given: the default file to start from, or None.
    """
    config = (
        None if options.overwrite else read_object(study.file("baseline"), "config.json", CONFIG)
    )
    if options.trained_param or (given and config is None):
        return None
    former = config and config["options"].get("seed")
    return former if isinstance(former, int) else study.seeds[0]


def is_done(task):
    """Whether an earlier start has finished the run.

    Raises UserError if its folder holds a run with other options.
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
    """Text about a difference in the width multiplier, "" if there is none.

    start: text about the starting network in an earlier start's config.json.
    """
    asked = task.options.width_multiplier
    if asked is None and task.kind != BASELINE:
        return ""  # the width is that of the file it starts from
    former, asked = width_of(start), float(asked or 1)
    return "" if former == asked else f"width_multiplier: {former} there, {asked} asked for"


def width_of(start):
    """The width multiplier of the network that a run started from.

    start: text about that network in the run's config.json.
    """
    match = re.search(r"width multiplier ([^,]+)", start)
    return float(match[1]) if match else 1.0


def clear(tasks):
    """Deletes the files of earlier runs in the folders of `tasks`.

    Otherwise old results could get into a table of new runs. Raises UserError for a folder in use.
    If the file that the runs start from would be deleted, raises UserError and deletes nothing.
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
    """Does the runs of `tasks` that are not done yet.

    works: dict kind -> function of Options that does such a run; say: prints a line; after: called
    with the list of finished tasks, once at the start and then after every run.

    Raises what a run raises; a UserError gets the label of the run. A FloatingPointError, for
    example of a row that diverges, is raised at the end, after all runs that do not depend on it.
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
        gc.collect()  # steps refer to themselves: without this their variables stay in memory
        done.append(task)
        after(done)
    if failed:
        raise FloatingPointError("; ".join(failed.values()))
