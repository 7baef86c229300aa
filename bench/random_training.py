"""A training step on random images of CIFAR-10's size, as several benchmarks time it."""

import numpy as np

from dataloader import AUGMENTATIONS, CLASSES

DATASET, SIZE, TEACHERS = "CIFAR10", 32, 5
RATES = {"learning_rate": np.float32(0.01), "weight_decay": np.float32(5e-4)}


def random_set(images, views):
    """A random data set, dict of arrays [images, ...]. For two views it includes a memory bank."""
    classes, rng = CLASSES[DATASET], np.random.default_rng(0)
    data = {
        "images": rng.integers(0, 256, (images, SIZE, SIZE, 3), np.uint8),
        "labels": rng.integers(0, classes, images),
    }
    if views > 1:
        bank = rng.standard_normal((images, classes, TEACHERS), np.float32)
        data["bank"] = bank.astype(np.float16)
    return data


def random_batch(size, views):
    """The arrays for one call of the step: those of random_set, and draws for the augmentation."""
    from dataloader.augment import draw

    return {**random_set(size, views), "draws": draw(np.random.default_rng(0), size, views)}


def random_step(network, runtime, views, tables=None):
    """The step of a baseline for one view, of fine-tuning with the bank for two.

    tables: those of a Feed, or None. Call the step with random_batch and RATES.
    """
    from dataloader.augment import augment
    from ekg.contrastive import contrastive_loss, plain_loss
    from op_utils import Optimizer, training_step

    prepare = lambda batch: augment(
        batch["images"], batch["draws"], AUGMENTATIONS[DATASET], colour=views > 1
    )
    loss = contrastive_loss if views > 1 else plain_loss
    optimizer = Optimizer(network.trainable, runtime)
    return training_step(network, optimizer, runtime, prepare, loss, tables)
