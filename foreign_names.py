"""Weights of PyTorch's ResNets, as torchvision and timm save them, under our names and in our layout.

Recognised by names and shapes, which say nothing of where strides are, of activations and of pooling: a network that differs
from torchvision's in these alone is taken for it.
"""

import collections
import re

import numpy as np

from array_files import NUMBERS
from nets import BUILDERS

LANDMARK = "layer1.0.conv1.weight"  # every ResNet of PyTorch has one, behind a prefix or not
BLOCK = re.compile(r"layer(\d{1,3})\.(\d{1,3})\.conv1\.weight")
COUNTERS = ("num_batches_tracked", "n_averaged")  # count batches, and networks that were averaged
KNOWN = {  # (blocks of each stage, bottlenecks) -> arch
    (options["blocks"], options.get("bottlenecks", False)): arch
    for arch, (_, builder, options) in BUILDERS.items()
    if builder == "ImageNetResNet"
}
ARRAYS = {  # of each kind of layer: their name -> our name, axes of theirs
    "conv": {"weight": ("kernel:0", "OIHW")},
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
    "OI": lambda array: array.T,
    "O": lambda array: array[None],
    "C": lambda array: array[None, None, None],
}


def translated(content):
    """(dict our name -> array, meta) of the first ResNet in `content`, what a file of arrays holds; None if there is none.

    content: a state dict, or dicts around one: outer dicts come before inner ones, else the order is the file's. meta names
    arch and padding. Arrays are views. Raises ValueError for a ResNet that is none of ours, naming what it has or has not.
    """
    if "conv/kernel:0" in content:
        return None
    for one in _dicts(content):
        arrays = {n: a for n, a in one.items() if isinstance(n, str) and isinstance(a, np.ndarray) and a.dtype.kind in NUMBERS}
        prefixes = [n.removesuffix(LANDMARK) for n in arrays if n == LANDMARK or n.endswith("." + LANDMARK)]
        if len(prefixes) > 1:
            raise ValueError(f"it has several ResNets, under {prefixes[0]!r} and {prefixes[1]!r}; save one of them alone")
        if prefixes:
            inside = {n.removeprefix(prefixes[0]): a for n, a in arrays.items() if n.startswith(prefixes[0])}
            return _translated(inside, [name for name in arrays if not name.startswith(prefixes[0])])
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


def _translated(state, others):
    """state: dict their name without prefix -> array; others: names without the prefix, which are none of the network's."""
    places = [tuple(map(int, match.groups())) for match in map(BLOCK.fullmatch, state) if match]
    counts = collections.Counter(stage for stage, _ in places)
    blocks = tuple(counts[stage] for stage in range(1, max(counts) + 1))
    bottlenecks = "layer1.0.conv3.weight" in state
    if (blocks, bottlenecks) not in KNOWN:
        kind = "bottlenecks" if bottlenecks else "basic blocks"
        raise ValueError(f"it is a ResNet of {'-'.join(map(str, blocks))} {kind}, none of {', '.join(KNOWN.values())}")
    arch = KNOWN[blocks, bottlenecks]
    wanted = {
        f"{theirs}.{name}": (f"{ours}/{our_name}", axes)
        for theirs, ours in _layers(blocks, bottlenecks)
        for name, (our_name, axes) in ARRAYS[ours.rpartition("/")[2].rstrip("0123456789")].items()
    }
    extra = [name for name in state if name not in wanted] + others
    extra = [name for name in extra if not name.endswith(COUNTERS)]
    missing = [name for name in wanted if name not in state]
    if extra or missing:
        differs = [f"{word} {_first(names)}" for word, names in (("with", extra), ("without", missing)) if names]
        raise ValueError(f"it is like PyTorch's {arch}, but {', '.join(differs)}")
    for name, (_, axes) in wanted.items():
        if state[name].ndim != len(axes):
            raise ValueError(f"{name} is {list(state[name].shape)}, expected {len(axes)} axes")
    _check_widths(state, arch, blocks, bottlenecks)
    return {ours: LAYOUT[axes](state[name]) for name, (ours, axes) in wanted.items()}, {"arch": arch, "padding": "symmetric"}


def _first(names):
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _layers(blocks, bottlenecks):
    """(their name, our name) of every layer. PyTorch counts a block's convolutions from 1, we so that the last is conv2."""
    yield from (("conv1", "conv"), ("bn1", "bn"), ("fc", "fc"))
    for stage, count in enumerate(blocks):
        for block in range(count):
            theirs, ours = f"layer{stage + 1}.{block}", f"BasicBlock{stage}.{block}"
            for n in range(1, 4 if bottlenecks else 3):
                yield from ((f"{theirs}.{kind}{n}", f"{ours}/{kind}{n - bottlenecks}") for kind in ("conv", "bn"))
            if block == 0 and (stage > 0 or bottlenecks):
                yield from ((f"{theirs}.downsample.0", f"{ours}/conv3"), (f"{theirs}.downsample.1", f"{ours}/bn3"))


def _check_widths(state, arch, blocks, bottlenecks):
    """Refuses what has our names, but is grouped or wider; narrower is pruned. Whether widths meet is found out by building."""
    most = {"conv1.weight": 64}
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"layer{stage + 1}.{block}."
            most |= {f"{name}conv{n}.weight": (64 << stage) * (4 if n == 3 else 1) for n in range(1, 4 if bottlenecks else 3)}
            filters, read = state[name + "conv1.weight"].shape[0], state[name + "conv2.weight"].shape[1]
            if 0 < read < filters and filters % read == 0:
                raise ValueError(f"{name}conv2.weight is grouped: it reads {read} of {filters} channels; {arch} has no groups")
    for name, filters in most.items():
        if state[name].shape[0] > filters:
            raise ValueError(f"{name} has {state[name].shape[0]} filters, that of {arch} {filters}")
