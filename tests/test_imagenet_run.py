"""The whole method on JPEGs that lie as ImageNet's do: in folders, one of them broken, and in
shards.
"""

import contextlib
import io
import json
import pathlib

import numpy as np
import pytest
from imagenet_files import KINDS, WNIDS, pictures, write_flat, write_folders, write_shards

import test as evaluation_program
from cli.program import run_program
from ekg.pipeline import prune
from nets.parameters import read_parameters
from train_imagenet import parse
from utils import UserError

pytestmark = pytest.mark.long

SIZE, TARGET = 32, 0.93
COMMAND = (
    f"--arch ResNet-18 --width_multiplier 0.25 --input_size {SIZE} --val_per_class 8"
    " --subset_per_class 16 --num_teacher 2"
    " --train_epoch 2 --batch_size 20 --baseline_epoch 1 --baseline_batch_size 20"
    " --search_batch_size 32 --search_warmup_batch_size 32 --val_batch_size 40"
    f" --search_target_rate {TARGET} --warmup_epoch 1 --schedule cosine --label_smoothing 0.1"
).split()
TRAIN, VAL = pictures(25), pictures(5, first=100)
BROKEN = TRAIN[7][1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """25 training images of each of 4 classes, 5 for validation; grey, CMYK, PNG among them, and
    one in a folder broken.
    """
    root = tmp_path_factory.mktemp("data")
    write_folders(root / "folders" / "train", TRAIN)
    (root / "folders" / "train" / WNIDS[0] / BROKEN).write_bytes(TRAIN[7][2][:150])
    listed = write_flat(root / "folders" / "val", VAL)
    (root / "labels.txt").write_text("".join(f"{name} {WNIDS[label]}\n" for name, label in listed))
    write_shards(root / "shards", "train", TRAIN, 4)
    write_shards(root / "shards", "validation", VAL, 2)
    assert len(KINDS) == 3
    return root


def start(folder, *flags):
    """(the run's folder, what it said)."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        prune(parse([*COMMAND, "--train_path", str(folder), *flags]))
    return pathlib.Path(folder), said.getvalue()


def records(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def in_folders(root, tmp_path_factory):
    labels = "--val_labels", str(root / "labels.txt")
    return start(tmp_path_factory.mktemp("run"), "--data_path", str(root / "folders"), *labels)


IN_SHARDS = ("--bank_top", "2", "--search_warmup_epoch", "0")


@pytest.fixture(scope="module")
def in_shards(root, in_folders, tmp_path_factory):
    more = "--trained_param", str(in_folders[0] / "baseline_param.pkl"), *IN_SHARDS
    return start(tmp_path_factory.mktemp("run"), "--data_path", str(root / "shards"), *more)


@pytest.mark.parametrize("form", ["in_folders", pytest.param("in_shards", marks=pytest.mark.slow)])
def test_the_whole_method_runs(form, request):
    folder, _ = request.getfixturevalue(form)
    search = records(folder, "search.jsonl")
    assert len(search) > 3 and search[-1]["flops_rate"] <= TARGET < search[-2]["flops_rate"]
    epochs = [(line["stage"], line["epoch"]) for line in records(folder, "training.jsonl")]
    assert epochs[-2:] == [("fine_tuning", 1), ("fine_tuning", 2)]
    figures = json.loads((folder / "result.json").read_text())
    assert (
        figures["pruned"]["flops"] < figures["baseline"]["flops"]
        and 0 <= figures["pruned"]["top1"] <= 1
    )
    assert figures["broken"] == (form == "in_folders")
    arrays, meta = read_parameters(str(folder / "trained_param.pkl"))
    assert (meta["arch"], meta["dataset"], meta["classes"], meta["input_size"]) == (
        "ResNet-18",
        "ImageNet",
        4,
        SIZE,
    )
    assert arrays["fc/biases:0"].shape == (1, 4)


def test_a_broken_image_is_named_once_and_has_no_row(in_folders):
    folder, said = in_folders
    assert said.count(BROKEN) == 1 and "(1 broken so far)" in said
    assert [line["broken"] for line in records(folder, "training.jsonl")][-1] == 1
    bank = np.load(folder / "memory_bank.npy", mmap_mode="r")
    assert bank.shape == (100, 4, 2) and bank.dtype == np.float16
    assert [i for i, row in enumerate(bank) if not row.any()] == [
        sorted(name for _, name, _ in TRAIN[:25]).index(BROKEN)
    ]


@pytest.mark.slow
def test_rows_of_the_largest_logits(in_shards):
    """2 of 4 logits: numbers of classes, logits falling, and one for the others."""
    bank = np.load(in_shards[0] / "memory_bank.npy", mmap_mode="r")
    assert bank.shape == (100, 2) and bank.dtype.names == ("classes", "logits", "rest")
    assert bank["classes"].max() < 4 and (bank["logits"][..., 0] >= bank["logits"][..., 1]).all()
    assert (bank["logits"][..., 1] >= bank["rest"]).all() and bank["logits"].any(-1).all()


def test_rates_rise_and_fall_within_epochs(in_folders):
    """Warm-up of one epoch, then a cosine: the record has the rate of an epoch's first step."""
    rates = [
        line["learning_rate"]
        for line in records(in_folders[0], "training.jsonl")
        if line["stage"] == "fine_tuning"
    ]
    whole = 0.1 * 20 / 256
    assert rates == pytest.approx([0.1 * whole, whole * 0.5 * (1 + np.cos(np.pi * 0.1))])


def printed(capsys, *command, monkeypatch):
    monkeypatch.setattr("sys.argv", ["test.py", *command])
    assert run_program(evaluation_program.main) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", ["folders", "shards"])
def test_the_other_program_agrees_and_takes_another_size(
    in_folders, root, capsys, monkeypatch, form
):
    """Both forms hold the same validation images."""
    labels = ["--val_labels", str(root / "labels.txt")] if form == "folders" else []
    command = [
        "--trained_param",
        str(in_folders[0] / "trained_param.pkl"),
        "--data_path",
        str(root / form),
        "--json",
        *labels,
    ]
    own = printed(capsys, *command, monkeypatch=monkeypatch)
    figures = json.loads((in_folders[0] / "result.json").read_text())["pruned"]
    assert own["images"] == 20 and (own["top1"], own["flops"]) == (
        figures["top1"],
        figures["flops"],
    )
    assert own["loss"] == pytest.approx(figures["loss"], rel=1e-5)
    if form == "folders":
        large = printed(capsys, *command, "--input_size", "224", monkeypatch=monkeypatch)
        assert large["flops"] > 40 * own["flops"] and large["params"] == own["params"]


def test_what_was_skipped_is_written_down(in_folders):
    (why,) = json.loads((in_folders[0] / "broken.json").read_text())["images"].values()
    assert why.startswith("Invalid JPEG data")


def start_again(folder, root):
    """Starts the run in shards a second time."""
    source = json.loads((folder / "config.json").read_text())["options"]["trained_param"]
    start(folder, "--data_path", str(root / "shards"), "--trained_param", source, *IN_SHARDS)


@pytest.mark.slow
def test_other_data_are_another_run(in_shards, root):
    shard = root / "shards" / "train-00000-of-00004"
    other = root / "shards" / "train-00004-of-00005"  # the same images in another order
    shard.rename(other)
    try:
        with pytest.raises(UserError, match="holds a run with other options \\(data: "):
            start_again(in_shards[0], root)
    finally:
        other.rename(shard)


@pytest.mark.slow
def test_a_second_start_finds_it_finished(in_shards, root, capsys):
    start_again(in_shards[0], root)
    assert "nothing is left to do" in capsys.readouterr().out
