"""The networks by name. Nothing here imports TensorFlow until a network is built.

A name says all of a network but what the data say (classes, size of the images), and its variant: padding and width multiplier,
which parameter files tell (`variant_of`). So MobileNet-v2 has two names. Its strides on small images are others, with the same
arrays, and a file of the one is none of the other.
"""

import functools
import importlib

BUILDERS = {
    "ResNet-20": ("nets.resnet", "CifarResNet", {"blocks": 3}),
    "ResNet-56": ("nets.resnet", "CifarResNet", {"blocks": 9}),
    "ResNet-18": ("nets.resnet", "ImageNetResNet", {"blocks": (2, 2, 2, 2)}),
    "ResNet-34": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3)}),
    "ResNet-50": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3), "bottlenecks": True}),
    "MobileNet-v2": ("nets.mobilenet_v2", "MobileNetV2", {"strides": (1, 1, 1, 2, 2, 1, 2, 1)}),
    "MobileNet-v2-ImageNet": ("nets.mobilenet_v2", "MobileNetV2", {"strides": (2, 1, 2, 2, 2, 1, 2, 1)}),
}
CIFAR = ("ResNet-20", "ResNet-56", "MobileNet-v2")  # what they are for
IMAGENET = ("ResNet-18", "ResNet-34", "ResNet-50", "MobileNet-v2-ImageNet")
PADDINGS = ("SAME", "symmetric")  # of what has a stride: TensorFlow's, bottom and right first; PyTorch's, all sides alike
WIDEST = 16  # of width multipliers


def build_network(
    arch, classes, input_size, parameters=None, origin="the parameter file", seed=0, padding="SAME", width_multiplier=1.0
):
    """The network `arch` for images [B, input_size, input_size, 3], logits float32 [B, classes].

    `parameters` (dict name -> float32 array, see utils.read_parameters) gives values and shapes, so that a pruned file builds
    the pruned network; without it the network has its full width and is initialised from `seed`. `padding`, of PADDINGS, is
    what the file was trained with, and says so in its meta, as of `width_multiplier`, which scales all widths (Network.scaled):
    no file is wider than that, and where a MobileNet has shortcuts depends on it. Raises UserError naming the first array in
    which `parameters` and `arch` differ, or an unknown padding; `origin` is what the message calls the file.
    """
    from nets.initial import Arrays
    from utils import UserError

    if padding not in PADDINGS:
        raise UserError(f"{origin} was saved for padding {str(padding)[:50]!r}, not {' or '.join(PADDINGS)}")
    module, name, options = BUILDERS[arch]
    builder = getattr(importlib.import_module(module), name)
    called = arch if width_multiplier == 1 else f"{arch} of width {width_multiplier:g}"
    arrays = Arrays(parameters, origin=origin, arch=called, seed=seed)
    network = builder(arch, classes, input_size, arrays, padding=padding, width_multiplier=width_multiplier, **options)
    arrays.check_all_taken()
    return network


def variant_of(meta, path, width_multiplier=None):
    """dict of the padding and the width_multiplier with which build_network builds the network in the parameter file at `path`.

    meta: what the file says of itself; width_multiplier: the one asked for, None for the file's, or 1 where it says nothing.
    Raises UserError where the two differ, or the file's is none.
    """
    from utils import UserError, check_saved_for

    written = meta.get("width_multiplier", 1.0)
    if type(written) not in (int, float) or not 0 < written <= WIDEST:
        raise UserError(f"{path} was saved for width multiplier {str(written)[:50]!r}, not one above 0 and at most {WIDEST}")
    if width_multiplier is not None:
        check_saved_for(path, meta, "width_multiplier", width_multiplier)
        written = width_multiplier
    return {"padding": meta.get("padding", "SAME"), "width_multiplier": float(written)}


@functools.cache
def unpruned_cost(arch, classes, input_size, width_multiplier=1.0):
    """(FLOPs, parameters) of `arch` with all its filters."""
    return build_network(arch, classes, input_size, width_multiplier=width_multiplier).cost()
