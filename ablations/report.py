"""The tables of an ablation, as Markdown and CSV: metrics of the finished runs next to the paper's
figures.
"""

import csv
import math
import statistics

from ablations.curvature import known_curvature
from ablations.plan import BASELINE, COMPARED, width_of
from ablations.published import published
from engine.adoption import TAKEN
from engine.configuration import DATA
from engine.console import duration
from engine.run_files import CONFIG, RESULT, STAGES, read_object
from files.npz import load_npz
from utils import UserError, whole_file

# The metrics of a run. top1, before_fine_tuning, flops_left: percent; loss: cross-entropy on D_val
# at the end of the search; condition_number: of the Hessian there, before fine-tuning; converged: 1
# if its eigenvalues have, else 0.
METRICS = (
    "top1",
    "loss",
    "condition_number",
    "converged",
    "before_fine_tuning",
    "flops_left",
    "steps",
    "search_seconds",
    "fine_tuning_seconds",
)
PAPER = ("top1", "deviation", "loss", "condition_number")  # fields of ablations.published.Published


def metrics_of(task):
    """dict name in METRICS -> value, of the finished run `task` (ablations.plan.Task).

    A value is None if its file is no longer in the folder. Raises UserError for a damaged file.
    """
    result = _result(task.folder)
    path = task.file(STAGES["search"])
    try:
        losses = load_npz(path, ("loss",))["loss"]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete the folder to do this run again"
        ) from error
    seconds = result["seconds"]
    tuning = [seconds[stage] for stage in ("memory_bank", "fine_tuning") if stage in seconds]
    curvature = known_curvature(task.search)
    before = _result(task.search).get("pruned", {}).get("top1")
    return {
        "top1": 100 * result["pruned"]["top1"],
        "loss": float(losses[-1]),
        "condition_number": curvature and curvature["condition_number"],
        "converged": curvature and int(curvature["converged"]),
        "before_fine_tuning": None if before is None else 100 * before,
        "flops_left": 100 * result["pruned"]["flops"] / result["baseline"]["flops"],
        "steps": len(losses) - 1,
        "search_seconds": seconds.get("search"),
        "fine_tuning_seconds": sum(tuning) if tuning else None,
    }


def _config(task):
    return read_object(task.folder, "config.json", CONFIG)


def _result(folder):
    return read_object(folder, "result.json", RESULT) or {"seconds": {}}


def collected(plan, done):
    """dict (table, row) -> list of (Task, dict of METRICS), for the tasks in `done`.

    The baseline's row gets its metrics from the first finished run. Raises UserError if two runs
    cannot be compared: they differ in their starting network, data, machines or parts of a batch.
    """
    runs = {
        key: [(task, metrics_of(task)) for task in tasks if task in done]
        for key, tasks in plan.rows.items()
    }
    finished = [task for tasks in runs.values() for task, _ in tasks]
    known = [_config(task)["options"] for task in finished]
    # Older runs do not say which data they had: all are compared with one that does.
    first = next((i for i, options in enumerate(known) if DATA in options), 0)
    for task, options in zip(finished, known):
        differ = [
            f"{key}: {known[first].get(key)}, {options.get(key)}"
            for key in COMPARED
            if known[first].get(key) != options.get(key) and (key != DATA or DATA in options)
        ]
        if differ:
            pair = f"{finished[first].folder} and {task.folder}"
            raise UserError(
                f"{pair} cannot be compared ({'; '.join(differ)}); --overwrite repeats all runs"
            )
    for (table, row), tasks in plan.rows.items():
        if not tasks and row == BASELINE and finished:
            start = _result(finished[0].folder)["baseline"]
            runs[table, row] = [
                (None, dict.fromkeys(METRICS) | {"top1": 100 * start["top1"], "flops_left": 100.0})
            ]
    return runs


