"""Weights of PyTorch's ResNets: our logits are PyTorch's, in every form of file; what is none of
ours is refused by name.
"""

import functools

import numpy as np
import pytest
import safetensors.numpy
import torch_networks
from safetensors_writer import write_safetensors
from torch_file_writer import Tensor, write_legacy, write_zip
from torch_networks import BLOCKS, CLASSES, SIZES, state_dict

from nets import build_network
from nets.foreign.names import translated
from nets.gates import Context
from nets.parameters import read_parameters
from utils import UserError

whole = functools.cache(state_dict)
small = lambda: dict(whole("ResNet-18"))


def answers(arrays, meta, size):
    network = build_network(meta["arch"], CLASSES, size, arrays, padding=meta["padding"])
    return network(torch_networks.images(size), Context("moving")).numpy()


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", BLOCKS)
def test_logits_are_those_recorded_of_torchvision(arch, size):
    arrays, meta = translated(whole(arch))
    assert meta == {"arch": arch, "padding": "symmetric"}
    recorded = np.load(torch_networks.RECORD)[f"{arch} {size}"]
    assert np.abs(answers(arrays, meta, size) - recorded).max() <= 1e-4
    assert np.abs(recorded[0] - recorded[1]).max() > 0.01  # the images tell
    if size % 2 == 0:
        assert np.abs(answers(arrays, meta | {"padding": "SAME"}, size) - recorded).max() > 0.01


@pytest.mark.parametrize("arch", BLOCKS)
def test_logits_are_those_of_torchvision(arch):
    """The same, with whatever torchvision is installed."""
    try:
        import record_torch_networks

        torchvision = record_torch_networks.import_torchvision()
    except Exception as error:  # an installation may be broken in any way
        pytest.skip(f"no PyTorch with torchvision: {error}")
    theirs = record_torch_networks.logits(torchvision, arch, 64)
    assert np.abs(answers(*translated(whole(arch)), 64) - theirs).max() <= 1e-4


# -------------------------------------------------------------------------------------------- files


def tensors(state):
    return {name: Tensor(array) for name, array in state.items()}


def assert_same(arrays, state):
    """Asserts that `arrays` are those of the state dict, by name and by values of each kind."""
    assert len(arrays) == sum(np.ndim(array) > 0 for array in state.values())
    assert all(array.dtype == np.float32 for array in arrays.values())
    kernel = state["layer2.0.downsample.0.weight"]
    assert arrays["BasicBlock1.0/conv3/kernel:0"].shape == (1, 1, *kernel.shape[1::-1])
    np.testing.assert_array_equal(
        arrays["BasicBlock1.0/conv3/kernel:0"][0, 0, 3, 5], kernel[5, 3, 0, 0]
    )
    np.testing.assert_array_equal(
        arrays["conv/kernel:0"][6, 1, 2, 7], state["conv1.weight"][7, 2, 6, 1]
    )
    np.testing.assert_array_equal(arrays["fc/kernel:0"].T, state["fc.weight"])
    np.testing.assert_array_equal(arrays["fc/biases:0"], state["fc.bias"][None])
    ours = [
        arrays[f"BasicBlock0.1/bn2/{n}:0"]
        for n in ("gamma", "beta", "moving_mean", "moving_variance")
    ]
    theirs = [state[f"layer1.1.bn2.{n}"] for n in ("weight", "bias", "running_mean", "running_var")]
    np.testing.assert_array_equal(ours, np.reshape(theirs, (4, 1, 1, 1, 64)))


