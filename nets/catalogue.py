"""The names of networks, and the class and options that build each one (METHOD 1).

A name decides everything about a network except the number of classes and the image size, which
come from the data, and its variant: padding and width multiplier, which parameter files contain
(`variant_of`). MobileNet-v2 has two names because its strides on small images differ. The arrays
are the same, but a file of one network does not fit the other.
"""

import re
import typing

# arch -> (module, class, options)
BUILDERS: dict[str, tuple[str, str, dict[str, typing.Any]]] = {
    "ResNet-8": ("nets.resnet", "CifarResNet", {"blocks": 1}),  # for trying things out
    "ResNet-20": ("nets.resnet", "CifarResNet", {"blocks": 3}),
    "ResNet-56": ("nets.resnet", "CifarResNet", {"blocks": 9}),
    "ResNet-18": ("nets.resnet", "ImageNetResNet", {"blocks": (2, 2, 2, 2)}),
    "ResNet-34": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3)}),
    "ResNet-50": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3), "bottlenecks": True}),
    "MobileNet-v2": ("nets.mobilenet_v2", "MobileNetV2", {"strides": (1, 1, 1, 2, 2, 1, 2, 1)}),
    "MobileNet-v2-ImageNet": (
        "nets.mobilenet_v2",
        "MobileNetV2",
        {"strides": (2, 1, 2, 2, 2, 1, 2, 1)},
    ),
}
# The networks for each kind of data: images of 32x32, and ImageNet's.
CIFAR = ("ResNet-8", "ResNet-20", "ResNet-56", "MobileNet-v2")
IMAGENET = ("ResNet-18", "ResNet-34", "ResNet-50", "MobileNet-v2-ImageNet")
# Padding of layers with a stride. SAME: TensorFlow's, bottom and right first (METHOD 1). symmetric:
# PyTorch's, the same on all sides.
PADDINGS = ("SAME", "symmetric")
WIDEST = 16  # the largest width multiplier
# How the names of arrays of these networks end.
PARAMETER = re.compile(r"/(kernel|biases|gamma|beta|moving_mean|moving_variance):0$")

# METHOD 8: mean and standard deviation of pixels (0..255) that the networks of a data set expect,
# in the channel order of the array. The published CIFAR triples are the statistics of the data in
# reverse channel order; a network absorbs the difference, and published checkpoints expect them.
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR10": ((113.9, 123.0, 125.3), (66.7, 62.1, 63.0)),
    "CIFAR100": ((112.0, 124.0, 129.0), (70.0, 65.0, 68.0)),
    "DIGITS": ((77.7,) * 3, (95.9,) * 3),
    "ImageNet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def file_stem(arch, dataset, width=None):
    """The name of a published file without its ending: ARCH_DATASET, or ARCH-WIDTH_DATASET for a
    width multiplier other than 1.
    """
    return f"{arch}{'' if width in (None, 1) else f'-{width:g}'}_{dataset}"
