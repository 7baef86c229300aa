"""Weights of PyTorch's networks, as torchvision and timm save them, under our names and in our
layout.

Recognised by names and shapes, which say nothing of where strides are, of activations and of
pooling: a network that differs from torchvision's in these alone is taken for it. What a family of
networks is like, its own module says: resnets, mobilenets.
"""

import numpy as np

from files.guards import NUMBERS
from nets.foreign.mobilenets import TimmMobileNetV2, TorchvisionMobileNetV2
from nets.foreign.resnets import ResNet

FAMILIES = (ResNet, TorchvisionMobileNetV2, TimmMobileNetV2)
COUNTERS = ("num_batches_tracked", "n_averaged")  # count batches, and networks that were averaged
ARRAYS = {  # of each kind of layer: their name -> our name, axes of theirs
    "conv": {"weight": ("kernel:0", "OIHW")},
    "depthwise": {"weight": ("kernel:0", "CMHW")},
    "bn": {
        "weight": ("gamma:0", "C"),
        "bias": ("beta:0", "C"),
        "running_mean": ("moving_mean:0", "C"),
        "running_var": ("moving_variance:0", "C"),
    },
    "fc": {"weight": ("kernel:0", "OI"), "bias": ("biases:0", "O")},
}
LAYOUT = {
    "OIHW": lambda array: array.transpose(2, 3, 1, 0),
    "CMHW": lambda array: array.transpose(2, 3, 0, 1),
    "OI": lambda array: array.T,
    "O": lambda array: array[None],
    "C": lambda array: array[None, None, None],
}


def translated(content):
    """(dict our name -> array, meta) of the first network in `content`, what a file of arrays
    holds; None if there is none.

    content: a state dict, or dicts around one: outer dicts come before inner ones, else the order
    is the file's. meta names arch and padding, and the width_multiplier where widths tell it.
    Arrays are views. Raises ValueError for a network of a family known here that is none of ours,
    naming what it has or has not.
    """
    if "conv/kernel:0" in content:
        return None
    for one in _dicts(content):
        arrays = {
            n: a
            for n, a in one.items()
            if isinstance(n, str) and isinstance(a, np.ndarray) and a.dtype.kind in NUMBERS
        }
        found = [
            (family, prefix) for family in FAMILIES for prefix in _prefixes(arrays, family.LANDMARK)
        ]
        if len(found) > 1:
            kinds = {family.KIND for family, _ in found}
            what = f"{kinds.pop()}s" if len(kinds) == 1 else "networks"
            raise ValueError(
                f"it has several {what}, under {found[0][1]!r} and {found[1][1]!r}; save one of"
                " them alone"
            )
        if found:
            family, prefix = found[0]
            inside = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            return _translated(
                family, inside, [name for name in arrays if not name.startswith(prefix)]
            )
    return None


def _dicts(content):
    """`content` and all dicts in it, outer ones first; each once, however many ways lead to it."""
    found, seen = [content], {id(content)}
    for one in found:
        yield one
        for value in one.values():
            if isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                found.append(value)


def _prefixes(names, landmark):
    return [
        name.removesuffix(landmark)
        for name in names
        if name == landmark or name.endswith("." + landmark)
    ]


def _translated(family, state, others):
    """state: dict their name without prefix -> array; others: names without the prefix, which are
    none of the network's.
    """
    network = family(state)
    wanted = {
        f"{theirs}.{name}": (f"{ours}/{our_name}", axes)
        for theirs, ours, kind in network.layers()
        for name, (our_name, axes) in ARRAYS[kind].items()
    }
    extra = [name for name in state if name not in wanted] + others
    extra = [name for name in extra if not name.endswith(COUNTERS)]
    missing = [name for name in wanted if name not in state]
    if extra or missing:
        differs = [
            f"{word} {_first(names)}"
            for word, names in (("with", extra), ("without", missing))
            if names
        ]
        raise ValueError(f"it is like {network.like}, but {', '.join(differs)}")
    for name, (_, axes) in wanted.items():
        if state[name].ndim != len(axes):
            raise ValueError(f"{name} is {list(state[name].shape)}, expected {len(axes)} axes")
    meta = {"arch": network.arch, "padding": "symmetric"} | network.told_by_widths(state)
    return {ours: LAYOUT[axes](state[name]) for name, (ours, axes) in wanted.items()}, meta


def _first(names):
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
