"""Ablations, with fake runs: shared runs, resuming, refusals, tables."""

import csv
import json
import pathlib

import numpy as np
import pytest

from ablation import main, parse
from ablations.plan import FLAGS, TABLES, baseline_seed, carry_out, clear, is_done, plan
from ablations.published import PAPER_FIGURES
from ablations.report import METRICS, markdown, summary, write_tables
from cli.program import run_program
from distribution.machines import Alone
from engine.adoption import LATER
from engine.configuration import described
from engine.run_files import MEASURED, SIDES, STAGES, is_finished
from engine.run_folder import RunFolder
from nets.parameters import write_parameters
from utils import UserError, digest

START = "parameters 0123456789abcdef"
MADE = {"python": "3.12", "hardware": "2 cores"}


@pytest.fixture(autouse=True)
def hasty(request, monkeypatch):
    """Nothing here is about power cuts, and runs that only pretend leave no memory behind."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr("os.fsync", lambda descriptor: None)
        monkeypatch.setattr("gc.collect", lambda: None)


@pytest.fixture
def study(tmp_path):
    """study(flag, ...) -> the Study of a command line, in an empty folder."""
    return lambda *flags: parse([*flags, "--train_path", str(tmp_path / "runs")])


def planned(asked, seed=0):
    return plan(asked, seed)


def pretend(options, start=START):
    """Leaves what a run of `options` would; its figures follow from the options."""
    folder = RunFolder(
        options.train_path,
        described(options, start, 1) | {"data": "1"},
        MADE,
        Alone(),
        options.overwrite,
    )
    if options.train_path.endswith("baseline"):
        folder.result["seconds"] = {"baseline": 100.0}
        pathlib.Path(folder.file(STAGES["baseline"])).touch()
        folder.update_result()
    else:
        np.savez(folder.file(STAGES["search"]), loss=np.array([0.5, 0.25, 0.125 + options.seed]))
        seconds = {"warm_up": 1.0, "search": 10.0, "extraction": 1.0}
        if options.fine_tuning.epochs:
            seconds |= {"memory_bank": 5.0, "fine_tuning": 20.0 + options.seed}
        sides = {side: dict.fromkeys(MEASURED, 0.5) | {"flops": 100} for side in SIDES}
        sides["pruned"] |= {
            "top1": (90 + options.seed + 2 * bool(options.fine_tuning.epochs)) / 100,
            "flops": 45,
        }
        sides["baseline"]["top1"] = 0.9384
        folder.update_result(**sides, seconds=seconds)
    folder.close()


WORKS = dict.fromkeys(("baseline", "search", "row"), pretend)


def carried_out(asked, works=WORKS, seed=0):
    """(labels of the runs that were done, plan)"""
    said, the_plan = [], planned(asked, seed)
    carry_out(the_plan.tasks, works, said.append, lambda done: None)
    return [line.partition(": ")[2].rpartition(" (")[0] for line in said], the_plan


# ----------------------------------------------------------------------------------------- the plan


def test_rows_of_the_paper_share_a_baseline_and_searches(study):
    the_plan = planned(study("--table", "teachers", "--seeds", "0", "1"))
    kinds = [task.kind for task in the_plan.tasks]
    assert (kinds.count("baseline"), kinds.count("search"), kinds.count("row")) == (1, 2 * 3, 2 * 5)
    baseline, *others = the_plan.tasks
    assert all(task.options.trained_param == baseline.file("baseline_param.pkl") for task in others)
    assert the_plan.rows["teachers", "baseline"] == []
    assert [len(tasks) for row, tasks in the_plan.rows.items() if row[1] != "baseline"] == [2] * 5
    for task in the_plan.tasks:
        assert task.options.seed == task.options.subsets.seed
    searches = {task.folder for task in the_plan.tasks if task.kind == "search"}
    for task in the_plan.tasks:
        assert task.search in (searches if task.kind == "row" else {None})
        assert (task.kind == "row") == bool(
            task.options.fine_tuning.epochs
        ) or task.kind == "baseline"


def test_a_row_of_two_tables_is_run_once(study):
    the_plan = planned(study("--table", "teachers", "scores", "filters", "searches"))
    same = [("scores", "ekg"), ("teachers", "ensemble / none")]
    assert the_plan.rows[same[0]] == the_plan.rows[same[1]]
    default = [
        ("filters", "published"),
        ("searches", "greedy"),
        ("teachers", "ensemble / ensemble"),
    ]
    assert len({id(the_plan.rows[row][0]) for row in default}) == 1
    folders = [task.folder for task in the_plan.tasks]
    assert len(set(folders)) == len(folders) == 1 + (2 + 5 + 4 + 2) + (5 + 4 + 4 + 2)


def test_a_search_comes_before_its_rows_and_agrees_with_them(study):
    """In all that --search_from compares."""
    known = {}
    for task in planned(study("--table", *TABLES, "--seeds", "3", "4"), seed=3).tasks:
        known[task.folder] = described(task.options, None, 1)
        if task.kind == "row":
            own, searched = known[task.folder], known[task.search]
            differ = {key for key in own if own[key] != searched[key]}
            assert differ <= LATER | {"train_path", "search_from"}


def test_every_row_sets_flags_that_name_folders(study):
    for table in TABLES.values():
        for row in table.values():
            assert set(row or ()) <= set(FLAGS)


def test_flags_that_no_table_varies_hold_for_all_runs(study):
    tasks = planned(
        study("--table", "filters", "--score", "l1", "--train_epoch", "7", "--seeds", "5"), seed=5
    ).tasks
    assert {task.options.search.score for task in tasks if task.kind != "baseline"} == {"l1"}
    assert {task.options.fine_tuning.epochs for task in tasks if task.kind == "row"} == {7}
    assert all("score-l1" in task.folder for task in tasks if task.kind != "baseline")


def test_the_baseline_is_trained_once_with_the_first_seed(study, tmp_path):
    asked = study("--table", "searches", "--seeds", "4", "5")
    assert baseline_seed(asked, asked.options({}), None) == 4
    assert baseline_seed(asked, asked.options({}), "pretrained/x.pkl") is None
    assert baseline_seed(asked, asked.options({"trained_param": "x.pkl"}), None) is None
    carried_out(asked, seed=4)
    later = study("--table", "searches", "--seeds", "6")
    assert baseline_seed(later, later.options({}), None) == 4
    assert baseline_seed(later, later.options({}), "pretrained/x.pkl") == 4, (
        "the runs there started from it"
    )
    labels, _ = carried_out(later, seed=4)
    assert labels and all(label.endswith(("seed 6", "seed 6, search")) for label in labels)


def test_some_rows_of_a_table_are_made_on_request(study):
    """In the table's order, beside the baseline; only their runs. Names need no space."""
    asked = study(
        "--table", "teachers", "--rows", "ensemble/ensemble", "none / none", "--seeds", "0", "1"
    )
    the_plan = planned(asked)
    assert [row for _, row in the_plan.rows] == ["baseline", "none / none", "ensemble / ensemble"]
    kinds = [task.kind for task in the_plan.tasks]
    assert (kinds.count("baseline"), kinds.count("search"), kinds.count("row")) == (1, 2 * 2, 2 * 2)
    seeds = [task.options.seed for task in the_plan.tasks if task.kind == "row"]
    assert seeds == sorted(seeds), "a seed's runs come before those of the next"
    both = planned(study("--table", "teachers", "scores", "--rows", "none/none", "l1"))
    assert list(both.rows) == [
        ("teachers", "baseline"),
        ("teachers", "none / none"),
        ("scores", "l1"),
    ]


