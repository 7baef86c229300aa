"""What is read of run folders and analyses, and what is refused."""

import os

import numpy as np
import pytest
from run_folders import (
    NETWORKS,
    make_analysis,
    make_potential,
    make_run,
    search_records,
    training_records,
    write,
    write_lines,
)

import train_cifar
import train_imagenet
from cli.parser import Parser
from engine.configuration import LATER_OPTIONS, described
from engine.run_files import STAGES, read_object
from nets.parameters import write_parameters
from reports import pictures
from reports.analyses import read_analysis
from reports.reader import read_run, read_runs
from reports.runs import names_of
from reports.settings import differing, flat, shown, unusual
from utils import UserError, digest


def test_a_finished_run(tmp_path):
    run = read_run(make_run(tmp_path / "run"), "run")
    assert run.finished and run.title == "ResNet-20 on DIGITS"
    assert [stage.name for stage in run.stages if stage.state == "done"] == [
        "baseline",
        "warm_up",
        "search",
        "memory_bank",
        "extraction",
        "fine_tuning",
    ]
    assert run.stage("fine_tuning").epochs == (4, 4) and run.stage("search").seconds == 180
    assert run.seconds == 60 * (1 + 2 + 3 + 4 + 5 + 6)
    assert run.sides["pruned"]["top1"] == 0.9775 and run.flops_left == 0.45
    # The depthwise convolution has the filters of the first one.
    assert run.filters == {"first": (8, 3), "second": (16, 16)}
    assert run.digests == {stage: digest(arrays) for stage, arrays in NETWORKS.items()}


def test_layers_that_are_gone_keep_no_filter(tmp_path):
    folder = make_run(tmp_path / "run")
    arrays = dict(NETWORKS["extraction"])
    del arrays["second/kernel:0"]
    write_parameters(os.path.join(folder, STAGES["extraction"]), arrays, {})
    assert read_run(folder, "run").filters == {"first": (8, 3), "second": (16, 0)}
    os.unlink(os.path.join(folder, STAGES["warm_up"]))
    assert read_run(folder, "run").filters == {"first": (None, 3)}


def test_a_run_from_before_an_option_has_its_default(tmp_path):
    """So it does not differ from a new run in options that did not exist."""
    runs = [make_run(tmp_path / name) for name in ("older", "newer")]
    config = read_object(runs[0], "config.json", {})
    for name in LATER_OPTIONS:
        del config["options"]["search"][name.removeprefix("search.")]
    write(runs[0], "config.json", config)
    assert differing(read_runs(runs)) == []


def test_an_unfinished_run(tmp_path):
    run = read_run(make_run(tmp_path / "run", until="extraction", tuned=2), "run")
    assert not run.finished and run.sides == {}
    assert run.stage("fine_tuning").state == "unfinished"
    assert run.stage("fine_tuning").epochs == (2, 4) and run.stage("fine_tuning").seconds == 4
    begun = read_run(make_run(tmp_path / "begun", until="baseline"), "begun")
    assert begun.chosen is None and begun.filters == {} and list(begun.digests) == ["baseline"]
    assert begun.stage("warm_up").state == "not begun"


def test_a_run_needs_the_stages_of_its_options(tmp_path):
    without = read_run(make_run(tmp_path / "run", "--train_epoch", "0"), "run")
    assert not without.fine_tunes and without.finished
    assert [stage.name for stage in without.stages][-1] == "extraction"
    config = read_object(without.path, "config.json", {})
    config["options"]["start"] = "parameters 0123456789abcdef, width multiplier 0.5"
    write(without.path, "config.json", config)
    os.unlink(os.path.join(without.path, "baseline_param.pkl"))
    given = read_run(without.path, "run")
    assert given.stage("baseline") is None and given.digests["baseline"] == "0123456789abcdef"
    digest = "0123456789abcdef, width multiplier 0.5"
    assert given.starts_from == f"pretrained/ResNet-20_DIGITS, digest {digest}"
    config["options"]["trained_param"] = "parameters 5.npz"  # a file may have any name
    write(given.path, "config.json", config)
    assert read_run(given.path, "run").starts_from == "parameters 5.npz"
    single = read_run(make_run(tmp_path / "single", "--finetune_teacher", "single"), "single")
    assert single.stage("memory_bank") is None and single.stage("fine_tuning")


