"""The whole method on a few generated images: what a run folder holds, that it repeats itself, that
it goes on.
"""

import dataclasses
import json
import pathlib
import re
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from coloured import write_coloured
from layer_times_by_hand import times_of

import test as evaluation_program
from cli.program import run_program
from dataloader import AUGMENTATIONS
from dataloader.augment import normalise
from distribution.runtime import Runtime
from ekg.history import SearchState
from ekg.memory_bank import choose_teachers
from ekg.paper_networks import pretrained
from ekg.pipeline import prune
from engine import fitting
from engine.layer_timing import machine_here, setting_of
from engine.plots import write_plots
from files.npz import load_npz
from nets import build_network
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from train_cifar import parse
from utils import UserError

pytestmark = pytest.mark.long

TARGET = 0.9
# MACs of ResNet-8, BN 2 a value, and its gates.
CONVOLUTIONS = 1024 * 9 * (3 * 16 + 2 * 16 * 16)
CONVOLUTIONS += sum(size**2 * n * (9 * (n // 2 + n) + n // 2) for size, n in ((16, 32), (8, 64)))
NORMS = 2 * 3 * (32**2 * 16 + 16**2 * 32 + 8**2 * 64)
FLOPS, GATES = CONVOLUTIONS + NORMS + 64 * 10, 6
COMMAND = (
    "--arch ResNet-8 --dataset CIFAR10 --baseline_epoch 1 --train_epoch 2 --batch_size 32"
    f" --baseline_batch_size 32 --search_target_rate {TARGET} --val_per_class 4 --subset_per_class"
    " 6 --search_batch_size 24 --val_batch_size 32 --num_teacher 3 --do_log 1"
).split()


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """A CIFAR-10 of 100 training and 30 test images: noise around a colour a class."""
    return write_coloured(tmp_path_factory.mktemp("data") / "small.npz", 100, 30)


def start(data_path, folder, *more):
    prune(parse([*COMMAND, "--data_path", data_path, "--train_path", str(folder), *more]))
    return pathlib.Path(folder)


@pytest.fixture(scope="module")
def finished(data_path, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("ekg.stages.write_plots", write_plots)
        return start(data_path, tmp_path_factory.mktemp("run") / "deep" / "down")


def records(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_the_folder_holds_what_the_readme_says(finished):
    names = {
        "config.json",
        "baseline_param.pkl",
        "search.jsonl",
        "search_state.npz",
        "memory_bank.npy",
        "slimmed_param.pkl",
    }
    names |= {"trained_param.pkl", "training.jsonl", "result.json", "checkpoints", "figures"}
    found = {
        path.name for path in finished.iterdir() if not path.name.startswith("events.out.tfevents.")
    }
    assert found == names | {".lock"}
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["warm_param.pkl"]
    config = json.loads((finished / "config.json").read_text())
    assert config["options"]["search"]["target_rate"] == TARGET
    assert config["versions"].keys() == {"ekg", "python", "tensorflow", "numpy", "hardware"}


def test_result(finished):
    figures = result(finished)
    for side in ("baseline", "pruned"):
        assert figures[side].keys() == {"top1", "top5", "loss", "params", "flops", "latency_ms"}
        assert (
            0 <= figures[side]["top1"] <= figures[side]["top5"] <= 1
            and figures[side]["latency_ms"] > 0
        )
    assert figures["baseline"]["flops"] == FLOPS
    assert figures["flops_rate"] == figures["pruned"]["flops"] / FLOPS <= TARGET
    stages = {"baseline", "warm_up", "search", "memory_bank", "extraction", "fine_tuning"}
    assert figures["seconds"].keys() == figures["peak_rss_mib"].keys() == stages


def test_search_lines(finished):
    lines = records(finished, "search.jsonl")
    keys = "step gate widths filters flops params flops_rate loss accuracy score".split()
    keys += ["candidates", "seconds"]
    assert all(list(line) == keys for line in lines)
    assert lines[0]["gate"] is None and lines[0]["flops_rate"] == 1
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["flops_rate"] <= TARGET < lines[-2]["flops_rate"]
    assert lines[-1]["flops"] == result(finished)["pruned"]["flops"]


def test_training_lines_and_tensorboard(finished):
    lines = records(finished, "training.jsonl")
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        ("baseline", 1), ("warm_up", 1), ("fine_tuning", 1), ("fine_tuning", 2)
    ]  # fmt: skip
    tags = set()
    for path in finished.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {
        "baseline/loss",
        "baseline/step/loss",
        "search/flops_rate",
        "search/accuracy",
        "fine_tuning/test_top1",
    } <= tags


OTHER_WAYS = {  # fine-tuning's teacher -> a search that is not the default one
    "none": "--search uniform --search_teacher none --score l1",
    "single": "--search random --search_samples 2 --search_teacher single --score random",
}


@pytest.mark.parametrize("teacher", ["none", pytest.param("single", marks=pytest.mark.slow)])
def test_a_run_without_the_ensemble_builds_no_bank(finished, data_path, tmp_path, teacher):
    """One view and no knowledge, or the unpruned network's word on two."""
    flags = [
        "--trained_param",
        str(finished / "baseline_param.pkl"),
        "--finetune_teacher",
        teacher,
        "--train_epoch",
        "1",
    ]
    flags += ["--search_warmup_epoch", "0", *OTHER_WAYS[teacher].split()]
    folder = start(data_path, tmp_path / "run", *flags)
    assert not (folder / "memory_bank.npy").exists()
    assert result(folder)["seconds"].keys() == {"warm_up", "search", "extraction", "fine_tuning"}
    (line,) = records(folder, "training.jsonl")
    first = records(finished, "training.jsonl")[2]  # two views, labels and knowledge of a search
    assert np.isfinite(line["loss"]) and (line["loss"] < 0.75 * first["loss"]) == (
        teacher == "none"
    )
    searched = records(folder, "search.jsonl")
    uniform = [len(set(line["widths"])) == 1 for line in searched[1:]]
    assert (
        uniform
        and all(wide == (teacher == "none") for wide in uniform)
        and not any(line["candidates"] for line in searched)
    )
    assert all((line["score"] == line["loss"]) == (teacher == "none") for line in searched[1:])
    assert 0.85 < result(folder)["flops_rate"] <= TARGET
    start(data_path, folder, *flags)  # finished: nothing is left to do


def test_figures_are_pictures(finished):
    from matplotlib import image

    for name in ("trajectory", "filters", "training"):
        picture = image.imread(finished / "figures" / f"{name}.png")
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.02


@pytest.fixture(scope="module")
def searched(finished):
    """(supernet, history) as the folder's files have them."""
    supernet = build_network(
        "ResNet-8", 10, 32, read_parameters(str(finished / "checkpoints" / "warm_param.pkl"))[0]
    )
    return (
        supernet,
        SearchState.load(finished / "search_state.npz", supernet.gate_sizes, 40, 10).history,
    )


def masked_logits(supernet, sub, images):
    kept = [
        max(1, int(np.ceil(size * rate - 0.02)))
        for size, rate in zip(supernet.gate_sizes, sub.rates)
    ]
    masks = (sub.order < np.repeat(kept, supernet.gate_sizes)).astype(np.float32)
    return supernet(
        normalise(images, AUGMENTATIONS["CIFAR10"]), Context("batch", supernet.split_masks(masks))
    ).numpy()


def test_the_pruned_network_is_the_masked_one(finished, searched, data_path):
    arrays, meta = read_parameters(str(finished / "slimmed_param.pkl"))
    assert meta["flops_rate"] == result(finished)["flops_rate"]
    images = np.load(data_path)["x_test"]
    masked = masked_logits(searched[0], searched[1][-1], images)
    pruned = build_network("ResNet-8", 10, 32, arrays)
    extracted = pruned(normalise(images, AUGMENTATIONS["CIFAR10"]), Context("batch")).numpy()
    assert np.abs(masked - extracted).max() <= 1e-4 * np.abs(masked).max()


def test_the_bank_holds_what_the_teachers_say(finished, searched, data_path):
    """Teacher by teacher and batch by batch in data-set order, the last batch filled up from the
    start.
    """
    supernet, history = searched
    bank, images = np.load(finished / "memory_bank.npy"), np.load(data_path)["x_train"]
    assert bank.shape == (100, 10, 3) and bank.dtype == np.float16
    members = history[:-1]
    teachers = [members[i] for i in choose_teachers([member.loss for member in members], 3)]
    assert teachers[0].loss == min(member.loss for member in members)
    for first in range(0, 100, 32):
        rows = np.arange(first, first + 32)
        real = rows[rows < 100]
        for k, teacher in enumerate(teachers):
            logits = masked_logits(supernet, teacher, images[rows % 100])[: len(real)]
            np.testing.assert_allclose(bank[real, :, k], logits, rtol=2e-3, atol=2e-3)


def test_the_other_program_agrees(finished, data_path, monkeypatch, capsys):
    path = str(finished / "trained_param.pkl")
    monkeypatch.setattr(
        sys, "argv", ["test.py", "--trained_param", path, "--data_path", data_path, "--json"]
    )
    assert run_program(evaluation_program.main) == 0
    printed = json.loads(capsys.readouterr().out)
    figures = result(finished)
    assert list(printed) == "top1 top5 loss images params flops flops_rate moving_averages".split()
    assert printed["images"] == 30 and printed["flops_rate"] == pytest.approx(figures["flops_rate"])
    for key in ("top1", "top5", "params", "flops"):
        assert printed[key] == figures["pruned"][key]
    assert printed["loss"] == pytest.approx(figures["pruned"]["loss"], rel=1e-4)


def without_seconds(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same_run(one, other):
    for name in ("search.jsonl", "training.jsonl"):
        assert without_seconds(records(one, name)) == without_seconds(records(other, name))
    assert (one / "memory_bank.npy").read_bytes() == (other / "memory_bank.npy").read_bytes()
    for name in ("baseline_param.pkl", "slimmed_param.pkl", "trained_param.pkl"):
        ours, theirs = (read_parameters(str(folder / name))[0] for folder in (one, other))
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(array, theirs[key], err_msg=key)


@pytest.mark.slow  # test_killed.py compares runs in processes of their own
def test_same_seed_same_run(finished, data_path, tmp_path):
    same_run(finished, start(data_path, tmp_path / "run", "--train_epoch", "2"))


def test_a_second_start_goes_on(finished, data_path, tmp_path, capsys):
    """A run cut off after extraction, started again by the same command, ends as the uninterrupted
    one, to the bit.
    """
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "trained_param.pkl").unlink()
    unfinished = result(folder)
    for key in ("baseline", "pruned", "flops_rate"):
        del unfinished[key]
    (folder / "result.json").write_text(json.dumps(unfinished))
    capsys.readouterr()
    start(data_path, folder)
    assert "search to" not in capsys.readouterr().out
    same_run(finished, folder)
    assert result(folder)["seconds"]["search"] == unfinished["seconds"]["search"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    start(data_path, folder)
    assert "finished; nothing is left to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_search_taken_over_ends_as_the_run_that_did_it_itself(
    finished, data_path, tmp_path, capsys
):
    """To the bit, its records included, and also where the other folder has gone after the first
    start.
    """
    other, folder = tmp_path / "other", tmp_path / "run"
    shutil.copytree(finished, other)
    again = start(data_path, folder, "--search_from", str(other))
    said = capsys.readouterr().out
    assert (
        "search to" not in said and "baseline epoch" not in said and "fine_tuning epoch 2/2" in said
    )
    same_run(finished, again)
    for key in ("baseline", "search", "extraction"):
        assert result(again)["seconds"][key] == result(finished)["seconds"][key]
    shutil.rmtree(other)
    start(data_path, folder, "--search_from", str(other))
    assert "nothing is left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_search_and_bank_have_a_precision_of_their_own(finished, data_path, tmp_path):
    """Float32 where trainings compute in bfloat16, and the other way round."""
    begun = ("--trained_param", str(finished / "baseline_param.pkl"), "--train_epoch", "1")
    in_half = start(data_path, tmp_path / "trainings", *begun, "--precision", "bfloat16")
    ours, theirs = (
        read_parameters(str(folder / "checkpoints" / "warm_param.pkl"))[0]
        for folder in (in_half, finished)
    )
    assert all((array == theirs[key]).all() for key, array in ours.items())
    steps = [
        [line | {"seconds": 0} for line in records(folder, "search.jsonl")]
        for folder in (in_half, finished)
    ]
    assert steps[0] == steps[1]
    assert (in_half / "memory_bank.npy").read_bytes() == (finished / "memory_bank.npy").read_bytes()
    in_float = start(data_path, tmp_path / "both", *begun, "--precision", "float32")
    losses = [records(folder, "training.jsonl")[-1]["loss"] for folder in (in_half, in_float)]
    assert losses[0] != losses[1]
    searched_in_half = start(
        data_path,
        tmp_path / "searches",
        *begun,
        "--search_precision",
        "bfloat16",
        "--train_epoch",
        "0",
    )
    assert records(searched_in_half, "search.jsonl")[0]["loss"] != steps[0][0]["loss"]


def test_no_fine_tuning_and_no_search(finished, data_path, tmp_path):
    """--train_epoch 0 ends after extraction; a target of 1 keeps every filter; a pruned file is a
    start like any other.
    """
    pruned = str(finished / "trained_param.pkl")
    more = (
        "--train_epoch",
        "0",
        "--search_target_rate",
        "1",
        "--search_warmup_epoch",
        "0",
        "--trained_param",
        pruned,
    )
    folder = start(data_path, tmp_path / "run", *more)
    assert not (folder / "memory_bank.npy").exists() and not (folder / "trained_param.pkl").exists()
    assert not (folder / "baseline_param.pkl").exists()
    figures = result(folder)
    assert (
        figures["flops_rate"] == 1
        and figures["pruned"]["flops"] == result(finished)["pruned"]["flops"]
    )
    before, after = (
        read_parameters(path)[0] for path in (pruned, str(folder / "slimmed_param.pkl"))
    )
    for name, array in before.items():
        if "moving" not in name:
            np.testing.assert_array_equal(after[name], array)


def test_a_run_goes_on_from_its_own_start(finished, data_path, tmp_path, monkeypatch):
    """Neither another file under the same name nor one found later under pretrained/ takes the
    start's place.
    """
    folder, own = tmp_path / "run", tmp_path / "own.pkl"
    shutil.copy(finished / "slimmed_param.pkl", own)
    more = ("--train_epoch", "0", "--search_target_rate", "1", "--search_warmup_epoch", "0")
    start(data_path, folder, *more, "--trained_param", str(own))
    shutil.copy(finished / "trained_param.pkl", own)
    with pytest.raises(UserError, match="start: parameters"):
        start(data_path, folder, *more, "--trained_param", str(own))


def test_a_run_is_tied_to_its_data_not_to_their_place(finished, data_path, tmp_path, capsys):
    moved, edited = tmp_path / "moved.npz", tmp_path / "edited.npz"
    shutil.copy(data_path, moved)
    capsys.readouterr()
    start(str(moved), finished)
    assert "nothing is left to do" in capsys.readouterr().out
    arrays = dict(np.load(data_path))
    arrays["x_test"] = arrays["x_test"][..., ::-1]
    np.savez(edited, **arrays)
    with pytest.raises(UserError, match=r"with other options \(data: \w+ there, \w+ asked for"):
        start(str(edited), finished)


def test_a_folder_with_files_of_an_unknown_run_is_refused(finished, data_path, tmp_path):
    shutil.copy(finished / "trained_param.pkl", tmp_path)
    with pytest.raises(UserError, match=r"holds trained_param.pkl of an unknown run"):
        start(data_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trained_param.pkl"]


def test_a_lost_record_is_no_reason_to_fail(finished, data_path, tmp_path):
    """Without search.jsonl and result.json a finished run's files still make a result, of what was
    measured now.
    """
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("search.jsonl", "training.jsonl", "result.json"):
        (folder / name).unlink()
    start(data_path, folder)
    figures, before = result(folder), result(finished)
    assert (
        figures["pruned"]["top1"] == before["pruned"]["top1"]
        and figures["flops_rate"] == before["flops_rate"]
    )
    assert figures["seconds"] == {}


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", "{"),
        ("config.json", '{"options": 3}'),
        ("result.json", "[]"),
        ("result.json", '{"seconds": 1}'),
    ],
)
def test_strange_files_in_the_folder_are_answered_in_one_line(
    finished, data_path, tmp_path, name, content
):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} .*choose another --train_path"):
        start(data_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_damaged_parameters_of_a_stage_say_what_to_do(finished, data_path, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    (folder / "slimmed_param.pkl").write_bytes((folder / "slimmed_param.pkl").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"delete .*slimmed_param.pkl to compute it again"):
        start(data_path, folder)


def test_a_loss_that_is_not_finite_names_its_layer_and_keeps_the_last_epoch(
    data_path, tmp_path, monkeypatch
):
    rates = lambda at, _: 0.05 if at < 1 else 1e30
    monkeypatch.setattr("engine.training.learning_rate_at", rates)
    with pytest.raises(FloatingPointError) as stop:
        start(data_path, tmp_path, "--baseline_epoch", "3")
    # Step 1 of epoch 2 takes the mad step; the first layer's weights are lost in step 2.
    message = (
        r"baseline: the loss is (nan|inf) in epoch 2, step 2, first in bn; try a lower learning"
        r" rate; .*/baseline.npz holds"
    )
    assert re.match(message, str(stop.value)), stop.value
    kept = load_npz(tmp_path / "checkpoints" / "baseline.npz")
    assert all(np.isfinite(array).all() for array in kept.values() if array.dtype.kind == "f")
    assert [line["epoch"] for line in records(tmp_path, "training.jsonl")] == [1]
    assert not (tmp_path / "baseline_param.pkl").exists()


def test_weights_that_are_not_finite_are_not_kept(data_path, tmp_path, monkeypatch):
    """The last step of an epoch loses them, and no loss tells."""
    monkeypatch.setattr("engine.training.learning_rate_at", lambda *_: np.inf)
    with pytest.raises(
        FloatingPointError,
        match=r"^baseline: conv/kernel:0 has become NaN or infinite; try a lower learning rate$",
    ):
        start(data_path, tmp_path, "--baseline_batch_size", "100")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_training_that_makes_the_network_worse_says_so(data_path, tmp_path, monkeypatch, capsys):
    rates = lambda at, _: 0.05 if at < 2 else 5.0
    monkeypatch.setattr("engine.training.learning_rate_at", rates)
    flags = "--search_target_rate", "1", "--search_warmup_epoch", "0", "--train_epoch", "0"
    start(data_path, tmp_path, "--baseline_epoch", "4", *flags)
    first, *_, last = records(tmp_path, "training.jsonl")
    said = re.findall(
        r"baseline made the network worse: .* in its last (.*), .*; try a lower learning"
        r" rate",
        capsys.readouterr().out,
    )
    assert said == [f"{last['loss']:.4f}"] and last["loss"] > first["loss"]


@pytest.mark.parametrize(
    "loss, accuracy, worse",
    [(0.5, 0.8, True), (0.5, 0.95, False), (0.1, 0.8, False), (0.1, 0.95, False)],
)
def test_only_a_loss_and_an_accuracy_that_are_both_worse_are_said(loss, accuracy, worse):
    lines = [
        {"stage": "warm_up", "epoch": 1, "loss": 0.01, "accuracy": 1.0},
        {"stage": "fine_tuning", "epoch": 1, "loss": 0.3, "accuracy": 0.9},
        {"stage": "fine_tuning", "epoch": 2, "loss": loss, "accuracy": accuracy},
    ]
    said = []
    run = types.SimpleNamespace(
        folder=types.SimpleNamespace(lines=lambda name: lines),
        console=types.SimpleNamespace(say=said.append),
    )
    fitting._Hooks._warn_if_worse(types.SimpleNamespace(run=run, name="fine_tuning"))
    assert len(said) == worse


def test_a_bank_that_is_not_finite_is_named(finished, data_path, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("trained_param.pkl", "result.json"):
        (folder / name).unlink()
    bank = np.load(folder / "memory_bank.npy")
    np.save(folder / "memory_bank.npy", np.where(bank == bank.max(), np.float16(np.nan), bank))
    with pytest.raises(
        FloatingPointError,
        match=r"^fine tuning: the loss is nan in epoch 1, .*: its rows of the memory bank",
    ):
        start(data_path, folder)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse([]).seed = 1


def test_a_run_keeps_the_variant_it_starts_with(data_path, tmp_path, monkeypatch):
    """In every network and every file of its own; the same arrays in another padding or at another
    width are another start.
    """
    built = []

    def build(*args, **settings):
        built.append(build_network(*args, **settings))
        return built[-1]

    monkeypatch.setattr("ekg.paper_networks.build_network", build)
    arrays = build_network("ResNet-8", 10, 32, width_multiplier=0.5).parameters()
    path, variant = str(tmp_path / "param.pkl"), {"padding": "symmetric", "width_multiplier": 0.5}
    write_parameters(path, arrays, variant)
    flags = [
        "--search_target_rate",
        "1",
        "--train_epoch",
        "0",
        "--search_warmup_epoch",
        "0",
        "--trained_param",
        path,
    ]
    folder = start(data_path, tmp_path / "run", *flags)
    assert len(built) > 2 and {
        (network.padding, network.width_multiplier) for network in built
    } == {("symmetric", 0.5)}
    own = [read_parameters(str(file))[1] for file in sorted(folder.rglob("*_param.pkl"))]
    assert own and all(variant.items() <= meta.items() and meta["flops_rate"] == 1 for meta in own)
    start(data_path, folder, *flags, "--width_multiplier", "0.5")  # which is the file's
    write_parameters(path, arrays, {})
    with pytest.raises(UserError, match=r"padding symmetric, width multiplier 0\.5 there"):
        start(data_path, folder, *flags)


@pytest.mark.parametrize(
    "flags, width",
    [([], ""), (["--width_multiplier", "1"], ""), (["--width_multiplier", "0.5"], "-0.5")],
)
def test_apretrained_network_is_found_by_its_width(tmp_path, monkeypatch, flags, width):
    name = f"ResNet-8{width}_CIFAR10.npz"
    monkeypatch.setattr("ekg.paper_networks.__file__", str(tmp_path / "ekg" / "paper_networks.py"))
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "ResNet-8-2_CIFAR10.pkl").touch()
    assert pretrained(parse([*COMMAND, *flags])) is None
    (tmp_path / "pretrained" / name).touch()
    assert pretrained(parse([*COMMAND, *flags])) == str(tmp_path / "pretrained" / name)


@pytest.mark.slow
def test_the_whole_method_on_mobilenet_v2(data_path, tmp_path):
    """Narrow enough for runs of blocks to begin at the stem; every file says the width."""
    flags = "--arch MobileNet-v2 --width_multiplier 0.1 --search_target_rate 0.45".split()
    flags += "--train_epoch 1".split()
    folder = start(data_path, tmp_path / "run", *flags)
    figures, (arrays, meta) = result(folder), read_parameters(str(folder / "trained_param.pkl"))
    assert figures["baseline"]["flops"] == 6_964_224 and 0.4 < figures["flops_rate"] <= 0.45
    assert meta["width_multiplier"] == 0.1 and meta["flops_rate"] == figures["flops_rate"]
    assert (
        build_network("MobileNet-v2", 10, 32, arrays, width_multiplier=0.1).cost()[0]
        == figures["pruned"]["flops"]
    )


def test_a_run_may_take_whole_blocks(finished, data_path, tmp_path):
    """To a target that one filter per gate does not reach; another run takes the search over."""
    flags = "--search_target_rate 0.004 --search uniform --search_step 0.5 --train_epoch 1".split()
    flags += ["--trained_param", str(finished / "baseline_param.pkl")]
    with pytest.raises(UserError, match="out of reach"):
        start(data_path, tmp_path / "run", *flags)
    begun, flags = flags, [*flags, "--least_filters", "0"]
    folder = start(data_path, tmp_path / "run", *flags)
    figures, (arrays, _) = result(folder), read_parameters(str(folder / "trained_param.pkl"))
    assert figures["flops_rate"] <= 0.004
    assert "BasicBlock1.0/bn2/beta:0" in arrays and "BasicBlock1.0/conv3/kernel:0" in arrays
    assert not any("/conv1/" in name or "/conv2/" in name for name in arrays)
    assert build_network("ResNet-8", 10, 32, arrays).cost()[0] == figures["pruned"]["flops"]
    last = records(folder, "search.jsonl")[-1]
    assert last["filters"] == [1, 0, 1, 0, 1, 0] and last["flops"] == figures["pruned"]["flops"]
    again = start(data_path, tmp_path / "again", *flags, "--search_from", str(folder))
    np.testing.assert_equal(read_parameters(str(again / "trained_param.pkl"))[0], arrays)
    with pytest.raises(UserError, match=r"search\.least_filters: 0 there, 1 asked for"):
        start(data_path, folder, *begun, "--search_target_rate", "0.1")


def _interrupt(record, gates):
    raise KeyboardInterrupt


def test_a_run_to_a_target_in_time(finished, data_path, tmp_path, monkeypatch, capsys):
    """With times from a file; it goes on with them, and another run takes the search over."""
    network = build_network("ResNet-8", 10, 32)
    runtime = Runtime(tf.distribute.get_strategy())
    times = times_of(network, setting=setting_of(network, runtime, 8) | machine_here())
    times.save(str(tmp_path / "times.json"))
    flags = "--search_target latency --latency_batch_size 8 --search_target_rate 0.5".split()
    flags += "--search_step 0.5 --train_epoch 0 --candidate_filter none".split()
    flags += ["--trained_param", str(finished / "baseline_param.pkl")]
    given = "--layer_times", str(tmp_path / "times.json")
    with pytest.raises(UserError, match=r"out of reach.* ResNet-8's predicted time"):
        start(data_path, tmp_path / "run", *flags, *given, "--search_target_rate", "0.001")
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patches, pytest.raises(KeyboardInterrupt):
        patches.setattr("ekg.search_stage.search_line", _interrupt)
        start(data_path, tmp_path / "run", *flags, *given)
    monkeypatch.setattr("ekg.predicted_time.measured", None)  # nothing is measured again
    folder = start(data_path, tmp_path / "run", *flags)
    *_, before, last = records(folder, "search.jsonl")
    assert last["latency_rate"] <= 0.5 < before["latency_rate"]
    assert last["latency_ms"] == pytest.approx(times.ms(network, last["filters"]))
    assert last["flops_rate"] == pytest.approx(result(folder)["flops_rate"])
    latency = result(folder)["latency"]
    assert (latency["batch_size"], latency["target_rate"]) == (8, 0.5)
    assert all(ms > 0 for ms in latency["ms"].values())
    assert "latency, batch 8" in capsys.readouterr().out
    again = start(data_path, tmp_path / "again", *flags, "--search_from", str(folder))
    assert records(again, "search.jsonl") == records(folder, "search.jsonl")
    with pytest.raises(UserError, match=r"search\.target: latency there, flops asked for"):
        start(data_path, folder, *flags, "--search_target", "flops")


@pytest.mark.slow
def test_a_run_keeps_to_multiples(data_path, tmp_path):
    flags = "--search_target_rate 0.3 --round_to 8 --train_epoch 0 --search_step 0.5".split()
    folder = start(data_path, tmp_path / "run", *flags)
    for record in records(folder, "search.jsonl"):
        assert not np.any(np.array(record["filters"]) % 8)
    pruned = build_network(
        "ResNet-8", 10, 32, read_parameters(str(folder / "slimmed_param.pkl"))[0]
    )
    assert [gate.size for gate in pruned.gates] == record["filters"]
