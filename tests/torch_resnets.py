"""State dicts of PyTorch's ResNets as torchvision names them, random, and the images of tests/data/torch_resnets.npz.

Every array depends on its own name alone, so that the same ones come about with and without PyTorch.
"""

import pathlib
import zlib

import numpy as np

RECORD = pathlib.Path(__file__).parent / "data" / "torch_resnets.npz"  # "ARCH SIZE" -> logits float32 [2, CLASSES]
BLOCKS = {"ResNet-18": (2, 2, 2, 2), "ResNet-34": (3, 4, 6, 3), "ResNet-50": (3, 4, 6, 3)}
CLASSES = 10
SIZES = (64, 97)  # at odd sizes both paddings are the same


def shapes(arch, classes=CLASSES):
    """dict name -> shape of every array of the state dict, in PyTorch's layout."""
    found, channels = {}, 64

    def conv(name, filters, read, size):
        found[f"{name}.weight"] = (filters, read, size, size)

    def bn(name, filters):
        found.update({f"{name}.{part}": (filters,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    bn("bn1", 64)
    for stage, count in enumerate(BLOCKS[arch], 1):
        width = 32 << stage
        out = 4 * width if arch == "ResNet-50" else width
        for block in range(count):
            name = f"layer{stage}.{block}"
            kernels = [(width, 1), (width, 3), (out, 1)] if arch == "ResNet-50" else [(width, 3), (width, 3)]
            read = channels
            for n, (filters, size) in enumerate(kernels, 1):
                conv(f"{name}.conv{n}", filters, read, size)
                bn(f"{name}.bn{n}", filters)
                read = filters
            if channels != out:
                conv(f"{name}.downsample.0", out, channels, 1)
                bn(f"{name}.downsample.1", out)
            channels = out
    return found | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def array(name, shape):
    """float32, int64 for a counter; of a size that keeps logits around 1."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if not shape:
        return np.array(1000, np.int64)
    if len(shape) > 1:
        value = rng.standard_normal(shape) * np.sqrt((0.1 if name == "fc.weight" else 2) / np.prod(shape[1:]))
    elif name.endswith(("running_var", ".weight")):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    if name.endswith(("bn2.weight", "bn3.weight")):
        value *= 0.4  # what blocks add would otherwise double from block to block
    return value.astype(np.float32)


def state_dict(arch, classes=CLASSES):
    return {name: array(name, shape) for name, shape in shapes(arch, classes).items()}


def images(size):
    """float32 [2, size, size, 3]."""
    return np.random.RandomState(size).standard_normal((2, size, size, 3)).astype(np.float32)
