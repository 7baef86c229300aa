"""Weights whose names are another library's spelling of the same network are read; what is unknown
is named in the words of whoever made it; of several networks in a file one can be chosen.
"""

import json
import pathlib
import re

import numpy as np
import pytest
import safetensors.numpy
from test_foreign_weights import assert_same, small, whole
from torch_file_writer import Tensor, write_zip
from torch_networks import state_dict

import nets
import test as test_py  # the program beside this folder
import train_cifar
import train_imagenet
from cli import export_flags, exporting
from cli.network_file import read_network_file
from distribution.machines import Alone
from ekg.paper_networks import PaperSubject
from ekg.pipeline import prune
from nets import build_network
from nets.foreign.names import translated
from nets.parameters import check_known, note_on_others, read_parameters, write_parameters
from utils import UserError


def hugging_face(state):
    """A state dict of torchvision's ResNet under Hugging Face's names."""

    def renamed(name):
        name = re.sub(r"^conv1", "resnet.embedder.embedder.convolution", name)
        name = re.sub(r"^bn1", "resnet.embedder.embedder.normalization", name)
        name = re.sub(r"^fc", "classifier.1", name)
        name = re.sub(r"downsample\.0", "shortcut.convolution", name)
        name = re.sub(r"downsample\.1", "shortcut.normalization", name)
        layer = r"^layer(\d)\.(\d+)\."
        stage = lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."
        inner = lambda kind: lambda m: f".layer.{int(m[1]) - 1}.{kind}"
        name = re.sub(layer, stage, name)
        name = re.sub(r"\.conv(\d)", inner("convolution"), name)
        return re.sub(r"\.bn(\d)", inner("normalization"), name)

    return {renamed(name): array for name, array in state.items()}


def masked(state, *names):
    """A state dict as torch.nn.utils.prune leaves it; and the product."""
    state, product = dict(state), dict(state)
    for name in names:
        mask = (np.abs(state[name]) > np.median(np.abs(state[name]))).astype(np.float32)
        state[f"{name}_orig"], state[f"{name}_mask"] = state.pop(name), mask
        product[name] = product[name] * mask
    return state, product


# ------------------------------------------------------------------------------------- other names


@pytest.mark.long
@pytest.mark.parametrize("arch", ["ResNet-18", "ResNet-34", "ResNet-50"])
def test_hugging_faces_resnets_are_torchvisions_renamed(arch):
    theirs = hugging_face(whole(arch))
    assert "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight" in theirs
    arrays, meta = translated(theirs)
    assert meta == {"arch": arch, "padding": "symmetric"}
    expected = translated(whole(arch))[0]
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_safetensors_file_of_hugging_face_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(hugging_face(small()), path)
    arrays, meta = read_parameters(str(path))
    assert meta["arch"] == "ResNet-18"
    assert_same(arrays, small())