def test_rows_and_seeds_may_be_added_later(study):
    first, _ = carried_out(study("--table", "teachers", "--rows", "none/none", "ensemble/ensemble"))
    assert len(first) == 1 + 2 + 2 and all("seed 0" in label for label in first)
    more = study(
        "--table",
        "teachers",
        "--rows",
        "none/none",
        "ensemble/none",
        "ensemble/ensemble",
        "--seeds",
        "0",
        "1",
        "2",
    )
    later, the_plan = carried_out(more)
    assert len(later) == 1 + 2 * (2 + 3) and not set(later) & set(first)
    assert [label for label in later if "seed 0" in label] == [
        "teachers: ensemble / none, seed 0"
    ], "its search was there"
    assert all(is_done(task) for tasks in the_plan.rows.values() for task in tasks)


# --------------------------------------------------------------------------------- runs, one by one


def test_runs_that_are_done_are_not_done_again(study):
    labels, the_plan = carried_out(study("--table", "scores"))
    assert labels[0] == "baseline, seed 0" and len(labels) == len(the_plan.tasks) == 11
    assert carried_out(study("--table", "scores"))[0] == []
    more, _ = carried_out(study("--table", "scores", "teachers"))
    assert len(more) == 2 + 4 and not any("ensemble / none" in label for label in more)


