"""What the search asks of D_val depends on the sub-network alone, not on what was asked before."""

import dataclasses

import numpy as np
import pytest

from dataloader import AUGMENTATIONS
from dataloader.augment import normalise
from ekg.validation import Validation
from op_utils import LossScale

pytestmark = pytest.mark.long


def test_scores_in_float16_do_not_depend_on_those_before(runtime, resnet_8, monkeypatch):
    """A scale that once had to be halved would stay so in a long search, and be whole again in one
    that goes on.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), np.arange(12) % 10
    prepare = lambda batch: normalise(batch["images"], AUGMENTATIONS["CIFAR10"])
    runtime = dataclasses.replace(runtime, precision="float16")
    validation = Validation(resnet_8, runtime, prepare, images, labels, 6)
    masks, knowledge = (
        np.ones(sum(resnet_8.gate_sizes), np.float32),
        rng.standard_normal((12, 10)).astype(np.float32),
    )
    before = validation.importance(masks, knowledge)
    steps = validation.scoring
    monkeypatch.setattr(LossScale, "START", 2.0**40)  # overflows
    found = validation.importance(masks, knowledge)
    assert np.corrcoef(found, before)[0, 1] > 0.99
    monkeypatch.undo()
    np.testing.assert_array_equal(validation.importance(masks, knowledge), before)
    assert validation.scoring is steps and steps.traces == 1
