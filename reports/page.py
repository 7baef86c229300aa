"""The whole page: one HTML file that needs nothing else."""

import pathlib

from engine.configuration import version
from reports import course, curvature, summary
from reports.comparison import comparison
from reports.markup import Html, tag
from reports.pictures import available
from reports.themes import DARK_THEME, LIGHT_THEME

# The first bytes of a page: a file without them is not replaced by one.
START = "<!DOCTYPE html>\n<!-- made by report.py of EKG -->\n"
# The page may show its own pictures and styles, and nothing else: no script, nothing from outside.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(runs, analysis, defaults):
    """The page about `runs`, text.

    Args:
        runs: list of Run.
        analysis: Analysis.
        defaults: defaults(options) gives the default options of the program that made a run, as in
            config.json.
    """
    several = len(runs) > 1
    title = f"Comparison of {len(runs)} runs" if several else runs[0].title
    body = [tag("header", [tag("p", "EKG filter pruning", class_="kicker"), tag("h1", title)])]
    if not available():
        body.append(tag("p", "Pictures need matplotlib: pip install matplotlib.", class_="notice"))
    if several:
        body.append(comparison(runs, analysis))
    body += [_run(i, run, analysis, defaults(run.options)) for i, run in enumerate(runs)]
    body.append(tag("footer", f"Made by report.py of EKG {version()}."))
    return START + tag("html", [_head(title), tag("body", tag("main", body))], lang="en") + "\n"


def _head(title):
    dark = f"@media (prefers-color-scheme: dark){{:root{{{DARK_THEME.variables}}}}}"
    style = (pathlib.Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{title}, report"),
            tag("style", Html(f":root{{{LIGHT_THEME.variables}}}\n{dark}\n{style}")),
        ],
    )


def _run(index, run, analysis, defaults):
    """The article about one run."""
    state = "finished" if run.finished else "unfinished"
    badge = tag("span", state, class_=f"badge {state}")
    heading = [f"{run.name} ", badge]
    missing = summary.missing(run)
    parts = [
        tag("h2", heading),
        tag("p", summary.line(run), class_="note"),
        tag("p", missing, class_="notice") if missing else Html(),
        summary.tiles(run),
        tag("div", [summary.result(run), summary.stages(run)], class_="columns"),
        course.search(run),
        course.filters(run),
        course.training(run),
        curvature.curvature(run, analysis),
        curvature.landscape(run, analysis),
        curvature.potential(run, analysis),
        summary.what(run, defaults),
    ]
    return tag("article", parts, id=f"run-{index + 1}")
