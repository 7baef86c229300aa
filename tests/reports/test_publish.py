"""publish.py: float16 files, their cards, and what the command of a card makes."""

import hashlib
import json
import pathlib
import pickle
import re
import shlex
import shutil
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
from reports.settings import command_line
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
        "90 images for training, 60 for testing",
        "3 baseline" if side == "baseline" else "3 baseline, 1 warm-up, 4 fine-tuning",
        "| licence | CC0 |",
        "2 cores of a Test CPU",
        "| starts from | a baseline trained here |",
    ):
        assert text in card, text
    command = shlex.split(card.splitlines()[-2])
    monkeypatch.chdir(tmp_path)
    assert command[:2] == ["python", "test.py"]
    assert f"{100 * found['top1']:.2f}" in answer(test_py, monkeypatch, capsys, *command[2:])
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
    "train_cifar.py --trained_param 'my file.pkl' --no-compile --search_target_rate 0.333333333",
    "train_cifar.py --trained_param=-x.pkl --learning_rate 0.0123456789",
    "train_imagenet.py --input_size 64 --val_labels labels.txt --gpu_id 0 1",
    "train_imagenet.py --batch_size 512 --baseline_batch_size 80",
    "train_imagenet.py --batch_size 96 --learning_rate 0.07",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_makes_the_same_run(command):
    name, *flags = shlex.split(command)
    program = train_cifar if name == "train_cifar.py" else train_imagenet
    of = lambda words: described(program.parse(words), "a baseline trained here", 1)
    line = command_line(program.__name__, of(flags), of([]))
    python, found, *words = shlex.split(line)
    assert (python, found) == ("python", name) and len(words) == len(flags)
    assert of(words) == of(flags)


@pytest.mark.long
@pytest.mark.parametrize(
    "change, flags, said",
    [
        (None, ["--out", "missing"], "--out missing is no folder; make it, or choose another"),
        ("trained_param.pkl", [], "has lost its pruned network; start its command again"),
        ("result.json", [], "is not finished; start its command again to finish it"),
        ("baseline_param.pkl", ["--network", "baseline"], "has trained no baseline, or"),
        ("config.json", [], "holds no run (no config.json)"),
        (None, ["--data_path", "x"], "DIGITS needs no files"),
        ({"data": "0"}, [], "--data_path holds other data than the run's; choose another"),
        ({"arch": "VGG"}, [], "config.json is of VGG on DIGITS, which this program does not know"),
        ({"files": {"size": 3}}, [], "config.json was not written by this program"),
        ({"start": "model 0123"}, [], "share its pruned.keras instead"),
    ],
)
def test_what_cannot_be_published(run, tmp_path, monkeypatch, capsys, change, flags, said):
    folder = pathlib.Path(run)
    if isinstance(change, dict):
        config = json.loads((folder / "config.json").read_text())
        config["options"] |= change
        (folder / "config.json").write_text(json.dumps(config))
    elif change:
        (folder / change).unlink()
    line = answer(publish, monkeypatch, capsys, run, "--out", tmp_path / "out", *flags, code=2)
    assert said in line and len(line.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.long
def test_nothing_else_is_replaced(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "out" / "ResNet-8_DIGITS-45.md").mkdir()
    flags = run, "--out", tmp_path / "out", "--overwrite"
    assert "-45.md exists; choose" in answer(publish, monkeypatch, capsys, *flags, code=2)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ResNet-8_DIGITS-45.md"]


@pytest.mark.long
def test_a_run_without_fine_tuning_and_records(run, tmp_path, monkeypatch, capsys):
    """Its result is the extracted network."""
    folder = pathlib.Path(run)
    config = json.loads((folder / "config.json").read_text())
    config["options"]["fine_tuning"]["epochs"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / STAGES["fine_tuning"], folder / STAGES["extraction"])
    for name in (STAGES["fine_tuning"], "search.jsonl", "training.jsonl"):
        (folder / name).unlink()
    card = answer(publish, monkeypatch, capsys, run, "--out", tmp_path / "out")
    assert "--train_epoch 0" in card and "| epochs |" not in card


@pytest.mark.long
def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def full(path, *_):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("reports.publishing.whole_file", full)
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
