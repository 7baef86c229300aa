"""publish.py: float16 files, their cards, and what the command of a card makes."""

import hashlib
import json
import pathlib
import pickle
import re
import shlex
import sys

import numpy as np
import pytest
from networks import randomised
from run_folders import make_run

import publish
import test as test_py  # the program beside this folder, not Python's own tests
import train_cifar
import train_imagenet
from cli.program import run_program
from dataloader import digits
from ekg.extraction import extract
from ekg.importance import first_filters
from ekg.paper_networks import pretrained
from engine.configuration import described
from engine.run_files import STAGES
from nets import build_network
from nets.parameters import half, read_parameters, write_parameters
from reports.model_card import command_of
from reports.reader import read_run
from utils import UserError


@pytest.fixture(scope="module")
def networks():
    """A ResNet-8 of random arrays, and 3 filters of each of its gates."""
    dense = build_network("ResNet-8", 10, 32)
    dense = build_network("ResNet-8", 10, 32, randomised(dense.parameters(), 0))
    flat = first_filters(dense.gate_sizes, [3] * len(dense.gates))
    return {"baseline": dense.parameters(), "fine_tuning": extract(dense, flat)}


@pytest.fixture
def run(tmp_path, networks, monkeypatch):
    """The folder of a finished run with these networks; 60 test images."""
    x_train, y_train, x_test, y_test = digits.load_digits()
    few = x_train[:90], y_train[:90], x_test[:60], y_test[:60]
    monkeypatch.setattr(digits, "load_digits", lambda: few)
    folder = make_run(tmp_path / "run", "--arch", "ResNet-8")
    for stage, arrays in networks.items():
        write_parameters(str(tmp_path / "run" / STAGES[stage]), arrays, {})
    (tmp_path / "out").mkdir()
    return folder


def answer(program, monkeypatch, capsys, *words, code=0):
    """What the program prints; on stderr for a mistake."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [program.__file__, *map(str, words)])
    assert run_program(program.main) == code
    out, err = capsys.readouterr()
    return err if code else out


@pytest.mark.long
@pytest.mark.parametrize("side, name", [("baseline", ""), ("pruned", "-45")])
def test_file_and_card(run, tmp_path, networks, monkeypatch, capsys, side, name):
    path = tmp_path / "out" / f"ResNet-8_DIGITS{name}.pkl"
    flags = run, "--network", side, "--out", tmp_path / "out", "--licence", "CC0"
    card = answer(publish, monkeypatch, capsys, *flags)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{path.stem}.md", path.name]
    assert path.with_suffix(".md").read_text() == card
    stage = "baseline" if side == "baseline" else "fine_tuning"
    with open(path, "rb") as file:
        content = pickle.load(file)
    for key, array in networks[stage].items():
        assert content[key].dtype == np.float16
        np.testing.assert_array_equal(content[key], array.astype(np.float16))
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert f"{path.stat().st_size:,} bytes" in card
    words = "--trained_param", path, "--json"  # arch and data set are in the file
    found = json.loads(answer(test_py, monkeypatch, capsys, *words))
    for text in (
        f"**{100 * found['top1']:.2f} %**",
        f"{found['loss']:.4f}",
        f"{found['flops']:,} multiply",
        f"| {found['params']:,} |",
        "90 images for training, 60 for the test",
        "3 baseline" if side == "baseline" else "3 baseline, 1 warm up, 4 fine tuning",
        "| licence | CC0 |",
        "2 cores of a Test CPU",
        f"python test.py --trained_param {path} ",
    ):
        assert text in card, text
    said = answer(publish, monkeypatch, capsys, *flags, code=2)
    assert f"{path} exists; choose another --out, or --overwrite" in said
    flags += "--overwrite", "--command", "as I did it"
    assert "as I did it" in answer(publish, monkeypatch, capsys, *flags)


@pytest.mark.long
def test_runs_begin_with_a_published_baseline(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ekg.paper_networks.__file__", str(tmp_path / "ekg" / "paper_networks.py"))
    (tmp_path / "out").rename(tmp_path / "pretrained")
    flags = "--network", "baseline", "--out", tmp_path / "pretrained"
    answer(publish, monkeypatch, capsys, run, *flags)
    options = train_cifar.parse(["--arch", "ResNet-8", "--dataset", "DIGITS"])
    assert pretrained(options) == str(tmp_path / "pretrained" / "ResNet-8_DIGITS.pkl")


COMMANDS = [
    "train_cifar.py --arch ResNet-20 --decay_points 0.5 0.75 --precision bfloat16 --sync_bn",
    "train_cifar.py --trained_param 'my file.pkl' --no-compile --search_target_rate 0.3",
    "train_imagenet.py --input_size 64 --val_labels labels.txt --gpu_id 0 1",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_makes_the_same_run(tmp_path, command):
    name, *flags = shlex.split(command)
    program = train_cifar if name == "train_cifar.py" else train_imagenet
    folder = make_run(tmp_path / "run")
    options = described(program.parse(flags), "a baseline trained here", 1)
    config = json.loads((tmp_path / "run" / "config.json").read_text()) | {"options": options}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    run = read_run(folder, "run")
    defaults = described(program.parse([]), "", 1)
    python, found, *words = shlex.split(command_of(run, program.__name__, defaults))
    assert (python, found) == ("python", name) and len(words) == len(flags)
    assert described(program.parse(words), "a baseline trained here", 1) == options


@pytest.mark.long
@pytest.mark.parametrize(
    "change, flags, said",
    [
        (None, ["--out", "missing"], "--out missing is no folder; make it, or choose another"),
        ("slimmed_param.pkl trained_param.pkl", [], "has no trained_param.pkl to publish"),
        ("result.json", [], "has no trained_param.pkl to publish: the run is not finished"),
        ("baseline_param.pkl", ["--network", "baseline"], "none was trained there"),
        ("config.json", [], "holds no run (no config.json)"),
    ],
)
def test_what_cannot_be_published(run, tmp_path, monkeypatch, capsys, change, flags, said):
    for name in (change or "").split():
        (pathlib.Path(run) / name).unlink()
    line = answer(publish, monkeypatch, capsys, run, "--out", tmp_path / "out", *flags, code=2)
    assert said in line and len(line.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.long
def test_a_run_on_a_keras_model_has_its_own_file(run, tmp_path, monkeypatch, capsys):
    path = pathlib.Path(run) / "config.json"
    config = json.loads(path.read_text())
    config["options"]["start"] = "model 0123"
    path.write_text(json.dumps(config))
    assert "its pruned.keras is the file" in answer(publish, monkeypatch, capsys, run, code=2)


@pytest.mark.long
def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def full(path, *_):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(publish, "whole_file", full)
    line = answer(publish, monkeypatch, capsys, run, "--out", tmp_path / "out", code=1)
    assert re.search("No space left|free some space", line)
    assert not list((tmp_path / "out").iterdir())


def test_values_too_large_for_float16_are_refused():
    assert half({"a": np.float32([65504, 1e-9])}, "x.pkl")["a"].tolist() == [65504, 0]
    for wrong in (7e4, np.nan):
        with pytest.raises(UserError, match=r"x.pkl: a has values that float16 cannot hold"):
            half({"a": np.float32([wrong])}, "x.pkl")


def test_float16_files_are_read_as_float32(tmp_path):
    for name in ("x.pkl", "x.npz"):
        write_parameters(str(tmp_path / name), {"a/kernel:0": np.ones(3)}, {}, dtype="float16")
        assert read_parameters(str(tmp_path / name))[0]["a/kernel:0"].dtype == np.float32
