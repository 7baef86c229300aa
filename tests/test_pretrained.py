"""The networks in pretrained/ are the ones on their cards."""

import hashlib
import pathlib
import pickle

import numpy as np
import pytest

from ekg.paper_networks import pretrained
from nets import build_network
from nets.parameters import read_parameters
from train_cifar import parse

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "pretrained"
FILES = sorted(FOLDER.glob("*.pkl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_card_is_that_of_the_file(path):
    card, content = path.with_suffix(".md").read_text(), path.read_bytes()
    assert f"`{path.name}`, float16, {len(content):,} bytes" in card
    assert hashlib.sha256(content).hexdigest() in card
    arrays, meta = read_parameters(str(path))
    network = build_network(meta["arch"], len(arrays["fc/biases:0"][0]), 32, arrays)
    flops, params = network.cost()
    assert f"| {flops:,} multiply" in card and f"| parameters | {params:,} |" in card
    assert "| licence | MIT |" in card and f"pretrained/{path.name}" in card
    for array in pickle.loads(content).values():
        assert isinstance(array, str) or array.dtype == np.float16


def test_a_run_begins_with_the_baseline():
    found = pretrained(parse(["--arch", "ResNet-20", "--dataset", "CIFAR10"]))
    assert found == str(FOLDER / "ResNet-20_CIFAR10.pkl")
