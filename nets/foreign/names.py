"""PyTorch weights, as torchvision, timm and Hugging Face save them, under our names and in our
layout.

Networks are recognised by names and shapes. These do not contain strides, activations and pooling,
so a network that differs from torchvision's in these alone is taken for torchvision's. The modules
resnets and mobilenets describe the families of networks.
"""

import dataclasses

import numpy as np

from files.guards import LARGEST, NUMBERS
from files.pickle_reader import Inert, UnsafePickle
from nets.foreign.mobilenets import TimmMobileNetV2, TorchvisionMobileNetV2
from nets.foreign.resnets import HuggingFaceResNet, ResNet

FAMILIES = (ResNet, HuggingFaceResNet, TorchvisionMobileNetV2, TimmMobileNetV2)
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


class NoSuchKey(ValueError):
    """No network, or more than one, is under the key that was asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A network of a known family in a file.

    Args:
        family: one of FAMILIES.
        entries: of the dict that has it: dict name -> array or pickle_reader.Inert.
        prefix: of the network's names in that dict.
        place: keys of the dicts around it, joined with dots.
    """

    family: type
    entries: dict
    prefix: str
    place: str

    @property
    def key(self):
        """What names it for --trained_key."""
        return ".".join(part for part in (self.place, self.prefix.rstrip(".")) if part)


def translated(content, key=None):
    """(dict our name -> array, meta) of the first known network in `content`; None if none is.

    Outer dicts are searched before inner ones, in the order of the file. The arrays are views, or
    products of weight_orig and weight_mask where torch.nn.utils.prune has pruned. meta has arch and
    padding, width_multiplier if the widths determine it, and if there are several networks their
    keys: `key` of this one, `others`.

    content: a state dict, or dicts around one. key: of the network that is meant, where there are
    several: the names of the dicts around it, joined with dots, or what its names start with.

    Raises NoSuchKey; ValueError for a network of a known family that is not one of ours, naming an
    array that is too much or missing; UnsafePickle if an array is a value that was not read.
    """
    if "conv/kernel:0" in content:
        if key is not None:
            raise NoSuchKey("it has one network, and no other to choose")
        return None
    found = list(_networks(content))
    if key is not None:
        chosen = [one for one in found if one.key == key or one.key.startswith(f"{key}.")]
        if len(chosen) != 1:
            keys = ", ".join(one.key or "(no key)" for one in found) or "none"
            raise NoSuchKey(f"its networks that are known here are under these keys: {keys}")
        return _with_others(chosen[0], found, _translated(chosen[0], alone=True))
    if not found:
        return None
    first, *rest = found
    beside = [one for one in rest if one.entries is first.entries]
    if beside:
        kinds = {one.family.KIND for one in (first, *beside)}
        what = f"{kinds.pop()}s" if len(kinds) == 1 else "networks"
        raise ValueError(
            f"it has several {what}, under {first.prefix!r} and {beside[0].prefix!r}; save one of"
            " them alone" + (f", or give --trained_key {first.key}" if first.key else "")
        )
    return _with_others(first, found, _translated(first))


def _networks(content):
    """Yields the Found of all networks of known families, outer dicts first."""
    for one, place in _dicts(content):
        entries = _unmasked(
            {
                name: value
                for name, value in one.items()
                if isinstance(name, str) and (_is_numbers(value) or isinstance(value, Inert))
            }
        )
        for family in FAMILIES:
            for prefix in _prefixes(entries, family.LANDMARK):
                yield Found(family, entries, prefix, place)


