"""Images that a small network learns at once: noise around a colour per class."""

import numpy as np


def coloured(count, rng, classes=10, size=32, noise=30):
    """(images uint8 [count, size, size, 3], labels int64 [count]). The colours are always the same.

    rng: numpy Generator, of labels and noise.
    """
    labels = rng.permutation(np.arange(count) % classes)
    colours = np.random.default_rng(1).integers(40, 216, (classes, 1, 1, 3))
    images = np.clip(colours[labels] + rng.normal(0, noise, (count, size, size, 3)), 0, 255)
    return images.astype(np.uint8), labels


def write_coloured(path, train, test):
    """Writes an .npz of so many training and test images like CIFAR-10's; returns its path."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = coloured(count, rng)
    np.savez(path, **arrays)
    return str(path)