REFUSALS = {
    "more blocks": (
        lambda s: {n.replace("stages.3.layers.1", "stages.3.layers.2"): a for n, a in s.items()},
        "without resnet.encoder.stages.3.layers.1.layer.0.convolution.weight",
    ),
    "no head": (
        lambda s: {n: a for n, a in s.items() if not n.startswith("classifier")},
        "it is like Hugging Face's ResNet-18, but without classifier.1.weight and 1 more",
    ),
    "three stages": (
        lambda s: {n: a for n, a in s.items() if "stages.3" not in n},
        "it is a ResNet of 2-2-2 basic blocks, not one of",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_like_hugging_faces_is_refused_in_its_words(what):
    change, said = REFUSALS[what]
    with pytest.raises(ValueError, match=re.escape(said)):
        translated(change(hugging_face(small())))


@pytest.mark.parametrize("names", [["conv1.weight"], ["conv1.weight", "fc.weight", "fc.bias"]])
def test_the_product_of_weight_and_mask_is_the_weight(tmp_path, names):
    state, product = masked(small(), *names)
    path = write_zip(tmp_path / "pruned.pth", {n: Tensor(a) for n, a in state.items()})
    arrays, meta = read_parameters(str(path))
    assert meta["arch"] == "ResNet-18"
    assert_same(arrays, product)
    assert (arrays["conv/kernel:0"] == 0).mean() > 0.4


def test_all_layers_pruned_are_read_too():
    """The landmark of the network is among the masked names then."""
    names = [name for name in small() if name.endswith("weight") and small()[name].ndim > 1]
    state, product = masked(small(), *names)
    assert_same(translated(state)[0], product)


def test_a_mask_of_another_shape_is_refused():
    state, _ = masked(small(), "conv1.weight")
    state["conv1.weight_mask"] = np.ones((64, 3, 7), np.float32)
    with pytest.raises(ValueError, match=r"conv1.weight_mask is \[64, 3, 7\], but conv1.weight_or"):
        translated(state)


def test_an_infinite_weight_that_is_masked_counts_as_zero():
    state, _ = masked(small(), "conv1.weight")
    place = tuple(np.argwhere(state["conv1.weight_mask"] == 0)[0])
    state["conv1.weight_orig"] = state["conv1.weight_orig"].copy()
    state["conv1.weight_orig"][place] = np.inf
    assert np.isfinite(translated(state)[0]["conv/kernel:0"]).all()


# --------------------------------------------------------------------------------- unknown networks

VIT = {f"vit.encoder.layer.{n}.attention.weight": np.ones((4, 4), "f4") for n in range(12)}
UNKNOWN = {
    "a state dict": (VIT, r"vit\.encoder\.layer\.0\.attention\.weight and 11 more"),
    "within a checkpoint": (
        {"model": VIT, "epoch": 3},
        r"vit\.encoder\.layer\.0\.attention\.weight and 11 more",
    ),
    "one array": ({"w": np.ones(3, "f4")}, "w;"),
}


def assert_unknown(error, named):
    message = str(error.value)
    assert re.search(rf"holds no network known here: its arrays are {named}", message), message
    assert "ResNet-56" in message and "Hugging Face" in message and "CIFAR" not in message
    assert len(message.splitlines()) == 1 and "kernel" not in message


def programs(path, tmp_path):
    """Calls of every program, without --arch and without data."""
    run = ["--trained_param", path, "--train_path", str(tmp_path / "run"), "--data_path", "none"]
    evaluate = lambda *flags: test_py.evaluate(
        test_py.parse(["--trained_param", path, *flags]), Alone()
    )
    return {
        "test.py": lambda: evaluate(),
        "test.py --data_path": lambda: evaluate("--data_path", "none"),
        "train_cifar.py": lambda: prune(train_cifar.parse(run)),
        "train_imagenet.py": lambda: prune(train_imagenet.parse(run)),
        "nets.load": lambda: nets.load(path),
    }


@pytest.mark.parametrize("program", programs("", pathlib.Path()))
@pytest.mark.parametrize("what", UNKNOWN)
def test_an_unknown_network_is_named_in_its_own_words_before_any_data(tmp_path, what, program):
    content, named = UNKNOWN[what]
    tensors = lambda value: (
        {k: tensors(v) for k, v in value.items()}
        if isinstance(value, dict)
        else (Tensor(value) if isinstance(value, np.ndarray) else value)
    )
    path = write_zip(tmp_path / "param.pth", tensors(content))
    with pytest.raises(UserError) as error:
        programs(str(path), tmp_path)[program]()
    assert_unknown(error, named)
    assert not (tmp_path / "run").exists()


def test_our_own_files_are_known():
    check_known("file", build_network("ResNet-8", 10, 32).parameters())
    check_known("file", [])


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_a_head_of_other_classes_is_said_in_classes(padding):
    arrays = translated(state_dict("ResNet-18"))[0]
    with pytest.raises(UserError) as error:
        build_network("ResNet-18", 4, 64, arrays, "resnet18.pth", padding=padding)
    assert str(error.value) == (
        "resnet18.pth does not fit ResNet-18: it tells 10 classes apart, the data have 4; a run"
        " does not replace the last layer: give the data of its 10 classes, or a network that was"
        " trained on these 4"
    )


# ------------------------------------------------------------------------------- several networks

AVERAGED = {name: array + 1 for name, array in small().items()}
FILES = {
    "timm": ({"epoch": 3, "state_dict": small(), "state_dict_ema": AVERAGED}, "state_dict_ema"),
    "torchvision": (
        {"model": small(), "model_ema": {f"module.{n}": a for n, a in AVERAGED.items()}},
        "model_ema",
    ),
    "two levels": ({"model": small(), "ema": {"net": AVERAGED}}, "ema.net"),
    "prefixes of one dict": (
        {f"net.{n}": a for n, a in small().items()}
        | {f"ema.{n}": a for n, a in AVERAGED.items()}
        | {"queue": np.ones(3, "f4")},
        "ema",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_trained_key_chooses_the_averaged_weights(what):
    content, key = FILES[what]
    arrays, meta = translated(content, key)
    assert_same(arrays, AVERAGED)
    assert meta["key"].startswith(key) and len(meta["others"]) == 1


def test_without_a_key_the_first_is_read_and_the_others_are_named():
    arrays, meta = translated(FILES["timm"][0])
    assert_same(arrays, small())
    assert note_on_others(meta) == (
        "the network under state_dict; --trained_key takes another: state_dict_ema"
    )
    assert note_on_others(translated(small())[1]) == ""


def test_several_networks_under_prefixes_are_told_of_the_flag():
    with pytest.raises(ValueError, match=r"save one of them alone, or give --trained_key net$"):
        translated(FILES["prefixes of one dict"][0])


@pytest.mark.long
@pytest.mark.parametrize("key", ["state", "ema", "", "state_dict_ema.module"])
def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path, key):
    content = {k: v for k, v in FILES["timm"][0].items() if k != "epoch"}
    path = write_zip(
        tmp_path / "checkpoint.pth",
        {key: {n: Tensor(a) for n, a in state.items()} for key, state in content.items()},
    )
    with pytest.raises(UserError, match=f"^--trained_key {key}: .* state_dict, state_dict_ema$"):
        read_parameters(str(path), key)


def test_a_key_for_a_file_of_one_network_is_refused(tmp_path):
    path = str(tmp_path / "param.pkl")
    write_parameters(path, build_network("ResNet-8", 10, 32).parameters(), {})
    with pytest.raises(UserError, match="one network, and no other to choose"):
        read_parameters(path, "ema")


@pytest.mark.long
def test_a_network_file_says_which_network_it_took(tmp_path):
    content, key = FILES["timm"]
    path = write_zip(
        tmp_path / "checkpoint.pth",
        {
            k: {n: Tensor(a) for n, a in v.items()}
            for k, v in content.items()
            if isinstance(v, dict)
        },
    )
    args = test_py.parse(["--trained_param", str(path), "--trained_key", key])
    file = read_network_file(args.trained_param, args, args.trained_key)
    assert file.note.startswith(f"{path}: the network under state_dict_ema;")
    np.testing.assert_array_equal(
        file.parameters["fc/biases:0"][0], AVERAGED["fc.bias"].astype(np.float32)
    )
    assert json.dumps(vars(args))  # machines compare it


@pytest.mark.long
def test_a_run_says_which_network_it_starts_from(tmp_path):
    content, key = FILES["timm"]
    path = tmp_path / "checkpoint.pth"
    dicts = {k: v for k, v in content.items() if isinstance(v, dict)}
    write_zip(path, {k: {n: Tensor(a) for n, a in v.items()} for k, v in dicts.items()})
    flags = ["--arch", "ResNet-18", "--trained_param", str(path), "--trained_key", key]
    subject = PaperSubject(train_imagenet.parse(flags))
    start = subject.find(False)
    networks = subject.networks(None, None)
    assert networks.source == (
        f"{path}: the network under state_dict_ema; --trained_key takes another: state_dict"
    )
    np.testing.assert_array_equal(networks.given["fc/biases:0"][0], AVERAGED["fc.bias"])
    # config.json tells runs apart by the arrays: another key is another start.
    assert start != PaperSubject(train_imagenet.parse(flags[:-2])).find(False)


def test_an_export_says_which_network_it_took(tmp_path, capsys):
    content, key = FILES["timm"]
    path = str(tmp_path / "checkpoint.pth")
    dicts = {k: v for k, v in content.items() if isinstance(v, dict)}
    write_zip(path, {k: {n: Tensor(a) for n, a in v.items()} for k, v in dicts.items()})
    args = export_flags.parse(
        "export.py", ["--trained_param", path, "--trained_key", key, "--to", "savedmodel"]
    )
    (file,) = exporting.network_files(args, {"pruned": path}).values()
    np.testing.assert_array_equal(file.parameters["fc/biases:0"][0], AVERAGED["fc.bias"])
    assert f"{path}: the network under state_dict_ema;" in capsys.readouterr().err
