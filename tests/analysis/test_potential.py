"""A study of potential performance is resumed with what it was begun with, or refused.

test_analyze.py has whole studies; here the search and the sub-networks are made by hand.
"""

import sys

import numpy as np
import pytest
from bad_inputs import resnet_8
from runs import history
from test_programs import files_under

import analyze
from analysis import potential
from cli.program import run_program
from dataloader import digits
from utils import write_json

STUDY = (
    "potential --arch ResNet-8 --dataset DIGITS --trained_param param.pkl --train_path study"
    " --search_warmup_epoch 0 --val_per_class 4 --subset_per_class 6 --sub_networks 3"
    " --tuning_images 60 --images 40 --iterations 4"
).split()


@pytest.fixture
def program(tmp_path, monkeypatch, capfd):
    """program(flag, ...) -> (exit code, lines on stderr) of a study, in an empty folder."""
    x_train, y_train, x_test, y_test = digits.load_digits()
    few = x_train[:300], y_train[:300], x_test[:60], y_test[:60]
    monkeypatch.setattr(digits, "load_digits", lambda: few)
    monkeypatch.setattr("gc.collect", lambda: None)
    monkeypatch.setattr(potential, "search", lambda run, supernet: history())
    monkeypatch.setattr(potential, "_entry", pretended)
    monkeypatch.chdir(tmp_path)
    resnet_8(tmp_path / "param.pkl")

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["analyze.py", *STUDY, *flags])
        capfd.readouterr()
        code = run_program(analyze.main, resumable=True)
        return code, capfd.readouterr().err.splitlines()

    return run


def pretended(where, number, member):
    """The figures of a sub-network, made by hand and written where the study's own would be."""
    known = where.folder.read(potential._file(number), potential.ENTRY)
    if known is not None:
        return known
    entry = {"digest": f"{number}", "test_loss": 1.0 / (1 + number), "test_top1": 0.5}
    entry |= {"val_loss": 0.5 + number, "condition_number": 0.1 * number}
    write_json(where.folder.file(potential._file(number)), entry)
    return entry


@pytest.mark.long
def test_the_same_study_is_read(program, tmp_path):
    assert program() == (0, [])
    before = files_under(tmp_path / "study" / "potential")
    assert {"sub-network-002.json", "correlations.json", "potential.png"} <= {
        path.rpartition("/")[2] for path in before
    }
    assert program() == (0, [])
    assert files_under(tmp_path / "study" / "potential") == before


@pytest.mark.long
@pytest.mark.parametrize(
    "flags, differ",
    [
        ("--train_epoch 2", "a run with other options (fine_tuning.epochs: 1 there, 2 asked for)"),
        ("--learning_rate 0.5", "a run with other options (fine_tuning.learning_rate:"),
        ("--tuning_images 50", "a potential analysis with other options (tuning_images: 60 there,"),
        ("--image_seed 7", "a potential analysis with other options (image.seed: 0 there, 7 asked"),
        ("--tolerance 0.5", "a potential analysis with other options (hessian.tolerance: 0.01"),
    ],
)
def test_other_flags_are_refused(program, tmp_path, flags, differ):
    program()
    refused(program, tmp_path, flags.split(), differ)


@pytest.mark.long
def test_other_data_are_refused(program, tmp_path, monkeypatch):
    program()
    x_train, *others = digits.load_digits()
    x_train = np.copy(x_train)
    x_train[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(digits, "load_digits", lambda: (x_train, *others))
    refused(program, tmp_path, [], "a run with other options (data: ")


@pytest.mark.long
def test_other_sub_networks_are_refused(program, tmp_path, monkeypatch):
    """Results are kept by number: a search that found others must not find them."""
    program()
    monkeypatch.setattr(potential, "search", lambda run, supernet: history()[::-1])
    differ = "a potential analysis with other options (sub_networks: "
    refused(program, tmp_path, [], differ)


def refused(program, folder, flags, differ):
    """One line says what differs, and no file has changed."""
    before = files_under(folder)
    code, lines = program(*flags)
    assert code == 2 and len(lines) == 1, lines
    assert lines[0].startswith(f"analyze.py: error: --train_path study holds {differ}")
    assert lines[0].endswith("; choose another folder, or --overwrite")
    assert files_under(folder) == before
