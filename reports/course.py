"""The sections on the course of a run: search, filters, trainings. Each function returns Html."""

from engine.plots import several_epochs
from reports import pictures, values
from reports.markup import Html, charts, details, figure, section, table, tag
from reports.runs import called


def search(run):
    """The way of the search through the sub-networks."""
    if not run.search:
        return section("Search", tag("p", "The search has not begun."))
    drawn = [
        figure(
            pictures.search_picture(run, "loss"), "Loss on D_val of the sub-networks on the way"
        ),
        figure(pictures.search_picture(run, "accuracy"), "Their accuracy on D_val"),
    ]
    return section(
        "Search", charts(drawn), details(values.all_of(len(run.search), "sub-network"), _steps(run))
    )


def _steps(run):
    head = ["step", "gate", "filters", "FLOPs left", "parameters", "loss", "accuracy"]
    head += ["objective", "candidates", "time"]
    rows: list[list] = []
    kept: list[int] = []
    for record in run.search:
        former, kept = kept, record.get("filters") or []
        seconds = record.get("seconds")
        rows.append(
            [
                record["step"],
                record.get("gate") or ("all" if rows else "unpruned"),
                _filters_left(run.search[0].get("filters"), former, kept, record.get("gate")),
                values.percent(record["flops_rate"]),
                values.count(record.get("params")),
                values.decimal(record["loss"]),
                values.percent(record["accuracy"]),
                values.decimal(record.get("score")),
                len(record.get("candidates") or ()) or None,
                values.time(seconds),
            ]
        )
    return table(head, rows, "steps of the search", text_columns=2)


def _filters_left(at_first, former, now, gate):
    """How many filters are left in the gates that this step changed; in all, if it names no gate.

    None for a run whose records do not say so.
    """
    known = zip(at_first or (), former or now, now)
    counted = [(new, size) for size, old, new in known if gate is None or old != new]
    if not counted:
        return None
    kept, size = map(sum, zip(*counted))
    return f"{kept:,} of {size:,}"


def filters(run):
    """The filters that each convolution keeps, as bars."""
    title = "Filters kept per layer"
    if not run.filters:
        return section(title, tag("p", "They are known once the pruned network is extracted."))
    known = all(before is not None for before, _ in run.filters.values())
    note = "" if known else "The network before pruning is no longer in the folder."
    widest = max(before or kept for before, kept in run.filters.values())
    items = []
    share = lambda filters: f"width:{100 * filters / widest:.2f}%"
    for layer, (before, kept) in run.filters.items():
        bars = [
            tag("b", "", style=share(before or kept)),
            tag("i", "", style=share(min(kept, before or kept))),
        ]
        bar = tag("span", bars, class_="bar", aria_hidden="true")
        count = kept if before is None else f"{kept} of {before}"
        items.append(
            tag("li", [tag("span", layer, class_="layer"), bar, tag("span", count, class_="kept")])
        )
    total = [sum(kept for _, kept in run.filters.values())]
    if known:
        total.insert(0, sum(before for before, _ in run.filters.values()))
        note = f"{total[1]:,} of {total[0]:,} filters are kept; gray is what was removed."
    return section(title, tag("p", note, class_="note"), tag("ul", items, class_="filters"))


def training(run):
    """Curves and records of the trainings."""
    if not run.training:
        return Html()
    parts = []
    for stage in several_epochs(run.training):
        name = called(stage).capitalize()
        drawn = [
            figure(pictures.training_picture(run, stage, key), f"{name}: {key}")
            for key in ("loss", "accuracy")
        ]
        parts.append(charts(drawn))
    head = ["stage", "epoch", "learning rate", "loss", "accuracy"]
    head += ["test loss", "test top-1", "time"]
    rows = []
    for record in run.training:
        rate, seconds = record.get("learning_rate"), record.get("seconds")
        rows.append(
            [
                called(record["stage"]),
                record["epoch"],
                values.short(rate),
                values.decimal(record["loss"]),
                values.percent(record["accuracy"]),
                values.decimal(record.get("test_loss")),
                values.percent(record.get("test_top1")),
                values.time(seconds),
            ]
        )
    return section(
        "Training", *parts, details(values.all_of(len(rows), "epoch"), table(head, rows, "epochs"))
    )
