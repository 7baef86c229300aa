"""The sections that sum up a run. Each function returns Html."""

import datetime

from reports import values
from reports.markup import NONE, Html, details, section, table, tag
from reports.runs import called
from reports.settings import flat, shown, unusual

# What a comparison measures: key, name, function of (before, after) for the change, and its text.
ROWS = (
    ("top1", "top-1", values.percent, values.points),
    ("top5", "top-5", values.percent, values.points),
    ("loss", "loss", values.decimal, values.difference),
    ("val_accuracy", "accuracy on D_val", values.percent, values.points),
    ("val_loss", "loss on D_val", values.decimal, values.difference),
    ("flops", "FLOPs (MACs)", values.count, values.left),
    ("params", "parameters", values.count, values.left),
    ("latency_ms", "latency, batch 1", values.milliseconds, values.speed),
    ("target_ms", "latency at the batch size of the target", values.milliseconds, values.speed),
)


# --------------------------------------------------------------------------------------- the result


def columns(run):
    """list of (title, dict key of ROWS -> value): what is known of the network before, after the
    search, and after fine-tuning.
    """
    before = _tested(run.epochs_of("baseline")) | _searched(run.search[0] if run.search else None)
    after, tuned = _searched(run.chosen), {}
    if run.search:
        tuned = {key: after[key] for key in ("flops", "params")}
    before |= run.sides.get("baseline", {})
    if not run.fine_tunes:
        after |= run.sides.get("pruned", {})
        return [("before", before), ("after the search", after)]
    tuned |= _tested(run.epochs_of("fine_tuning")) | run.sides.get("pruned", {})
    stage = run.stage("fine_tuning")
    so_far = "" if stage.state == "done" else f", {stage.epochs[0]} of {stage.epochs[1]} epochs"
    return [("before", before), ("after the search", after), (f"after fine-tuning{so_far}", tuned)]


def _tested(records):
    """The last evaluation on the test set of a training."""
    if not records:
        return {}
    keys = ("top1", "top5", "loss")
    return {key: records[-1].get(f"test_{key}") for key in keys}


def _searched(record):
    if record is None:
        return {}
    on_val = {f"val_{key}": record[key] for key in ("accuracy", "loss")}
    return on_val | {key: record.get(key) for key in ("flops", "params")}


def tiles(run):
    """The four numbers that matter most, each with what it was."""
    (_, old), *_, (_, new) = columns(run)
    pair = lambda key, show: _arrow(show(old.get(key)), show(new.get(key)))
    get = lambda key: (old.get(key), new.get(key))
    cells = [
        ("top-1", values.points(*get("top1")), pair("top1", values.percent)),
        ("FLOPs (MACs)", values.left(*get("flops")), pair("flops", values.brief_count)),
        ("parameters", values.left(*get("params")), pair("params", values.brief_count)),
        (
            "latency, batch 1",
            values.speed(*get("latency_ms")),
            pair("latency_ms", values.milliseconds),
        ),
    ]
    tile = lambda name, much, how: tag(
        "li",
        [
            tag("span", name, class_="name"),
            tag("strong", much or NONE),
            tag("span", how, class_="how"),
        ],
    )
    return tag("ul", [tile(*cell) for cell in cells], class_="tiles")


def _arrow(old, new):
    return "not measured yet" if old is None and new is None else f"{old or NONE} → {new or NONE}"


def result(run):
    """The table of the networks before and after."""
    found = columns(run)
    first, last = found[0][1], found[-1][1]
    rows = []
    for key, name, show, change in ROWS:
        cells = [show(column.get(key)) for _, column in found]
        if any(cells):
            # The last column that D_val is known of is that of the search.
            after = last.get(key, found[1][1].get(key))
            rows.append([name, *cells, change(first.get(key), after)])
    head = ["", *(title for title, _ in found), "change"]
    note = (
        "The test set is meant unless it says D_val. On D_val the network is masked and uses batch"
    )
    note += " statistics."
    return section(
        "Before and after",
        table(head, rows, "networks before and after"),
        tag("p", note, class_="note"),
    )


# --------------------------------------------------------------------------------------- the stages


def missing(run):
    """Text that says what the run has not done yet; "" for a finished run."""
    if run.finished:
        return ""
    parts = []
    for stage in run.stages:
        if stage.state == "unfinished":
            step = run.search[-1]["step"] if stage.name == "search" and run.search else None
            after = "" if step is None else f" after step {step}"
            if stage.epochs:
                after = f" after epoch {stage.epochs[0]} of {stage.epochs[1]}"
            parts.append(f"{called(stage.name)} is unfinished{after}")
    waiting = [called(stage.name) for stage in run.stages if stage.state == "not begun"]
    waiting.append("the comparison of both networks")
    text = "; ".join([*parts, f"still to come: {', '.join(waiting)}"])
    return f"{text[0].upper()}{text[1:]}."


def stages(run):
    """The table of stages, with their time and memory."""
    rows = []
    for stage in run.stages:
        epochs = f"{stage.epochs[0]} of {stage.epochs[1]}" if stage.epochs else None
        if stage.name == "search" and run.search:
            epochs = f"{run.search[-1]['step']} steps"
        time = values.time(stage.seconds)
        rows.append([called(stage.name), stage.state, epochs, time, values.mib(stage.mib)])
    peaks = [stage.mib for stage in run.stages if stage.mib is not None]
    total = ["all", "done" if run.finished else "unfinished", None, values.time(run.seconds)]
    rows.append([*total, values.mib(max(peaks, default=None))])
    head = ["stage", "state", "epochs, steps", "time", "peak memory"]
    return section("Stages", table(head, rows, "stages", text_columns=2))


# --------------------------------------------------------------------------------------- what it is


def line(run):
    """What was run, in a line under its name."""
    parts = [run.title, run.versions.get("hardware"), _date(run.begun)]
    return ", ".join(part for part in parts if part)


def what(run, defaults):
    """What was run: facts, and the options that are not the defaults; all options behind a click.

    defaults: options as in config.json.
    """
    row = lambda flag, *cells: [tag("code", f"--{flag}"), *map(shown, cells)]
    changed = [row(*entry) for entry in unusual(run.options, defaults)]
    every = [row(*entry) for entry in flat(run.options).items()]
    head = ["option", "this run", "default"]
    return section(
        "What was run",
        _facts(run),
        table(head, changed, "options that are not the defaults", 3) if changed else Html(),
        details(
            values.all_of(len(every), "option"), table(["option", "value"], every, "all options", 2)
        ),
    )


def _target(search):
    share = values.percent(search["target_rate"], 0)
    if search["target"] == "latency":
        return f"{share} of the time, predicted for {search['latency_batch_size']} images per call"
    return f"{share} of the FLOPs"


def _facts(run):
    made_with = [f"{name} {text}" for name, text in run.versions.items() if name != "hardware"]
    pairs = [
        ("network", run.options["arch"]),
        ("data set", run.options["dataset"]),
        ("starts from", run.starts_from),
        ("target", _target(run.options["search"])),
        ("hardware", run.versions.get("hardware", "not recorded")),
        ("versions", ", ".join(made_with)),
        ("begun", _date(run.begun)),
        ("folder", run.path),
        ("broken images", run.broken and f"{run.broken:,}, listed in broken.json"),
    ]
    items = [[tag("dt", name), tag("dd", text)] for name, text in pairs if text]
    return tag("dl", items, class_="facts")


def _date(seconds):
    try:
        begun = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (TypeError, OverflowError, ValueError, OSError):
        return None
    return f"{begun:%Y-%m-%d %H:%M} UTC"
