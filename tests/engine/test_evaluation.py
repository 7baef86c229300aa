"""Top-1, top-5 and loss: every image counts once, whatever the batch size."""

import numpy as np
import pytest

from dataloader import AUGMENTATIONS
from dataloader.augment import normalise
from ekg.knowledge import cross_entropy
from engine.evaluation import Evaluator, measure
from nets.gates import Context


@pytest.fixture
def network(resnet_8):
    return resnet_8


def test_measure():
    logits = np.array(
        [[3, 2, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32
    )
    sums = measure(np.array([0, 0, 1, 5]), logits)
    assert (sums["top1"], sums["top5"]) == (1, 2)  # a tie goes to the lower class, as argmax has it
    assert sums["loss"] / 4 == pytest.approx(cross_entropy(np.array([0, 0, 1, 5]), logits))


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_every_image_counts_once(network, runtime, batch_size):
    rng = np.random.default_rng(0)
    augmentation = AUGMENTATIONS["CIFAR10"]
    images, labels = rng.integers(0, 256, (16, 32, 32, 3), np.uint8), rng.integers(0, 10, 16)
    figures = Evaluator(network, runtime, augmentation, images, labels, batch_size)()
    logits = network(normalise(images, augmentation), Context("moving")).numpy()
    assert figures["images"] == 16
    assert figures["top1"] == (logits.argmax(1) == labels).mean()
    assert figures["loss"] == pytest.approx(cross_entropy(labels, logits), rel=1e-4)


def test_batch_statistics_are_those_of_the_batch(network, runtime):
    rng = np.random.default_rng(0)
    augmentation = AUGMENTATIONS["CIFAR10"]
    images, labels = rng.integers(0, 256, (16, 32, 32, 3), np.uint8), rng.integers(0, 10, 16)
    figures = Evaluator(network, runtime, augmentation, images, labels, 16, "batch")()
    logits = network(normalise(images, augmentation), Context("batch")).numpy()
    assert figures["loss"] == pytest.approx(cross_entropy(labels, logits), rel=1e-4)


def test_logits_that_are_not_finite_are_no_answer(network, runtime):
    """No class is better than NaN, so every image would count as right."""
    network.trainable[-1].assign(network.trainable[-1] * np.nan)
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    with pytest.raises(FloatingPointError, match="not finite"):
        Evaluator(network, runtime, AUGMENTATIONS["CIFAR10"], images, labels, 4)()