def test_a_random_search_has_come_to_its_best_draw(tmp_path):
    folder = make_run(tmp_path / "run")
    draws = [r | {"best": i == 2} for i, r in enumerate(search_records())]
    write_lines(folder, "search.jsonl", draws)
    assert read_run(folder, "run").chosen["step"] == 2


def test_a_run_from_before_search_precision_has_one_precision(tmp_path):
    folder = make_run(tmp_path / "run", "--precision", "bfloat16")
    config = read_object(folder, "config.json", {})
    del config["options"]["device"]["search_precision"]
    write(folder, "config.json", config)
    assert flat(read_run(folder, "run").options)["search_precision"] == "bfloat16"


def test_names_are_as_short_as_they_can_be():
    assert names_of(["/runs/a", "/runs/b/"]) == ["a", "b"]
    assert names_of(["/runs/a/seed-0", "/runs/b/seed-0", "/runs/c"]) == [
        "a/seed-0",
        "b/seed-0",
        "c",
    ]
    assert names_of(["/run", "/other/run"]) == ["run", "other/run"]


def test_a_run_is_given_once(tmp_path):
    folder = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="given twice"):
        read_runs([folder, f"{folder}/../run"])


@pytest.mark.parametrize(
    "name, damage",
    [
        ("config.json", lambda config: config["options"].pop("arch")),
        ("config.json", lambda config: config["options"].update(fine_tuning=4)),
        ("config.json", lambda config: config["options"]["search"].update(target_rate="half")),
        ("config.json", lambda config: config.update(versions=["2.21"])),
        ("config.json", lambda config: config.update(begun="yesterday")),
        ("result.json", lambda result: result["seconds"].update(search="long")),
        ("result.json", lambda result: result.update(broken=[1])),
        ("result.json", lambda result: result["baseline"].update(flops=10**400)),
    ],
)
def test_another_object_is_named(tmp_path, name, damage):
    folder = make_run(tmp_path / "run")
    value = read_object(folder, name, {})
    damage(value)
    write(folder, name, value)
    with pytest.raises(UserError, match=f"{name} was not written by this program"):
        read_run(folder, "run")


@pytest.mark.parametrize(
    "name, record",
    [
        ("search.jsonl", search_records()[1] | {"filters": ["wide"]}),
        ("search.jsonl", search_records()[1] | {"gate": 3}),
        ("search.jsonl", search_records()[1] | {"params": 10**400}),
        ("training.jsonl", training_records("baseline", 1)[0] | {"test_top1": "high"}),
    ],
)
def test_another_record_is_named(tmp_path, name, record):
    folder = make_run(tmp_path / "run")
    write_lines(folder, name, [record])
    with pytest.raises(UserError, match=f"{name} was not written by this program"):
        read_run(folder, "run")


# ------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("program", [train_cifar, train_imagenet])
def test_every_option_has_its_flag(program):
    parser = Parser()
    program.add_flags(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    own = {f"--{flag}" for flag in flat(described(program.parse([]), "", 1))}
    assert own <= flags
    others = {"-h", "--help", "--overwrite", "--train_path", "--no-compile", "--no-do_log"}
    assert flags - own == others


def test_options_that_are_not_the_defaults(tmp_path):
    flags = ["--search_step", "0.1", "--decay_points", "0.5", "0.75", "--sync_bn", "--do_log", "7"]
    own, usual = (described(train_cifar.parse(argv), "", 1) for argv in (flags, []))
    texts = {flag: (shown(new), shown(default)) for flag, new, default in unusual(own, usual)}
    assert texts == {
        "do_log": ("7", "200"),
        "sync_bn": ("yes", "no"),
        "search_step": ("0.1", "0.2"),
        "decay_points": ("0.5 0.75", "0.3 0.6 0.8"),
    }
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", "--seed", "3")])
    assert differing(runs) == [("seed", [0, 3])]


# ----------------------------------------------------------------------------------------- analyses


def test_an_analysis(tmp_path):
    analysis = read_analysis(make_analysis(tmp_path / "analysis", {"a": "11", "b": "22"}))
    assert [found.digest for found in analysis.curvatures] == ["11", "22"]
    assert analysis.curvatures[1].numbers["lambda_max"] == 124.5
    assert [found.converged for found in analysis.curvatures] == [True, False]
    assert analysis.landscape.digests == ["11", "22"] and analysis.digests == {"11", "22"}
    assert analysis.landscape.loss.shape == (2, 5, 7)


def test_no_analysis_is_no_mistake_unless_asked_for(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert not read_analysis(None).digests
    make_analysis(tmp_path / "analysis", {"a": "11"})
    assert read_analysis(None).landscape
    with pytest.raises(UserError, match="--analysis missing is no folder"):
        read_analysis("missing")


def test_an_unfinished_landscape_is_left_out(tmp_path):
    folder = make_analysis(tmp_path / "analysis", {"a": "11"})
    path = os.path.join(folder, "landscape", "grid.npz")
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"complete": np.array(False)})
    assert read_analysis(folder).landscape is None