def summary(runs, options, width=1.0):
    """The rows of the tables, a list of dicts.

    Entries: table, row, runs (their number), the mean of each of METRICS, its sample standard
    deviation NAME_deviation, and the paper's figures published_NAME. None for a missing value.

    runs: from `collected`; options: Options of any run; width: width multiplier of the starting
    network.
    """
    lines = []
    for (table, row), of_row in runs.items():
        line = {"table": table, "row": row, "runs": len(of_row)}
        for name in METRICS:
            values = [metrics[name] for _, metrics in of_row if metrics[name] is not None]
            line[name] = statistics.fmean(values) if values else None
            line[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        paper = published(options, width, table, row)
        line |= {f"published_{name}": getattr(paper, name) if paper else None for name in PAPER}
        lines.append(line)
    return lines


# ------------------------------------------------------------------------------------------- tables

UNCERTAIN = "†"  # after a condition number of eigenvalues that have not converged
# Heading -> function from a line of `summary` to the cell. A column without values is left out.
COLUMNS = {
    "top-1, %": lambda line: _with_deviation(line["top1"], line["top1_deviation"]),
    "published": lambda line: _with_deviation(
        line["published_top1"], line["published_deviation"], unknown=""
    ),
    "before fine-tuning, %": lambda line: _number(line["before_fine_tuning"], 2),
    "loss on D_val": lambda line: _number(line["loss"], 4),
    "published loss": lambda line: _number(line["published_loss"], 4),
    "condition number": lambda line: (
        _number(line["condition_number"], 4) + UNCERTAIN * _uncertain(line)
    ),
    "published condition number": lambda line: _number(line["published_condition_number"], 4),
    "FLOPs left, %": lambda line: _number(line["flops_left"], 2),
    "steps": lambda line: _number(line["steps"], 1),
    "search, s": lambda line: _number(line["search_seconds"], 1),
    "fine-tuning, s": lambda line: _number(line["fine_tuning_seconds"], 1),
    "runs": lambda line: str(line["runs"]),
}


def _uncertain(line):
    """Whether the eigenvalues of a run in this line of `summary` have not converged."""
    return line["converged"] is not None and line["converged"] < 1


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def _with_deviation(mean, deviation, unknown=" ± -"):
    if mean is None:
        return "-"
    return f"{mean:.2f}" + (unknown if deviation is None else f" ± {deviation:.2f}")


def markdown(lines, head):
    """The page with all tables. lines: from `summary`; head: lines above the tables."""
    page = [*head]
    for table in dict.fromkeys(line["table"] for line in lines):
        rows = [line for line in lines if line["table"] == table]
        cells = {heading: [cell(row) for row in rows] for heading, cell in COLUMNS.items()}
        filled = {heading: column for heading, column in cells.items() if set(column) != {"-"}}
        page += [
            "",
            f"## {table}",
            "",
            f"| {' | '.join(['row', *filled])} |",
            f"| --- |{' ---: |' * len(filled)}",
        ]
        page += [
            f"| {' | '.join([row['row'], *texts])} |"
            for row, texts in zip(rows, zip(*filled.values()))
        ]
        if any(map(_uncertain, rows)):
            page += ["", f"{UNCERTAIN} Eigenvalues of a run had not converged: see --iterations."]
    return "\n".join([*page, ""])


def _target(search):
    whole = "the FLOPs"
    if search.target == "latency":
        whole = f"the predicted time at batch {search.latency_batch_size}"
    return f"{search.target_rate:.0%} of {whole}"


def head(study, plan, done, options):
    """The lines above the tables: command, versions, seeds, how many runs are done."""
    seeds = ", ".join(map(str, study.seeds))
    made = [
        ", ".join(f"{name} {what}" for name, what in _config(task).get("versions", {}).items())
        for task in done
    ]
    made = list(dict.fromkeys(made))
    deviations = (
        "one run per row, so no deviations"
        if len(study.seeds) == 1
        else "± is the sample standard deviation over them"
    )
    progress = (
        f"{len(done)} of {len(plan.tasks)} runs are done; their stages took"
        f" {duration(_seconds(done))} in all"
    )
    lines = [
        f"# Ablations: {options.arch} on {options.dataset}, {_target(options.search)}",
        f"`{study.command}`",
        "; others: ".join(made) + ".",
        f"Seeds {seeds}; {deviations}. {progress}.",
        (
            "Top-1 is with moving averages. Seconds are means; those of fine-tuning include the"
            " memory bank. Published: the paper's figures."
        ),
    ]
    if study.curvature:
        image, hessian = study.curvature.image, study.curvature.hessian
        lines.append(
            f"Condition numbers: {image.images:,} images ({image.split}, seed {image.seed}),"
            f" {hessian.hessian_over}, moving averages, tolerance {hessian.tolerance:g}, at most"
            f" {hessian.iterations} products; analysis/hessian in each search's folder has the"
            " residuals."
        )
    return [text for line in lines for text in (line, "")][:-1]


def _seconds(tasks):
    """Seconds of all stages, each counted only in the run that did it."""
    own = {"row": set(STAGES) - set(TAKEN), "search": set(TAKEN), BASELINE: {"baseline"}}
    seconds = [(task, *item) for task in tasks for item in _result(task.folder)["seconds"].items()]
    return math.fsum(value for task, stage, value in seconds if stage in own[task.kind])


def write_tables(study, plan, done, options):
    """Writes the tables of the tasks `done` so far.

    ablation.md and ablation.csv have one line per row; runs.csv has one line per row and seed.
    """
    runs = collected(plan, done)
    width = width_of(str(_config(done[-1])["options"].get("start")))
    lines = summary(runs, options, width)
    with whole_file(study.file("ablation.md"), "w") as file:
        file.write(markdown(lines, head(study, plan, done, options)))
    _write_csv(study.file("ablation.csv"), lines)
    each = [
        {
            "table": table,
            "row": row,
            "seed": task and task.options.seed,
            **metrics,
            "folder": task and task.folder,
        }
        for (table, row), of_row in runs.items()
        for task, metrics in of_row
    ]
    _write_csv(
        study.file("runs.csv"),
        each or [dict.fromkeys(("table", "row", "seed", *METRICS, "folder"))],
    )


def _write_csv(path, lines):
    with whole_file(path, "w") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