def _unmasked(entries):
    """`entries` with X for X_orig and X_mask, as torch.nn.utils.prune names a pruned X."""
    pairs = {
        name.removesuffix("_orig"): (value, entries[name.removesuffix("_orig") + "_mask"])
        for name, value in entries.items()
        if name.endswith("_orig") and name.removesuffix("_orig") + "_mask" in entries
    }
    pairs = {name: pair for name, pair in pairs.items() if name not in entries}
    if not pairs or any(isinstance(value, Inert) for pair in pairs.values() for value in pair):
        return entries
    if 8 * sum(value.size for value, _ in pairs.values()) > LARGEST:
        raise ValueError(f"its pruned arrays take more than {LARGEST} bytes")
    whole = {}
    for name, value in entries.items():
        base = name.removesuffix("_orig").removesuffix("_mask")
        if base not in pairs:
            whole[name] = value
        elif name.endswith("_orig"):
            value, mask = pairs[base]
            if value.shape != mask.shape:
                raise ValueError(
                    f"{base}_mask is {list(mask.shape)}, but {base}_orig is {list(value.shape)}"
                )
            product = np.zeros(value.shape, np.result_type(value, mask))
            whole[base] = np.multiply(value, mask, out=product, where=mask != 0)
    return whole


def _with_others(chosen, found, result):
    """`result` of translating `chosen`, with the keys of the other networks in its meta."""
    arrays, meta = result
    if len(found) > 1:
        meta = meta | {"key": chosen.key, "others": [one.key for one in found if one is not chosen]}
    return arrays, meta


def arrays_of_numbers(content):
    """The entries of a dict that are arrays of numbers under a name: dict name -> array."""
    return {
        name: array
        for name, array in content.items()
        if isinstance(name, str) and _is_numbers(array)
    }


def names_of_arrays(content):
    """The names of all arrays of numbers in the dict of `content` that has most of them."""
    return max((list(arrays_of_numbers(one)) for one, _ in _dicts(content)), key=len)


def _is_numbers(value):
    return isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS


def _dicts(content):
    """Yields (dict, its keys joined with dots) of `content` and all dicts in it, outer ones first,
    each one once.
    """
    found, seen = [(content, "")], {id(content)}
    for one, place in found:
        yield one, place
        for key, value in one.items():
            if isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                found.append((value, f"{place}.{key}"[:200] if place else str(key)[:200]))


def _prefixes(names, landmark):
    """The prefixes under which `landmark` is among the names; "" for the name itself."""
    found = [name for name in names if name == landmark or name.endswith("." + landmark)]
    return [name.removesuffix(landmark) for name in found]


def _translated(found, alone=False):
    """(dict our name -> array, meta) of a Found, see `translated`.

    alone: whether what else its dict holds is ignored, since the user has chosen.
    """
    state = {
        name.removeprefix(found.prefix): value
        for name, value in found.entries.items()
        if name.startswith(found.prefix)
    }
    others = [name for name in found.entries if not (alone or name.startswith(found.prefix))]
    network = found.family(state)
    wanted = {
        f"{theirs}.{name}": (f"{ours}/{our_name}", axes)
        for theirs, ours, kind in network.layers()
        for name, (our_name, axes) in ARRAYS[kind].items()
    }
    extra = [name for name in state if name not in wanted] + others
    extra = [
        name
        for name in extra
        if not name.endswith(COUNTERS)
        and not isinstance(state.get(name, found.entries.get(name)), Inert)
    ]
    missing = [name for name in wanted if name not in state]
    if extra or missing:
        differs = [f"with {_first(extra)}"] if extra else []
        differs += [f"without {_first(missing)}"] if missing else []
        raise ValueError(f"it is like {network.like}, but {', '.join(differs)}")
    for name, (_, axes) in wanted.items():
        if isinstance(state[name], Inert):
            raise UnsafePickle(state[name].text)
        if state[name].ndim != len(axes):
            raise ValueError(f"{name} is {list(state[name].shape)}, expected {len(axes)} axes")
    meta = {"arch": network.arch, "padding": "symmetric"} | network.meta_of_widths(state)
    return {ours: LAYOUT[axes](state[name]) for name, (ours, axes) in wanted.items()}, meta


def _first(names):
    """The first name, and the number of the others, as text."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