def test_a_loss_that_overflows_is_the_largest_one(tmp_path):
    folder = make_analysis(tmp_path / "analysis", {"a": "11"})
    path = os.path.join(folder, "landscape", "grid.npz")
    arrays = dict(np.load(path))
    highest = arrays["loss"][0, 1:].max()
    arrays["loss"][0, 0] = np.inf
    np.savez(path, **arrays)
    assert (read_analysis(folder).landscape.loss[0, 0] == highest).all()


@pytest.mark.parametrize(
    "change",
    [
        {"loss": np.zeros((1, 5, 5))},
        {"loss": np.full((1, 5, 7), np.nan)},
        {"alpha": np.array(["left"] * 5)},
    ],
)
def test_another_grid_is_named(tmp_path, change):
    folder = make_analysis(tmp_path / "analysis", {"a": "11"})
    path = os.path.join(folder, "landscape", "grid.npz")
    np.savez(path, **dict(np.load(path)) | change)
    with pytest.raises(UserError, match=r"grid\.npz was not written by this program"):
        read_analysis(folder)


def test_a_study_that_goes_on_is_shown_as_far_as_its_correlations(tmp_path):
    """A sub-network that was measured later is in none of them."""
    folder = make_potential(tmp_path / "study")
    write(os.path.join(folder, "potential"), "sub-network-005.json", {})
    (study,) = read_analysis(folder).potentials
    assert study.points["test_loss"] == pytest.approx([0.2, 0.21, 0.22, 0.23, 0.24])
    assert study.start is None and study.folder == os.path.realpath(folder)
    assert study.correlations["val_loss", "pearson"] == pytest.approx((0.81, 0.56, 0.86))
    os.unlink(os.path.join(folder, "potential", "correlations.json"))
    assert read_analysis(folder).potentials == []


@pytest.mark.parametrize(
    "name, value",
    [
        ("correlations.json", {"n": 5, "val_loss": {}, "condition_number": {}}),
        ("correlations.json", {"n": "5"}),
        ("sub-network-003.json", {"val_loss": "high"}),
        ("config.json", {"options": {}}),
    ],
)
def test_another_study_is_named(tmp_path, name, value):
    folder = make_potential(tmp_path / "study")
    write(os.path.join(folder, "potential"), name, value)
    with pytest.raises(UserError, match=f"{name} was not written by this program"):
        read_analysis(folder)


def test_a_study_that_lacks_a_sub_network_is_named(tmp_path):
    folder = make_potential(tmp_path / "study")
    os.unlink(os.path.join(folder, "potential", "sub-network-002.json"))
    with pytest.raises(UserError, match=r"sub-network-002\.json is missing; choose another"):
        read_analysis(folder)


@pytest.mark.long
def test_a_condition_number_that_is_not_finite_is_not_drawn(tmp_path):
    """And no correlation with it is known."""
    folder = make_potential(tmp_path / "study")
    nothing = dict.fromkeys(("value", "low", "high"), float("nan"))
    found = {"pearson": nothing, "spearman": nothing}
    infinite = {"test_loss": 0.1, "val_loss": 0.2, "condition_number": float("inf")}
    potential = os.path.join(folder, "potential")
    write(potential, "sub-network-001.json", infinite)
    write(
        potential,
        "correlations.json",
        read_object(potential, "correlations.json", {}) | {"condition_number": found},
    )
    (study,) = read_analysis(folder).potentials
    assert study.correlations["condition_number", "spearman"] is None
    drawn = pictures.potential_picture(study, "condition_number", "condition number")
    assert drawn.alt.startswith("test loss of 4 fine-tuned")


def test_analyses_in_the_runs_are_found_without_a_word(tmp_path, monkeypatch):
    """ablation.py writes them there; `../analysis` adds to them."""
    monkeypatch.chdir(tmp_path)
    make_analysis(tmp_path / "run" / "analysis", {"a": "11"})
    assert read_analysis(None, [str(tmp_path / "run"), "other"]).digests == {"11"}
    assert not read_analysis(None, ["other"]).digests