def test_a_run_that_was_cut_off_is_done_by_the_next_start(study):
    count = iter(range(100))

    def cut_off(options):
        if next(count) == 4:
            RunFolder(options.train_path, described(options, START, 1), {}, Alone()).close()
            raise KeyboardInterrupt
        pretend(options)

    asked = study("--table", "scores")
    with pytest.raises(KeyboardInterrupt):
        carried_out(asked, dict.fromkeys(WORKS, cut_off))
    labels, the_plan = carried_out(asked)
    assert labels == [task.label for task in the_plan.tasks[4:]]


def test_a_mistake_of_a_run_ends_all_and_is_told_with_its_name(study):
    def fails(options):
        raise UserError("something is wrong")

    with pytest.raises(UserError, match=r"^scores: l1, seed 0: something is wrong$"):
        carried_out(
            study("--table", "scores"),
            WORKS | {"row": lambda o: fails(o) if o.search.score == "l1" else pretend(o)},
        )


def test_a_run_that_diverges_does_not_stop_the_others(study):
    """But for those that need its search."""

    def diverges(options):
        if options.search.score in ("l1", "random"):
            raise FloatingPointError("the loss is nan")
        pretend(options)

    asked, done = study("--table", "scores"), []
    the_plan = planned(asked)
    with pytest.raises(
        FloatingPointError,
        match=r"scores: l1, seed 0, search: the loss is nan; scores: random, .* is nan",
    ):
        carry_out(
            the_plan.tasks, WORKS | {"search": diverges}, str, lambda tasks: done.append(len(tasks))
        )
    assert done[-1] == len(the_plan.tasks) - 4
    assert is_done(the_plan.rows["scores", "fpgm"][0]) and not is_done(
        the_plan.rows["scores", "l1"][0]
    )


def test_a_baseline_serves_tables_that_vary_other_flags(study):
    carried_out(study("--table", "filters", "--score", "l1"))
    labels, _ = carried_out(study("--table", "scores"))
    # Each row needs a search and a run, except that the search of l1 is done already.
    assert "baseline, seed 0" not in labels and len(labels) == 2 * len(TABLES["scores"]) - 1


def test_other_flags_than_those_of_the_runs_there_are_refused(study):
    carried_out(study("--table", "filters"))
    with pytest.raises(
        UserError,
        match=(
            r"filters: slice, seed 0: .* other options \(fine_tuning.epochs: 100 there, 7 asked"
            r" for\)"
        ),
    ):
        is_done(
            planned(study("--table", "filters", "--train_epoch", "7")).rows["filters", "slice"][0]
        )


