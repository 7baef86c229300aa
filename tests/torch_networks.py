"""State dicts of PyTorch's networks as torchvision names them, random, and the images of
tests/data/torch_networks.npz.

Every array depends on its own name alone, so that the same ones come about with and without
PyTorch.
"""

import pathlib
import zlib

import numpy as np

# "NETWORK SIZE" -> logits float32 [2, CLASSES]
RECORD = pathlib.Path(__file__).parent / "data" / "torch_networks.npz"
BLOCKS = {"ResNet-18": (2, 2, 2, 2), "ResNet-34": (3, 4, 6, 3), "ResNet-50": (3, 4, 6, 3)}
# of the MobileNet-v2 of each width multiplier: stem, stages, last convolution; as torchvision has
# them, and timm
WIDTHS = {
    "MobileNet-v2 1.0": (32, 16, 24, 32, 64, 96, 160, 320, 1280),
    "MobileNet-v2 0.25": (8, 8, 8, 8, 16, 24, 40, 80, 1280),
    "MobileNet-v2 0.33": (16, 8, 8, 16, 24, 32, 56, 104, 1280),
    "MobileNet-v2 0.35": (16, 8, 8, 16, 24, 32, 56, 112, 1280),
    "MobileNet-v2 0.5": (16, 8, 16, 16, 32, 48, 80, 160, 1280),
    "MobileNet-v2 0.75": (24, 16, 24, 24, 48, 72, 120, 240, 1280),
    "MobileNet-v2 1.3": (40, 24, 32, 40, 80, 128, 208, 416, 1664),
    "MobileNet-v2 1.4": (48, 24, 32, 48, 88, 136, 224, 448, 1792),
}
REPEATS = (1, 2, 3, 4, 3, 3, 1)  # blocks in the stages of MobileNet-v2
CLASSES = 10
SIZES = (64, 97)  # at odd sizes both paddings are the same
RECORDED = [
    *((network, size) for network in (*BLOCKS, "MobileNet-v2 1.0") for size in SIZES),
    ("MobileNet-v2 0.25", 64),
]


def shapes(network, classes=CLASSES):
    """dict name -> shape of every array of the state dict, in PyTorch's layout."""
    return (
        resnet_shapes(network, classes)
        if network in BLOCKS
        else mobilenet_shapes(WIDTHS[network], classes)
    )


def conv(name, filters, read, size):
    return {f"{name}.weight": (filters, read, size, size)}


def bn(name, filters):
    vectors = {
        f"{name}.{part}": (filters,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return vectors | {f"{name}.num_batches_tracked": ()}


def resnet_shapes(arch, classes):
    found, channels = conv("conv1", 64, 3, 7) | bn("bn1", 64), 64
    for stage, count in enumerate(BLOCKS[arch], 1):
        width = 32 << stage
        out = 4 * width if arch == "ResNet-50" else width
        for block in range(count):
            name = f"layer{stage}.{block}"
            kernels = (
                [(width, 1), (width, 3), (out, 1)]
                if arch == "ResNet-50"
                else [(width, 3), (width, 3)]
            )
            read = channels
            for n, (filters, size) in enumerate(kernels, 1):
                found |= conv(f"{name}.conv{n}", filters, read, size) | bn(f"{name}.bn{n}", filters)
                read = filters
            if channels != out:
                found |= conv(f"{name}.downsample.0", out, channels, 1) | bn(
                    f"{name}.downsample.1", out
                )
            channels = out
    return found | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def mobilenet_shapes(widths, classes):
    stem, *stages, last = widths
    found, read, number = conv("features.0.0", stem, 3, 3) | bn("features.0.1", stem), stem, 0
    for stage, (width, count) in enumerate(zip(stages, REPEATS)):
        for _ in range(count):
            number += 1
            name, inner = f"features.{number}.conv", 6 * read if stage else read
            expansion = (
                conv(f"{name}.0.0", inner, read, 1) | bn(f"{name}.0.1", inner) if stage else {}
            )
            n = len(expansion) > 0
            found |= expansion | conv(f"{name}.{n:d}.0", inner, 1, 3) | bn(f"{name}.{n:d}.1", inner)
            found |= conv(f"{name}.{n + 1}", width, inner, 1) | bn(f"{name}.{n + 2}", width)
            read = width
    found |= conv("features.18.0", last, read, 1) | bn("features.18.1", last)
    return found | {"classifier.1.weight": (classes, last), "classifier.1.bias": (classes,)}


def array(name, shape):
    """float32, int64 for a counter; of a size that keeps logits around 1."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if not shape:
        return np.array(1000, np.int64)
    if len(shape) > 1:
        value = rng.standard_normal(shape) * np.sqrt(
            (0.1 if len(shape) == 2 else 2) / np.prod(shape[1:])
        )
    elif name.endswith(("running_var", ".weight")):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.standard_normal(shape) * 0.1
    if name.endswith(("bn2.weight", "bn3.weight")):
        value *= 0.4  # what blocks add would otherwise double from block to block
    return value.astype(np.float32)


def state_dict(network, classes=CLASSES):
    return {name: array(name, shape) for name, shape in shapes(network, classes).items()}


def images(size):
    """float32 [2, size, size, 3]."""
    return np.random.RandomState(size).standard_normal((2, size, size, 3)).astype(np.float32)
