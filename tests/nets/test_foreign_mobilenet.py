"""MobileNet-v2 as torchvision and timm save it: our logits are PyTorch's, at any width; what is
none is refused by name.
"""

import functools
import re

import numpy as np
import pytest
import torch_networks
from torch_file_writer import Tensor, write_zip
from torch_networks import CLASSES, RECORDED, WIDTHS, state_dict

from nets import build_network
from nets.foreign.names import translated
from nets.gates import Context
from nets.parameters import read_parameters
from utils import UserError

ARCH = "MobileNet-v2-ImageNet"
whole = functools.cache(state_dict)
small = lambda: dict(whole("MobileNet-v2 0.25"))
NUMBERS = [
    (stage, block) for stage, count in enumerate(torch_networks.REPEATS) for block in range(count)
]
ENDS = {"0.0": "conv_stem", "0.1": "bn1", "18.0": "conv_head", "18.1": "bn2"}
FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
INNER = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2": "conv_pwl",
    "3": "bn3",
}


def timm(state):
    """The state dict of torchvision in timm's names."""

    def layer(name):
        if match := re.fullmatch(r"features\.(\d+)\.conv\.(.*)", name):
            number = int(match[1]) - 1
            return "blocks.{}.{}.".format(*NUMBERS[number]) + (INNER if number else FIRST)[match[2]]
        return "classifier" if name == "classifier.1" else ENDS[name.removeprefix("features.")]

    split = {name: name.rpartition(".") for name in state}
    return {f"{layer(before)}.{part}": state[name] for name, (before, _, part) in split.items()}


FORMS = {"torchvision": lambda state: state, "timm": timm}


def built(arrays, meta, size):
    variant = {"width_multiplier": meta.get("width_multiplier", 1.0), "padding": meta["padding"]}
    return build_network(meta["arch"], CLASSES, size, arrays, **variant)


def answers(arrays, meta, size):
    return built(arrays, meta, size)(torch_networks.images(size), Context("moving")).numpy()


@pytest.mark.long
@pytest.mark.parametrize("name, size", [place for place in RECORDED if place[0] in WIDTHS])
def test_logits_are_those_recorded_of_torchvision(name, size):
    arrays, meta = translated(whole(name))
    recorded = np.load(torch_networks.RECORD)[f"{name} {size}"]
    assert np.abs(answers(arrays, meta, size) - recorded).max() <= 1e-4 * np.abs(recorded).max()
    assert np.abs(recorded[0] - recorded[1]).max() > 0.01  # the images tell
    if size % 2 == 0:
        assert np.abs(answers(arrays, meta | {"padding": "SAME"}, size) - recorded).max() > 0.01


def test_logits_are_those_of_torchvision():
    """The same, with whatever torchvision is installed."""
    try:
        import record_torch_networks

        torchvision = record_torch_networks.import_torchvision()
    except Exception as error:  # an installation may be broken in any way
        pytest.skip(f"no PyTorch with torchvision: {error}")
    theirs = record_torch_networks.logits(torchvision, "MobileNet-v2 0.35", 64)
    assert np.abs(answers(*translated(whole("MobileNet-v2 0.35")), 64) - theirs).max() <= 1e-4


# --------------------------------------------------------------------------------- names and widths


def empty(name, form):
    return FORMS[form](
        {name: np.zeros(shape, np.float32) for name, shape in torch_networks.shapes(name).items()}
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WIDTHS)
def test_the_width_multiplier_is_told_by_the_widths(name, form):
    assert translated(empty(name, form))[1] == {
        "arch": ARCH,
        "padding": "symmetric",
        "width_multiplier": float(name.split()[1]),
    }


