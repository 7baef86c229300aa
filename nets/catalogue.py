"""The names of networks, and what each builds.

A name says all of a network but what the data say (classes, size of the images), and its variant:
padding and width multiplier, which parameter files tell (`variant_of`). So MobileNet-v2 has two
names. Its strides on small images are others, with the same arrays, and a file of the one is none
of the other.
"""

BUILDERS = {
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
CIFAR = ("ResNet-20", "ResNet-56", "MobileNet-v2")  # what they are for
IMAGENET = ("ResNet-18", "ResNet-34", "ResNet-50", "MobileNet-v2-ImageNet")
PADDINGS = (
    "SAME",
    "symmetric",
)  # of what has a stride: TensorFlow's, bottom and right first; PyTorch's, all sides alike
WIDEST = 16  # of width multipliers

# Mean and standard deviation of the pixels (0..255) that the networks of a data set expect, for the
# channels as they lie in the array. The published triples of CIFAR are the statistics of the data
# read the other way round; a network absorbs the difference, and published checkpoints expect them.
PIXELS = {
    "CIFAR10": ((113.9, 123.0, 125.3), (66.7, 62.1, 63.0)),
    "CIFAR100": ((112.0, 124.0, 129.0), (70.0, 65.0, 68.0)),
    "DIGITS": ((77.7,) * 3, (95.9,) * 3),
    "ImageNet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
