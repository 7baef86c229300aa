"""PyTorch weights, as torchvision and timm save them, under our names and in our layout.

Networks are recognised by names and shapes. These do not contain strides, activations and pooling,
so a network that differs from torchvision's in these alone is taken for torchvision's. The modules
resnets and mobilenets describe the families of networks.
"""

import numpy as np

from files.guards import NUMBERS
from nets.foreign.mobilenets import TimmMobileNetV2, TorchvisionMobileNetV2
from nets.foreign.resnets import ResNet

FAMILIES = (ResNet, TorchvisionMobileNetV2, TimmMobileNetV2)
COUNTERS = ("num_batches_tracked", "n_averaged")  # count batches, and averaged networks
# kind of layer -> dict their name -> (our name, their axes)
ARRAYS = {
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
# their axes -> function of their array to ours
LAYOUT = {
    "OIHW": lambda array: array.transpose(2, 3, 1, 0),
    "CMHW": lambda array: array.transpose(2, 3, 0, 1),
    "OI": lambda array: array.T,
    "O": lambda array: array[None],
    "C": lambda array: array[None, None, None],
}


def translated(content):
    """(dict our name -> array, meta) of the first known network in `content`; None if none is.

    Outer dicts are searched before inner ones, in the order of the file. The arrays are views. meta
    has arch and padding, and width_multiplier if the widths determine it.

    content: a state dict, or dicts around one.

    Raises ValueError for a network of a known family that is not one of ours, naming an array that
    is too much or missing.
    """
    if "conv/kernel:0" in content:
        return None
    for one in _dicts(content):
        arrays = arrays_of_numbers(one)
        found = []
        for family in FAMILIES:
            found += [(family, prefix) for prefix in _prefixes(arrays, family.LANDMARK)]
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
            others = [name for name in arrays if not name.startswith(prefix)]
            return _translated(family, inside, others)
    return None


def arrays_of_numbers(content):
    """The entries of a dict that are arrays of numbers under a name: dict name -> array."""
    return {
        name: array
        for name, array in content.items()
        if isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS
    }


def _dicts(content):
    """Yields `content` and all dicts in it, outer ones first, each one once."""
    found, seen = [content], {id(content)}
    for one in found:
        yield one
        for value in one.values():
            if isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                found.append(value)


def _prefixes(names, landmark):
    """The prefixes under which `landmark` is among the names; "" for the name itself."""
    found = [name for name in names if name == landmark or name.endswith("." + landmark)]
    return [name.removesuffix(landmark) for name in found]


def _translated(family, state, others):
    """(dict our name -> array, meta) of a network of `family`, see `translated`.

    state: dict their name, without the prefix, -> array.
    others: names without the prefix, which do not belong to the network.
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
        differs = [f"with {_first(extra)}"] if extra else []
        differs += [f"without {_first(missing)}"] if missing else []
        raise ValueError(f"it is like {network.like}, but {', '.join(differs)}")
    for name, (_, axes) in wanted.items():
        if state[name].ndim != len(axes):
            raise ValueError(f"{name} is {list(state[name].shape)}, expected {len(axes)} axes")
    meta = {"arch": network.arch, "padding": "symmetric"} | network.meta_of_widths(state)
    return {ours: LAYOUT[axes](state[name]) for name, (ours, axes) in wanted.items()}, meta


def _first(names):
    """The first name, and the number of the others, as text."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
