"""The section that puts several runs side by side."""

from reports import curvature, pictures, values
from reports.markup import Html, charts, figure, section, table, tag
from reports.settings import differing, shown
from reports.summary import columns

STYLES = {"-": "solid", "--": "dashed", ":": "dotted"}


def comparison(runs, analysis):
    """Html: a table of all runs, their curves in one plot, and the options that differ."""
    parts = [_results(runs), _curves(runs), curvature.compared(runs, analysis), _options(runs)]
    return tag("article", [tag("h2", "Side by side"), *parts])


def _name(index, run):
    """The name of a run, after a piece of its curve."""
    line = pictures.line_of(index)
    colour = line["color"].replace("C", "--series-")
    style = f"border-top:3px {STYLES[line['linestyle']]} var({colour})"
    swatch = tag("span", "", class_="swatch", style=style, aria_hidden="true")
    return tag("a", [swatch, tag("span", run.name)], href=f"#run-{index + 1}")


def _results(runs):
    head = ["run", "network", "state", "top-1 before", "after", "change", "FLOPs left"]
    head += ["parameters left", "speed", "steps", "time"]
    rows = []
    for i, run in enumerate(runs):
        (_, old), *_, (_, new) = columns(run)
        pair = lambda key, old=old, new=new: (old.get(key), new.get(key))
        steps = run.search[-1]["step"] if run.search else None
        rows.append(
            [
                _name(i, run),
                run.title,
                "finished" if run.finished else "unfinished",
                values.percent(old.get("top1")),
                values.percent(new.get("top1")),
                values.points(*pair("top1")),
                values.share(*pair("flops")),
                values.share(*pair("params")),
                values.times(*pair("latency_ms")),
                steps,
                values.time(run.seconds),
            ]
        )
    return section("Results", table(head, rows, "results of all runs", text_columns=3))


def _curves(runs):
    drawn = [
        figure(pictures.compared_searches(runs, "loss"), "Search: loss on D_val"),
        figure(pictures.compared_searches(runs, "accuracy"), "Search: accuracy on D_val"),
        figure(pictures.compared_fine_tunings(runs), "Fine-tuning: top-1 on the test set"),
    ]
    if not any(drawn):
        return Html()
    legend = tag("ul", [tag("li", _name(i, run)) for i, run in enumerate(runs)], class_="legend")
    return section("Curves", legend, charts(drawn))


def _options(runs):
    rows = [[tag("code", f"--{flag}"), *map(shown, each)] for flag, each in differing(runs)]
    if not rows:
        return section("Options that differ", tag("p", "All runs have the same options."))
    head = ["option", *(_name(i, run) for i, run in enumerate(runs))]
    return section("Options that differ", table(head, rows, "options that differ", len(head)))
