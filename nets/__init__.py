"""The networks by name. Nothing here imports TensorFlow until a network is built."""

import functools
import importlib

BUILDERS = {
    "ResNet-20": ("nets.resnet", "CifarResNet", {"blocks": 3}),
    "ResNet-56": ("nets.resnet", "CifarResNet", {"blocks": 9}),
    "ResNet-18": ("nets.resnet", "ImageNetResNet", {"blocks": (2, 2, 2, 2)}),
    "ResNet-34": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3)}),
    "ResNet-50": ("nets.resnet", "ImageNetResNet", {"blocks": (3, 4, 6, 3), "bottlenecks": True}),
}
CIFAR, IMAGENET = ("ResNet-20", "ResNet-56"), ("ResNet-18", "ResNet-34", "ResNet-50")  # what they are for
PADDINGS = ("SAME", "symmetric")  # of what has a stride: TensorFlow's, bottom and right first; PyTorch's, all sides alike


def build_network(arch, classes, input_size, parameters=None, origin="the parameter file", seed=0, padding="SAME"):
    """The network `arch` for images [B, input_size, input_size, 3], logits float32 [B, classes].

    `parameters` (dict name -> float32 array, see utils.read_parameters) gives values and shapes, so that a pruned file builds
    the pruned network; without it the network has its full width and is initialised from `seed`. `padding`, of PADDINGS, is
    what the file was trained with, and says so in its meta. Raises UserError naming the first array in which `parameters` and
    `arch` differ, or an unknown padding; `origin` is what the message calls the file.
    """
    from nets.initial import Arrays
    from utils import UserError

    if padding not in PADDINGS:
        raise UserError(f"{origin} was saved for padding {str(padding)[:50]!r}, not {' or '.join(PADDINGS)}")
    module, name, options = BUILDERS[arch]
    builder = getattr(importlib.import_module(module), name)
    arrays = Arrays(parameters, origin=origin, arch=arch, seed=seed)
    network = builder(arch, classes, input_size, arrays, padding=padding, **options)
    arrays.check_all_taken()
    return network


@functools.cache
def unpruned_cost(arch, classes, input_size):
    """(FLOPs, parameters) of `arch` at full width."""
    return build_network(arch, classes, input_size).cost()
