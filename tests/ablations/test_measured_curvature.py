"""Condition numbers of what searches have found: when they are known, measured anew, or refused."""

import dataclasses
import os

import numpy as np
import pytest
import tiny

import train_cifar
from ablations.curvature import (
    check,
    is_measured,
    known_curvature,
    measure_condition_number,
)
from analysis.options import CurvatureOptions, HessianOptions, ImageOptions
from analysis.setting import Setting
from dataloader import digits
from engine.run_files import STAGES
from nets.parameters import write_parameters
from utils import UserError, digest

ASKED = CurvatureOptions(
    ImageOptions(20, "train", 0), HessianOptions("kernels", 1, 1e-2, 4, 0, 0, 0, 0.0), 16
)
CHANGES = {
    "images": dict(image=dataclasses.replace(ASKED.image, images=30)),
    "split": dict(image=dataclasses.replace(ASKED.image, split="test")),
    "image seed": dict(image=dataclasses.replace(ASKED.image, seed=1)),
    "arrays": dict(hessian=dataclasses.replace(ASKED.hessian, hessian_over="all")),
    "tolerance": dict(hessian=dataclasses.replace(ASKED.hessian, tolerance=0.5)),
    "iterations": dict(hessian=dataclasses.replace(ASKED.hessian, iterations=3)),
    "start seed": dict(hessian=dataclasses.replace(ASKED.hessian, seed=1)),
}


class Toy:
    """A Hessian without TensorFlow: a diagonal that follows from the network."""

    size = 12

    def __init__(self, network):
        seed = int(digest(network.parameters()), 16)
        self.diagonal = np.random.default_rng(seed).standard_normal(self.size)

    def loss(self):
        return 0.5

    def product(self, vector):
        return self.diagonal * vector


@pytest.fixture(autouse=True)
def hasty(request, monkeypatch):
    """300 images of DIGITS for training, 60 for testing; no waiting for the disk; a Toy, but in
    long tests.
    """
    x_train, y_train, x_test, y_test = digits.load_digits()
    few = x_train[:300], y_train[:300], x_test[:60], y_test[:60]
    monkeypatch.setattr(digits, "load_digits", lambda: few)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    if not request.node.get_closest_marker("long"):
        monkeypatch.setattr(Setting, "hessian", lambda self, network, over: Toy(network))


@pytest.fixture
def folder(tmp_path):
    """A run folder whose search has found a network."""
    found(tmp_path, 2)
    return str(tmp_path)


def found(folder, filters):
    path = os.path.join(folder, STAGES["extraction"])
    write_parameters(path, tiny.resnet_8(filters).parameters(), {})


def options(folder, *flags):
    usual = ("--arch", "ResNet-8", "--dataset", "DIGITS", "--train_path", folder)
    return train_cifar.parse([*usual, *flags])


def measured(folder, asked=ASKED, *flags):
    """The condition number, after measuring it."""
    measure_condition_number(folder, options(folder, *flags), asked)
    assert is_measured(folder, asked)
    return known_curvature(folder)["condition_number"]


def not_again(monkeypatch):
    def computed(*_):
        raise AssertionError("it was measured before")

    monkeypatch.setattr(Toy, "product", computed)


def test_nothing_is_known_before_it_is_measured(folder):
    assert not is_measured(folder, ASKED) and known_curvature(folder) is None
    measured(folder)
    os.unlink(os.path.join(folder, STAGES["extraction"]))
    assert not is_measured(folder, ASKED) and known_curvature(folder) is None


def test_it_is_measured_once(folder, monkeypatch):
    value = measured(folder)
    assert value > 0
    not_again(monkeypatch)
    assert measured(folder) == value
    # The number of images per batch changes no result.
    assert measured(folder, dataclasses.replace(ASKED, batch_size=3)) == value


def test_another_network_is_measured_anew(folder):
    """A search that was done again has found it; what its folder held is stale."""
    former = measured(folder)
    found(folder, 3)
    assert not is_measured(folder, ASKED) and known_curvature(folder) is None
    assert measured(folder) != former
    found(folder, 2)
    assert is_measured(folder, ASKED) and known_curvature(folder)["condition_number"] == former


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_and_measured_on_request(folder, change):
    asked = dataclasses.replace(ASKED, **CHANGES[change])
    former = measured(folder)
    assert not is_measured(folder, asked)
    with pytest.raises(UserError, match=r"--train_path .*analysis holds a hessian analysis with"):
        measure_condition_number(folder, options(folder), asked)
    assert is_measured(folder, ASKED) and known_curvature(folder)["condition_number"] == former
    measured(folder, asked, "--overwrite")
    assert not is_measured(folder, ASKED)


def test_an_interrupted_measurement_is_resumed(folder, tmp_path, monkeypatch):
    product, calls = Toy.product, []

    def counted(self, vector):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return product(self, vector)

    with monkeypatch.context() as patches:
        patches.setattr(Toy, "product", counted)
        with pytest.raises(KeyboardInterrupt):
            measured(folder)
        assert not is_measured(folder, ASKED)
        value = measured(folder)
    assert len(calls) == 3 + 2 + 2, "two iterations were there; two residuals"
    (tmp_path / "fresh").mkdir()
    found(tmp_path / "fresh", 2)
    assert measured(str(tmp_path / "fresh")) == value


@pytest.mark.long
def test_precision_and_parts_of_the_run_do_not_matter(folder, tmp_path):
    """Curvature in half precision would be another figure; 16 images have no 3 equal parts."""
    (tmp_path / "other").mkdir()
    found(tmp_path / "other", 2)
    flags = "--precision", "bfloat16", "--accum", "3"
    assert measured(str(tmp_path / "other"), ASKED, *flags) == measured(folder)


@pytest.mark.parametrize(
    "asked, flags, cluster, said",
    [
        (ASKED, (), "two", "TF_CONFIG: an analysis runs on one machine"),
        (dict(image=ImageOptions(301, "train", 0)), (), "", "--images 301: there are only 300"),
        (dict(batch_size=5), ("--cpu_replicas", "2"), "", "--image_batch_size: a batch of 5"),
    ],
    ids=["machines", "images", "batch"],
)
def test_mistakes_are_found_before_any_run(folder, monkeypatch, asked, flags, cluster, said):
    if cluster:
        workers = '{"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}'
        monkeypatch.setenv("TF_CONFIG", f'{{"cluster": {workers}}}')
    asked = ASKED if asked is ASKED else dataclasses.replace(ASKED, **asked)
    with pytest.raises(UserError, match=said):
        check(options(folder, *flags), asked)
    assert os.listdir(folder) == [STAGES["extraction"]], "nothing is written"
    if not cluster:
        check(options(folder), ASKED)


def test_a_damaged_result_is_named(folder):
    measured(folder)
    results = os.path.join(folder, "analysis", "hessian")
    (name,) = (name for name in os.listdir(results) if name.startswith("test_"))
    with open(os.path.join(results, name), "w") as file:
        file.write('{"digest": 5}')
    with pytest.raises(UserError, match=f"{name} was not written by this program"):
        is_measured(folder, ASKED)