@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_those_of_our_network(form):
    arrays = translated(empty("MobileNet-v2 0.35", form))[0]
    ours = build_network(ARCH, CLASSES, 32, width_multiplier=0.35).parameters()
    assert {name: array.shape for name, array in arrays.items()} == {
        name: array.shape for name, array in ours.items()
    }


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_arrays_come_back_in_our_names_and_layout(tmp_path, form):
    state = small()
    path = write_zip(
        tmp_path / "weights.pth",
        {"state_dict": {n: Tensor(a) for n, a in FORMS[form](state).items()}},
    )
    arrays, meta = read_parameters(str(path))
    assert meta["width_multiplier"] == 0.25
    assert len(arrays) == sum(array.ndim > 0 for array in state.values())
    assert all(array.dtype == np.float32 for array in arrays.values())
    for ours, theirs in {
        "conv": "0.0",
        "InvertedResidual0.0/conv2": "1.conv.1",
        "InvertedResidual3.2/conv0": "9.conv.0.0",
        "InvertedResidual6.0/conv2": "17.conv.2",
        "conv_last": "18.0",
    }.items():
        np.testing.assert_array_equal(
            arrays[f"{ours}/kernel:0"].transpose(3, 2, 0, 1), state[f"features.{theirs}.weight"]
        )
    for ours, theirs in {
        "InvertedResidual0.0": "1.conv.0.0",
        "InvertedResidual3.2": "9.conv.1.0",
    }.items():
        np.testing.assert_array_equal(
            arrays[f"{ours}/conv1/kernel:0"].transpose(2, 3, 0, 1),
            state[f"features.{theirs}.weight"],
        )
    parts = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    for ours, theirs in {
        "bn": "0.1",
        "InvertedResidual0.0/bn2": "1.conv.2",
        "InvertedResidual5.1/bn1": "15.conv.1.1",
    }.items():
        for our_part, their_part in parts.items():
            np.testing.assert_array_equal(
                arrays[f"{ours}/{our_part}:0"].reshape(-1), state[f"features.{theirs}.{their_part}"]
            )
    np.testing.assert_array_equal(arrays["fc/kernel:0"].T, state["classifier.1.weight"])
    np.testing.assert_array_equal(arrays["fc/biases:0"], state["classifier.1.bias"][None])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["module.", "student.backbone."])
def test_prefixes_are_seen_through(form, prefix):
    state = FORMS[form](small())
    arrays, meta = translated(
        {"epoch": 3, "model": {f"{prefix}{name}": array for name, array in state.items()}}
    )
    plain = translated(state)
    assert meta == plain[1] and arrays.keys() == plain[0].keys()
    assert all(np.shares_memory(array, plain[0][name]) for name, array in arrays.items())


# -------------------------------------------------------------------------------------- pruned ones


def cut(state, keep, *, filters, reads=(), follows=()):
    """`state` with the filters `keep` alone: of the weights `filters`, of what `reads` them, and of
    batch norms that `follow`.
    """
    state = state | {f"{name}.weight": state[f"{name}.weight"][keep] for name in filters}
    state |= {f"{name}.weight": state[f"{name}.weight"][:, keep] for name in reads}
    parts = ("weight", "bias", "running_mean", "running_var")
    return state | {
        f"{name}.{part}": state[f"{name}.{part}"][keep] for name in follows for part in parts
    }


@pytest.mark.long
def test_a_pruned_state_dict_builds_the_pruned_network_whose_width_its_user_says():
    """Filters that batch norms make 0 may as well not be there."""
    keep, name = np.r_[0:20, 31:48], "features.3.conv"
    muted = small()
    for bn in (f"{name}.0.1", f"{name}.1.1"):
        for part in ("weight", "bias"):
            muted[f"{bn}.{part}"] = muted[f"{bn}.{part}"].copy()
            muted[f"{bn}.{part}"][20:31] = 0
    convs = dict(
        filters=(f"{name}.0.0", f"{name}.1.0"),
        reads=(f"{name}.2",),
        follows=(f"{name}.0.1", f"{name}.1.1"),
    )
    pruned = cut(muted, keep, **convs)
    arrays, meta = translated(pruned)
    assert meta == {"arch": ARCH, "padding": "symmetric"}
    meta["width_multiplier"] = 0.25
    assert {gate.name: gate.size for gate in built(arrays, meta, 64).gates}[
        "InvertedResidual1.1/conv0"
    ] == 37
    np.testing.assert_allclose(
        answers(arrays, meta, 64), answers(*translated(muted), 64), atol=1e-4
    )
    other = answers(
        arrays, meta | {"width_multiplier": 1.0}, 64
    )  # at 0.25 the first block has a shortcut
    assert np.abs(other - answers(arrays, meta, 64)).max() > 0.01