FORMS = {
    "zip": lambda path, state: write_zip(path, tensors(state)),
    "legacy": lambda path, state: write_legacy(path, tensors(state)),
    "safetensors": lambda path, state: safetensors.numpy.save_file(state, path),
    "npz": lambda path, state: np.savez(path.with_suffix(".npz"), **state),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_is_read(tmp_path, form):
    FORMS[form](tmp_path / "weights", small())
    (path,) = tmp_path.iterdir()
    arrays, meta = read_parameters(str(path))
    assert meta == {"arch": "ResNet-18", "padding": "symmetric"}
    assert_same(arrays, small())


WRAPPERS = {
    "state_dict": lambda state: {
        "epoch": 3,
        "best": Tensor(np.float32(0.5)),
        "optimizer": {"state": {}},
        "state_dict": state,
    },
    "model": lambda state: {"model": state, "args": None},
    "state_dict_ema": lambda state: {"state_dict_ema": state},
    "two levels": lambda state: {"checkpoint": {"network": state}},
    "module.": lambda state: {f"module.{name}": array for name, array in state.items()},
    "module.encoder.": lambda state: {
        "state_dict": {f"module.encoder.{name}": array for name, array in state.items()}
    },
    "averaged": lambda state: {
        "model_ema": (
            {f"module.{n}": a for n, a in state.items()} | {"n_averaged": Tensor(np.int64(9))}
        )
    },
    "without counters": lambda state: {
        name: array for name, array in state.items() if not name.endswith("tracked")
    },
    "outer first": lambda state: {
        "other": {"conv1.weight": state["conv1.weight"]},
        "inner": {"teacher": {}},
        "net": state,
    },
}


@pytest.mark.long
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_prefixes_are_seen_through(tmp_path, wrapper):
    path = write_zip(tmp_path / "weights.pth", WRAPPERS[wrapper](tensors(small())))
    arrays, meta = read_parameters(str(path))
    assert meta["arch"] == "ResNet-18"
    assert_same(arrays, small())


def test_the_first_of_several_state_dicts_is_read():
    """timm's checkpoints have the averaged weights behind those of the last step."""
    other = {name: array + 1 for name, array in small().items()}
    assert_same(translated({"state_dict": small(), "state_dict_ema": other})[0], small())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_half_precision_becomes_float32(tmp_path, form, kind):
    path, bits = tmp_path / "weights", lambda array: (array.view(np.uint32) >> 16).astype(np.uint16)
    state = {name: array for name, array in small().items() if array.ndim}
    if form == "safetensors":
        write = lambda array: (
            ("BF16", bits(array)) if kind == "bfloat16" else ("F16", array.astype(np.float16))
        )
        write_safetensors(
            path, {name: (*write(array), array.shape) for name, array in state.items()}
        )
    else:
        write = lambda array: (
            Tensor(bits(array), kind="BFloat16Storage")
            if kind == "bfloat16"
            else Tensor(np.float16(array))
        )
        {"zip": write_zip, "legacy": write_legacy}[form](
            path, {name: write(array) for name, array in state.items()}
        )
    cut = lambda array: (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
    stored = (
        cut if kind == "bfloat16" else lambda array: array.astype(np.float16).astype(np.float32)
    )
    assert_same(
        read_parameters(str(path))[0], {name: stored(array) for name, array in state.items()}
    )


# -------------------------------------------------------------------------------------- pruned ones


@pytest.mark.long
def test_a_pruned_state_dict_builds_the_pruned_network():
    """Filters that batch norm makes 0 may as well not be there."""
    state, keep, name = small(), np.r_[0:20, 41:64], "layer1.0"
    muted = state | {
        f"{name}.bn1.{part}": state[f"{name}.bn1.{part}"].copy() for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        muted[f"{name}.bn1.{part}"][20:41] = 0
    cut = {
        f"{name}.conv1.weight": muted[f"{name}.conv1.weight"][keep],
        f"{name}.conv2.weight": muted[f"{name}.conv2.weight"][:, keep],
    }
    cut |= {
        f"{name}.bn1.{part}": muted[f"{name}.bn1.{part}"][keep]
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    whole_logits, cut_logits = (answers(*translated(given), 64) for given in (muted, muted | cut))
    np.testing.assert_allclose(cut_logits, whole_logits, atol=1e-4)
    network = build_network(
        "ResNet-18", CLASSES, 64, translated(muted | cut)[0], padding="symmetric"
    )
    assert {gate.name: gate.size for gate in network.gates}["BasicBlock0.0/conv1"] == 43


# ----------------------------------------------------------------------------------------- refusals


def without(*starts):
    return lambda state: {
        name: array for name, array in state.items() if not name.startswith(starts)
    }


def with_(**other):
    return lambda state: (
        state
        | {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in other.items()}
    )


def of_bottlenecks(*blocks):
    """Names alone: what has these is refused before shapes are looked at."""
    names = [
        f"layer{s}.{b}.conv{n}.weight"
        for s, count in enumerate(blocks, 1)
        for b in range(count)
        for n in (1, 2, 3)
    ]
    return lambda state: {
        name: np.ones((1, 1, 1, 1), np.float32) for name in ("conv1.weight", *names)
    }


def grouped(state):
    return whole("ResNet-50") | {
        f"layer{stage}.{block}.conv2.weight": np.ones((32 << stage, 2, 3, 3), np.float32)
        for stage, count in enumerate(BLOCKS["ResNet-50"], 1)
        for block in range(count)
    }


REFUSALS = {
    "ResNet-101": (
        of_bottlenecks(3, 4, 23, 3),
        "it is a ResNet of 3-4-23-3 bottlenecks, not one of ResNet-18, ResNet-34, ResNet-50",
    ),
    "three stages": (without("layer4"), "it is a ResNet of 2-2-2 basic blocks, not one of"),
    "a stem of three convolutions": (
        lambda state: (
            without("conv1.")(state)
            | {f"conv1.{n}.weight": state["conv1.weight"] for n in (0, 3, 6)}
        ),
        "it is like PyTorch's ResNet-18, but with conv1.0.weight and 2 more, without conv1.weight",
    ),
    "squeeze and excitation": (
        with_(layer1__0__se__fc1__weight=(8, 64, 1, 1), layer1__0__se__fc2__weight=(64, 8, 1, 1)),
        "it is like PyTorch's ResNet-18, but with layer1.0.se.fc1.weight and 1 more",
    ),
    "no head": (without("fc."), "it is like PyTorch's ResNet-18, but without fc.weight and 1 more"),
    "no batch norm": (
        without("bn1.weight"),
        "it is like PyTorch's ResNet-18, but without bn1.weight",
    ),
    "a block that is missing": (
        lambda state: (
            {n: a for n, a in state.items() if not n.startswith("layer2.0.")}
            | {
                n.replace("layer2.1.", "layer2.2."): a
                for n, a in state.items()
                if n.startswith("layer2.1.")
            }
        ),
        (
            "it is like PyTorch's ResNet-18, but with layer2.2.conv1.weight and 9 more, without"
            " layer2.0.conv1.weight and 14 more"
        ),
    ),
    "grouped convolutions": (
        grouped,
        "layer1.0.conv2.weight is grouped: it reads 2 of 64 channels; ResNet-50 has no groups",
    ),
    "wider": (
        lambda state: state | {"layer3.1.conv1.weight": np.ones((300, 256, 3, 3), np.float32)},
        "layer3.1.conv1.weight has 300 filters, but that of ResNet-18 has 256",
    ),
    "a flat kernel": (
        lambda state: state | {"fc.weight": np.ones(7, np.float32)},
        "fc.weight is [7], expected 2 axes",
    ),
    "two encoders": (
        lambda state: {
            f"encoder_{which}.{name}": array for which in "qk" for name, array in state.items()
        },
        "it has several ResNets, under 'encoder_q.' and 'encoder_k.'; save one of them alone",
    ),
    "more around it": (
        lambda state: (
            {f"backbone.{n}": a for n, a in state.items()} | {"head.weight": np.ones(3, np.float32)}
        ),
        "it is like PyTorch's ResNet-18, but with head.weight",
    ),
    "its own arrays without the prefix": (
        lambda state: (
            {f"module.{n}": a for n, a in state.items()} | {"conv1.weight": state["conv1.weight"]}
        ),
        "it is like PyTorch's ResNet-18, but with conv1.weight",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_like_a_resnet_of_ours_is_refused_by_name(tmp_path, what):
    change, said = REFUSALS[what]
    path = tmp_path / "weights.npz"
    np.savez(path, **change(small()))
    with pytest.raises(UserError) as refusal:
        read_parameters(str(path))
    assert f"weights.npz holds no network known here: {said}" in str(refusal.value)


@pytest.mark.parametrize("size", [3, 5])
def test_another_stem_does_not_fit(size):
    """As CIFAR's ResNets have it: found out when the network is built."""
    state = small() | {"conv1.weight": np.ones((64, 3, size, size), np.float32)}
    with pytest.raises(
        UserError,
        match=rf"conv/kernel:0 is \[{size}, {size}, 3, 64\], expected \[7, 7, 3, up to 64\]",
    ):
        answers(*translated(state), 64)


@pytest.mark.parametrize(
    "content",
    [{}, {"conv1.weight": np.ones(3)}, {"model": {"layer1.weight": np.ones(3)}}, {3: {4: 5}}],
)
def test_what_is_no_resnet_is_left_alone(content):
    assert translated(content) is None


def test_our_own_arrays_are_left_alone():
    assert translated({"conv/kernel:0": np.ones(3), "elsewhere": small()}) is None


def test_dicts_that_hold_each_other_many_times_are_gone_through_once():
    inner = small()
    for _ in range(64):
        inner = {"a": inner, "b": inner}
    assert translated(inner)[1]["arch"] == "ResNet-18"
