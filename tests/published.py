"""What tests/data/published_resnet20.npz was recorded with: the published implementation
(TensorFlow 2.8, CPU, float32) on a ResNet-20 whose parameters and inputs come from seeds, so that
they can be made here again.

Every array depends on its own name, never on the order in which arrays are made.
"""

import pathlib
import zlib

import numpy as np

MEAN, STD = np.array([113.9, 123.0, 125.3]), np.array([66.7, 62.1, 63.0])


def figures():
    with np.load(pathlib.Path(__file__).parent / "data" / "published_resnet20.npz") as archive:
        return dict(archive)


def parameter(name, shape):
    """One parameter array by its published name, float32 of `shape`."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.split("/")[-1].split(":")[0]
    if kind == "kernel":
        value = rng.standard_normal(shape) * (
            np.sqrt(2.0 / (shape[0] * shape[1] * shape[3])) if len(shape) == 4 else 0.1
        )
    elif kind in ("gamma", "moving_variance"):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    return value.astype(np.float32)


def normalise(images):
    return ((images.astype(np.float32) - MEAN) / STD).astype(np.float32)


def validation():
    """images float32 [64, 32, 32, 3], labels int64 [64], knowledge float32 [64, 10]."""
    images = normalise(np.random.RandomState(0).randint(0, 256, [64, 32, 32, 3]))
    return (
        images,
        np.arange(64) % 10,
        np.random.RandomState(1).standard_normal([64, 10]).astype(np.float32),
    )


def distillation():
    """views float32 [8, 2, 32, 32, 3], labels int64 [8], rows of the memory bank float32 [8, 10,
    5].
    """
    views = normalise(np.random.RandomState(2).randint(0, 256, [8, 2, 32, 32, 3]))
    bank = np.random.RandomState(3).standard_normal([8, 10, 5]).astype(np.float32) * 2
    bank[..., 1] = bank[..., 0] + 0.05 * bank[..., 1]  # close to teacher 0: it counts
    return views, np.arange(8) % 10, bank