# ----------------------------------------------------------------------------------------- refusals


def without(*starts):
    return lambda state: {
        name: array for name, array in state.items() if not name.startswith(starts)
    }


def deeper(name, *, becomes):
    """What timm's 110d has: one block more in a stage."""
    return lambda state: (
        state
        | {
            key.replace(name, becomes): array
            for key, array in state.items()
            if key.startswith(name)
        }
    )


def changed(name, *shape):
    return lambda state: state | {name: np.ones(shape, np.float32)}


SE = "blocks.2.1.se.conv_reduce.weight"
REFUSALS = {
    "timm, deeper": (
        "timm",
        deeper("blocks.1.1.", becomes="blocks.1.2."),
        "it is a network of 18 inverted residual blocks, ",
    ),
    "torchvision, less deep": (
        "torchvision",
        without("features.17."),
        "it is a network of 16 inverted residual blocks, ",
    ),
    "other stages": (
        "timm",
        lambda state: without("blocks.2.2.")(deeper("blocks.1.1.", becomes="blocks.1.2.")(state)),
        (
            "it is like timm's MobileNet-v2, but with blocks.1.2.conv_pw.weight and 14 more,"
            " without blocks.2.2.conv_pw.weight"
        ),
    ),
    "squeeze and excitation": (
        "timm",
        changed(SE, 4, 48, 1, 1),
        f"it is like timm's MobileNet-v2, but with {SE}",
    ),
    "no head": (
        "torchvision",
        without("classifier"),
        "it is like torchvision's MobileNet-v2, but without classifier.1.weight and 1 more",
    ),
    "an expansion in the first block": (
        "torchvision",
        changed("features.1.conv.1.0.weight", 8, 1, 3, 3),
        "it is like torchvision's MobileNet-v2, but with features.1.conv.1.0.weight",
    ),
    "timm, grouped": (
        "timm",
        changed("blocks.3.1.conv_dw.weight", 96, 8, 3, 3),
        "blocks.3.1.conv_dw.weight is not depthwise: its filters read 8 channels each, not 1",
    ),
    "a flat kernel": (
        "timm",
        changed("conv_head.weight", 7),
        "conv_head.weight is [7], expected 4 axes",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_like_a_mobilenet_is_refused_by_name(tmp_path, what):
    form, change, said = REFUSALS[what]
    path = tmp_path / "weights.npz"
    np.savez(path, **change(FORMS[form](small())))
    with pytest.raises(UserError) as refusal:
        read_parameters(str(path))
    assert f"weights.npz holds no network known here: {said}" in str(refusal.value)


def test_two_networks_in_one_dict_are_refused():
    teacher = {f"teacher.{name}": array for name, array in small().items()}
    for other, what in ((timm(small()), "MobileNets"), (whole("ResNet-18"), "networks")):
        student = {f"student.{name}": array for name, array in other.items()}
        with pytest.raises(
            ValueError,
            match=f"it has several {what}, under '(teacher|student).' and '(teacher|student).'",
        ):
            translated(teacher | student)


def test_what_is_wider_than_the_width_its_user_says_does_not_fit():
    arrays, meta = translated(changed("features.0.0.weight", 40, 3, 3, 3)(small()))
    assert "width_multiplier" not in meta
    with pytest.raises(
        UserError,
        match=rf"{ARCH}: conv/kernel:0 is \[3, 3, 3, 40\], expected \[3, 3, 3, up to 32\]",
    ):
        built(arrays, meta, 32)