@pytest.mark.parametrize(
    "there, asked, differ",
    [("0.5", "0.5", False), ("0.5", None, False), ("0.5", "1", True), (None, "2", True)],
)
def test_another_width_than_that_of_finished_runs_is_refused(study, there, asked, differ):
    start = START + (f", width multiplier {float(there)}" if there else "")
    carried_out(
        study("--table", "searches"), dict.fromkeys(WORKS, lambda options: pretend(options, start))
    )
    row = planned(
        study("--table", "searches", *(["--width_multiplier", asked] if asked else []))
    ).rows["searches", "uniform"][0]
    if differ:
        with pytest.raises(UserError, match=r"other options \(width_multiplier"):
            is_done(row)
    else:
        assert is_done(row)


def test_overwrite_forgets_all_runs_of_the_tables(study):
    carried_out(study("--table", "filters", "scores"))
    tasks = planned(study("--table", "filters", "--overwrite", "--train_epoch", "7")).tasks
    clear(tasks)
    assert not any(is_done(task) for task in tasks)
    left = [task for task in planned(study("--table", "scores")).tasks if is_done(task)]
    assert {task.label for task in left if task.kind == "row"} == {
        f"scores: {name}, seed 0" for name in TABLES["scores"]
    }


def test_overwrite_spares_a_folder_in_use_and_the_file_that_the_runs_start_from(study, tmp_path):
    _, the_plan = carried_out(study("--table", "filters"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    source = str(tmp_path / "runs" / "baseline" / "baseline_param.pkl")
    own = the_plan.tasks[-1].file("trained_param.pkl")
    tasks = planned(
        study("--table", "filters", "--overwrite", "--trained_param", own), seed=None
    ).tasks
    with pytest.raises(
        UserError, match=r"--overwrite would delete .*trained_param.pkl, which the runs start from"
    ):
        clear(tasks)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    clear(
        planned(
            study("--table", "filters", "--overwrite", "--trained_param", source), seed=None
        ).tasks
    )
    assert pathlib.Path(source).exists()
    first = the_plan.tasks[0]
    held = RunFolder(first.folder, described(first.options, START, 1), {}, Alone())
    with pytest.raises(UserError, match="is in use by process"):
        clear(the_plan.tasks)
    held.close()
    assert is_done(first)


# --------------------------------------------------------------------------------------- the tables

PAGE = """# head

## teachers

| row | top-1, % | published | before fine-tuning, % | loss on D_val | FLOPs left, % | steps \
| search, s | fine-tuning, s | runs |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| baseline | 93.84 ± - | 93.84 | - | - | 100.00 | - | - | - | 1 |
| none / none | 93.00 ± 1.41 | 93.78 ± 0.07 | 91.00 | 1.1250 | 45.00 | 2.0 | 10.0 | 26.0 | 2 |
| single / none | 92.00 ± - | 93.54 ± 0.09 | 90.00 | 0.1250 | 45.00 | 2.0 | 10.0 | 25.0 | 1 |
| ensemble / none | - | 93.85 ± 0.10 | - | - | - | - | - | - | 0 |
| ensemble / single | - | 94.02 ± 0.08 | - | - | - | - | - | - | 0 |
| ensemble / ensemble | - | 94.09 ± 0.07 | - | - | - | - | - | - | 0 |
"""


def test_tables_of_the_runs_that_are_done_so_far(study, tmp_path):
    asked = study("--table", "teachers", "--seeds", "0", "2")
    the_plan = planned(asked)
    rows = the_plan.rows
    done = [
        the_plan.tasks[0],
        *rows["teachers", "none / none"],
        rows["teachers", "single / none"][0],
    ]
    done += [task for task in the_plan.tasks if task.folder in {row.search for row in done}]
    for task in done:
        pretend(task.options)
    write_tables(asked, the_plan, done, asked.options({}))
    page = (tmp_path / "runs" / "ablation.md").read_text()
    assert page.partition("\n## ")[2] == PAGE.partition("\n## ")[2]
    assert page.startswith("# Ablations: ResNet-56 on CIFAR10, 45% of the FLOPs\n")
    # 100 s of the baseline; 12 s of each of 3 searches; 25, 27 and 25 s of fine-tunings
    assert "Seeds 0, 2; ± is the sample standard deviation" in page
    assert "7 of 17 runs are done; their stages took 3 min 33 s in all" in page
    assert "\npython 3.12, hardware 2 cores.\n" in page
    with open(tmp_path / "runs" / "ablation.csv", newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert len(lines) == 6 and lines["ensemble / none"]["top1"] == ""
    assert float(lines["none / none"]["top1_deviation"]) == pytest.approx(2**0.5)
    assert float(lines["none / none"]["published_top1"]) == 93.78
    with open(tmp_path / "runs" / "runs.csv", newline="") as file:
        each = list(csv.DictReader(file))
    assert [(line["row"], line["seed"]) for line in each] == [
        ("baseline", ""),
        ("none / none", "0"),
        ("none / none", "2"),
        ("single / none", "0"),
    ]


@pytest.mark.parametrize(
    "key, value", [("start", "parameters 0"), ("replicas x accum", 2), ("data", "0")]
)
def test_runs_that_cannot_be_compared_are_not_put_into_one_table(study, key, value):
    """Of another baseline, with batch statistics of other parts, on other images."""
    asked = study("--table", "filters")
    _, the_plan = carried_out(asked)
    other = the_plan.rows["filters", "slice"][0]
    config = json.loads(pathlib.Path(other.file("config.json")).read_text())
    config["options"][key] = value
    pathlib.Path(other.file("config.json")).write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"cannot be compared \({key}: .*, {value}\)"):
        write_tables(asked, the_plan, the_plan.tasks, asked.options({}))


def test_runs_that_do_not_say_their_data_are_compared_all_the_same(study):
    asked = study("--table", "filters")
    _, the_plan = carried_out(asked)
    old = pathlib.Path(the_plan.tasks[0].file("config.json"))
    config = json.loads(old.read_text())
    del config["options"]["data"]
    old.write_text(json.dumps(config))
    write_tables(asked, the_plan, the_plan.tasks, asked.options({}))


def test_what_a_folder_no_longer_tells_is_left_out(study):
    asked = study("--table", "filters")
    _, the_plan = carried_out(asked)
    for task in the_plan.tasks:
        path = pathlib.Path(task.file("result.json"))
        kept = json.loads(path.read_text()) | {"seconds": {}}
        path.write_text(json.dumps(kept))
        assert task.kind == "baseline" or is_finished(kept)
    write_tables(asked, the_plan, the_plan.tasks, asked.options({}))
    page = pathlib.Path(asked.file("ablation.md")).read_text()
    assert "search, s" not in page and "top-1" in page


def test_published_figures_are_of_rows_that_there_are(study):
    for tables in PAPER_FIGURES.values():
        for table, rows in tables.items():
            assert rows.keys() <= TABLES[table].keys()
    for width, flags in (
        (1, ("--search_target_rate", "0.5")),
        (0.5, ()),
        (1, ("--dataset", "DIGITS")),
    ):
        (line,) = summary(
            {("teachers", "baseline"): []}, study("--table", "teachers", *flags).options({}), width
        )
        assert line["published_top1"] is None, "it is of something else"
    assert all(line[name] is None for name in METRICS)
    assert "| baseline | 0 |" in markdown([line], ["# head"])


def test_condition_numbers_stand_in_the_table_of_scores(study):
    """Of the network that the search has found, and of no other that lay in its folder before."""
    asked = study("--table", "scores", "--rows", "ekg", "l1")
    _, the_plan = carried_out(asked)
    arrays = {"a/kernel:0": np.ones(2, np.float32)}
    for name, own in (("ekg", True), ("l1", False)):
        folder = pathlib.Path(the_plan.rows["scores", name][0].search)
        write_parameters(str(folder / STAGES["extraction"]), arrays, {})
        results = folder / "analysis" / "hessian"
        results.mkdir(parents=True)
        identity = digest(arrays) if own else "another network"
        figures = {"digest": identity, "condition_number": 0.5, "converged": True}
        (results / "found.json").write_text(json.dumps(figures))
    write_tables(asked, the_plan, the_plan.tasks, asked.options({}))
    with open(asked.file("ablation.csv"), newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert lines["ekg"]["condition_number"] == "0.5" and lines["l1"]["condition_number"] == ""
    assert lines["l1"]["published_condition_number"] == "0.4078"
    page = pathlib.Path(asked.file("ablation.md")).read_text()
    assert "| condition number | published condition number |" in page
    assert "| 0.5000 | 0.0211 |" in page and "†" not in page


def test_a_condition_number_that_has_not_converged_is_marked(study):
    """If it is that of any seed, because the row has the mean."""
    asked = study(
        "--table", "scores", "filters", "--rows", "ekg", "l1", "slice", "--seeds", "0", "1"
    )
    _, the_plan = carried_out(asked)
    arrays = {"a/kernel:0": np.ones(2, np.float32)}
    for name, converged in (("ekg", (True, False)), ("l1", (True, True))):
        for task, reached in zip(the_plan.rows["scores", name], converged):
            folder = pathlib.Path(task.search)
            write_parameters(str(folder / STAGES["extraction"]), arrays, {})
            results = folder / "analysis" / "hessian"
            results.mkdir(parents=True)
            figures = {"digest": digest(arrays), "condition_number": 0.5, "converged": reached}
            (results / "found.json").write_text(json.dumps(figures))
    write_tables(asked, the_plan, the_plan.tasks, asked.options({}))
    page = pathlib.Path(asked.file("ablation.md")).read_text()
    scores, filters = page.partition("\n## scores\n")[2].split("\n## filters\n")
    (ekg,) = (line for line in scores.splitlines() if line.startswith("| ekg |"))
    (l1,) = (line for line in scores.splitlines() if line.startswith("| l1 |"))
    assert "| 0.5000† |" in ekg and "| 0.5000 |" in l1
    assert scores.endswith("|\n\n† Eigenvalues of a run had not converged: see --iterations.\n")
    assert "†" not in filters


def test_flags_of_condition_numbers(study):
    asked = study("--table", "scores", "--images", "64", "--tolerance", "0.1").curvature
    assert (asked.image.images, asked.image.split, asked.hessian.tolerance) == (64, "val", 0.1)
    assert study("--table", "scores", "--no_hessian").curvature is None
    assert study("--table", "teachers").curvature is None


# ----------------------------------------------------------------------------------------- for real


@pytest.mark.slow
def test_a_table_of_small_runs(tmp_path, monkeypatch, capfd):
    """In one process, whose memory does not grow with their number; a second start has nothing left
    to do.
    """
    flags = (
        "--table searches --arch ResNet-20 --dataset DIGITS --baseline_epoch 1 --train_epoch 1"
        " --do_log 0".split()
    )
    flags += "--search_target_rate 0.95 --search_samples 3 --search_warmup_epoch 0".split()
    flags += "--num_teacher 2".split()
    flags += "--val_per_class 4 --subset_per_class 32".split()
    monkeypatch.setattr("sys.argv", ["ablation.py", *flags, "--train_path", str(tmp_path)])
    assert run_program(main, resumable=True) == 0
    with open(tmp_path / "runs.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == [*TABLES["searches"]]
    assert all(float(line["flops_left"]) <= 95 for line in lines)
    results = [
        json.loads((pathlib.Path(line["folder"]) / "result.json").read_text()) for line in lines
    ]
    peaks = [result["peak_rss_mib"]["fine_tuning"] for result in results]
    assert peaks[-1] < 1.25 * peaks[0]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-0/**/*")}
    capfd.readouterr()
    assert run_program(main, resumable=True) == 0
    assert "run 1/" not in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-0/**/*")} == before
