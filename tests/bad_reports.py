"""The bad inputs for report.py, as in bad_inputs.py: run folders, the page's file, analyses."""

import json

from bad_inputs import WHOLE, Bad, file, garbage, network, run_of, searched, strange


def report(what, flags, prepare=lambda folder, monkeypatch: None):
    return Bad(what, tuple(flags.split()), prepare, ("report.py",))


def damaged(name, text):
    """The folder of a run in which the file `name` has this text."""

    def prepare(folder, monkeypatch):
        run_of()(folder, monkeypatch)
        (folder / "run" / name).write_text(text)

    return prepare


def without_architecture(folder, monkeypatch):
    run_of()(folder, monkeypatch)
    path = folder / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["options"]["arch"]
    path.write_text(json.dumps(config))


def in_analysis(name, content):
    """A run, and an analysis in which the file `name` has this content."""

    def prepare(folder, monkeypatch):
        run_of()(folder, monkeypatch)
        path = folder / "analysis" / name
        path.parent.mkdir(parents=True)
        (path.parent / "result.json").write_text('{"networks": []}')
        path.write_bytes(content)

    return prepare


def page_at(name, content):
    def prepare(folder, monkeypatch):
        run_of()(folder, monkeypatch)
        (folder / name).write_bytes(content)

    return prepare


STEP = {"step": 0, "flops_rate": 1, "loss": 0.1, "accuracy": 1}
REPORTS = [
    report("no run folder", ""),
    report("a run folder that does not exist", "missing"),
    report("a file in place of a run folder", "run", file("run", b"mine")),
    report("a folder without a run", "run", strange("notes.txt", "mine")),
    report("the same run twice", "run ./run", run_of()),
    report("half an object as `config.json`", "run", strange("config.json", "{")),
    report("a `config.json` without an architecture", "run", without_architecture),
    report("a list as `result.json`", "run", damaged("result.json", "[]")),
    report(
        "a `result.json` whose seconds are words",
        "run",
        damaged("result.json", '{"seconds": {"search": "long"}, "peak_rss_mib": {}}'),
    ),
    report("a damaged `search.jsonl`", "run", damaged("search.jsonl", "garbage")),
    report(
        "a `search.jsonl` whose filters are words",
        "run",
        damaged("search.jsonl", json.dumps(STEP | {"filters": ["wide"]})),
    ),
    report("a `training.jsonl` of another program", "run", damaged("training.jsonl", '{"a": 1}')),
    report(
        "a damaged `slimmed_param.pkl`",
        "run",
        run_of(*WHOLE, warm_up=network, search=searched, extraction=garbage),
    ),
    report("`--out` in a folder that does not exist", "run --out new/page.html", run_of()),
    report("`--out` of a folder", "run --out run", run_of()),
    report("`--out` of another file", "run --out mine.html", page_at("mine.html", b"<p>mine</p>")),
    report("`--out` of a file of the run", "run --out run/config.json", run_of()),
    report("`--picture` as SVG", "run --picture new.svg", run_of()),
    report("`--picture` of a run without fine-tuning", "run --picture new.png", run_of()),
    report("`--analysis` of a missing folder", "run --analysis missing", run_of()),
    report(
        "a damaged curvature",
        "run --analysis analysis",
        in_analysis("hessian/baseline.json", b"{"),
    ),
    report(
        "a curvature of another program",
        "run --analysis analysis",
        in_analysis("hessian/baseline.json", b'{"digest": "0", "eigenvalues": ["high"]}'),
    ),
    report(
        "a damaged landscape", "run --analysis analysis", in_analysis("landscape/grid.npz", b"PK")
    ),
]
