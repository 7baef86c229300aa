"""export.py and test.py from a file to files: what is printed, what other processes can do."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from imagenet_files import pictures, write_folders
from keras_models import randomised
from processes import QUIET, ROOT, without_tensorflow
from settled import settled_network

import export
import test as test_py  # the program beside this folder, not Python's own tests
from cli.program import run_program
from dataloader.digits import load_digits
from exports.formats import CHOICES, FORMATS, TFLITE, formats
from nets.parameters import write_parameters

L = keras.layers
ALL = formats(CHOICES)
NAMES = [each.name for each in ALL]
META = {"arch": "ResNet-8", "dataset": "DIGITS", "input_size": 32}


def answer(program, *flags, code=0):
    """The lines on stdout of a program that is run in this process; on stderr for a mistake."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [program.__file__, *map(str, flags)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert run_program(program.main) == code, err.getvalue()
    finally:
        sys.argv = before
    return (err if code else out).getvalue().splitlines()


def top1(lines):
    return next(line for line in lines if line.startswith("  top-1"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def path(folder):
    """A pruned ResNet-8, of which a block is a constant, with random arrays."""
    network = settled_network("ResNet-8", True, "symmetric", 32)
    write_parameters(str(folder / "net.pkl"), network.parameters(), META | {"padding": "symmetric"})
    return folder / "net.pkl"


@pytest.fixture(scope="module")
def exported(path):
    """The lines that export.py prints; its files are beside `path`."""
    return answer(export, "--trained_param", path, "--to", *CHOICES)


def test_flags_are_answered_without_tensorflow(tmp_path):
    done = without_tensorflow(tmp_path, "export.py", "--help")
    assert "--against FILE" in done.stdout


@pytest.mark.long
def test_every_file_is_named_with_its_size_and_difference(path, exported):
    assert exported[0] == "ResNet-8 for DIGITS: uint8 images [B, 32, 32, 3], 10 classes"
    assert len(exported) == 1 + 2 * len(ALL)
    for each, line, found in zip(ALL, exported[1::2], exported[2::2]):
        opset = " opset 17" if each.name == "ONNX" else ""
        file = path.with_suffix(each.ending)
        size = r"[\d,]+ bytes"
        assert re.fullmatch(rf"  {re.escape(str(file))}  \({each.name}{opset}, {size}\)", line)
        assert re.fullmatch(r"    greatest difference .* top-1 agrees on \d+ of 64", found)
        assert file.exists()
    assert len(os.listdir(path.parent)) == 1 + len(ALL)


@pytest.mark.long
def test_exported_files_have_the_top1_of_the_network(path, exported):
    check_top1(path, [TFLITE["float32"], FORMATS["onnx"]])


@pytest.mark.slow
def test_other_exported_files_have_it_too(path, exported):
    check_top1(path, [TFLITE["float16"], FORMATS["savedmodel"], FORMATS["keras"]])


def check_top1(path, found):
    expected = top1(answer(test_py, "--trained_param", path))
    for each in found:
        file = path.with_suffix(each.ending)
        lines = answer(test_py, "--trained_param", file, "--dataset", "DIGITS")
        assert lines[0] == f"{file} ({each.name}) on DIGITS, 355 test images"
        assert top1(lines) == expected


TRAINS_ON = """
import sys
import keras, numpy as np
for name in ("nets", "utils", "coupling"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(name + " was imported")
model = keras.models.load_model(sys.argv[1])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
before = [w.numpy() for w in model.weights]
history = model.fit(images, np.arange(12) % 10, batch_size=4, steps_per_epoch=3, verbose=0)
changed = [w.path for w, old in zip(model.weights, before) if (w.numpy() != old).any()]
assert len(changed) == len(before), changed
print(history.history["loss"][0])
"""


@pytest.mark.long
def test_the_keras_file_trains_on_without_this_project(path, exported, tmp_path):
    command = [sys.executable, "-I", "-c", TRAINS_ON, path.with_suffix(".keras")]
    done = subprocess.run(command, cwd=tmp_path, env=QUIET, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(float(done.stdout))


@pytest.mark.slow
def test_images_in_files_are_used_as_well(tmp_path):
    """Representative images come from train, those to check with and to evaluate from val."""
    write_folders(tmp_path / "data" / "train", pictures(4))
    write_folders(tmp_path / "data" / "val", pictures(2, first=10))
    network = settled_network("ResNet-18", True, "symmetric", width=0.25, classes=4)
    meta = {"arch": "ResNet-18", "dataset": "ImageNet", "input_size": 64, "width_multiplier": 0.25}
    path = tmp_path / "net.npz"
    write_parameters(str(path), network.parameters(), meta | {"padding": "symmetric"})
    data = "--data_path", tmp_path / "data"
    lines = answer(export, "--trained_param", path, *data, "--to", "tflite", "--types", "float32")
    assert lines[0] == "ResNet-18 for ImageNet: uint8 images [B, 64, 64, 3], 4 classes"
    assert lines[2].endswith("of 8")
    file = path.with_suffix(".float32.tflite")
    found = answer(test_py, "--trained_param", file, "--dataset", "ImageNet", *data)
    assert top1(found) == top1(answer(test_py, "--trained_param", path, *data))


# ------------------------------------------------------------------------------------ Keras models


@pytest.fixture(scope="module")
def own(folder):
    """DIGITS as images of one's own."""
    names = "x_train", "y_train", "x_test", "y_test"
    np.savez(folder / "own.npz", **dict(zip(names, load_digits())))
    return folder / "own.npz"


def keras_file(path, classes, activation):
    """A small network with random weights, a batch norm and a depthwise convolution."""
    image = keras.Input((32, 32, 3))
    x = L.Conv2D(8, 3, 2, "same", use_bias=False)(image)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.DepthwiseConv2D(3, padding="same")(x)
    x = L.Activation("silu")(x)
    outputs = L.Dense(classes, activation=activation)(L.GlobalAveragePooling2D()(x))
    randomised(keras.Model(image, outputs, name="own")).save(path)
    return path


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param([FORMATS["onnx"]], marks=pytest.mark.long),
        pytest.param(ALL, marks=pytest.mark.slow),
    ],
)
def test_keras_models_go_through_the_same_formats(own, tmp_path, wanted):
    path, out = keras_file(tmp_path / "own.keras", 10, "softmax"), tmp_path / "out"
    os.mkdir(out)
    to = ("onnx",) if len(wanted) == 1 else CHOICES
    flags = "--trained_param", path, "--pixels", "0..1", "--out", out, "--data_path", own
    lines = answer(export, *flags, "--to", *to)
    assert lines[0] == "own: uint8 images [B, 32, 32, 3], 10 classes"
    assert len(lines) == 1 + 2 * len(wanted)
    expected = answer(test_py, "--trained_param", path, "--data_path", own, "--pixels", "0..1")
    for each in wanted:
        if each not in (TFLITE["int8"], TFLITE["float16"]):
            found = answer(
                test_py, "--trained_param", out / f"own{each.ending}", "--data_path", own
            )
            assert found[1:4] == expected[1:4]  # top-1, top-5, loss


@pytest.mark.long
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_single_output_is_that_of_class_1(own, tmp_path, activation):
    path = keras_file(tmp_path / "own.h5", 1, activation)
    lines = answer(export, "--trained_param", path, "--pixels", "-1..1", "--to", "onnx")
    assert lines[0].endswith("1 classes") and len(lines) == 3


# ------------------------------------------------------------------------------------ foreign files


def refused(path, *flags):
    (line,) = answer(test_py, "--trained_param", path, *flags, code=2)
    return line


@pytest.mark.long
def test_a_foreign_tflite_file(tmp_path):
    double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([1, 8, 8, 3])])
    module = tf.Module()
    concrete = double.get_concrete_function()
    converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    (tmp_path / "x.tflite").write_bytes(converted)
    line = refused(tmp_path / "x.tflite", "--dataset", "DIGITS")
    assert "takes float32 [1, 8, 8, 3], not uint8 images of one size; only files of" in line


@pytest.mark.long
def test_a_foreign_onnx_file(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = lambda name: helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", 32, 32, 3])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "x.onnx")
    line = refused(tmp_path / "x.onnx", "--dataset", "DIGITS")
    assert "x.onnx gives y, not logits; only files of export.py can be evaluated" in line


@pytest.mark.slow
def test_damaged_and_foreign_savedmodels(tmp_path):
    os.mkdir(tmp_path / "a.savedmodel")
    (tmp_path / "a.savedmodel" / "saved_model.pb").write_bytes(b"garbage")
    assert "a.savedmodel cannot be run: " in refused(
        tmp_path / "a.savedmodel", "--dataset", "DIGITS"
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "b"))
    assert "cannot be run: KeyError: 'serving_default'" in refused(
        tmp_path / "b", "--dataset", "DIGITS"
    )


# ------------------------------------------------------------------------------ prune, then 8 bits


@pytest.mark.slow
def test_four_cells_of_a_trained_network(tmp_path):
    """int8 costs at most a point of top-1; float32 has the top-1 of the network."""
    flags = "--arch ResNet-20 --dataset DIGITS --train_path run --baseline_epoch 12"
    flags += " --baseline_batch_size 64 --baseline_learning_rate 0.2 --search_target_rate 0.7"
    flags += " --train_epoch 4 --batch_size 64"
    command = [sys.executable, str(ROOT / "train_cifar.py"), *flags.split()]
    subprocess.run(command, cwd=tmp_path, env=QUIET, check=True, capture_output=True)
    pruned, dense = tmp_path / "run/trained_param.pkl", tmp_path / "run/baseline_param.pkl"
    flags = "--trained_param", pruned, "--against", dense, "--seconds", "0.1"
    found = json.loads("".join(answer(export, *flags, "--json")))["cells"]
    cells = {(cell["network"], cell["type"]): cell for cell in found}
    for name, path in (("dense", dense), ("pruned", pruned)):
        own = json.loads("".join(answer(test_py, "--trained_param", path, "--json")))["top1"]
        whole, small = cells[name, "float32"], cells[name, "int8"]
        assert own > 0.9 and whole["top1"] == own
        assert abs(small["top1"] - own) <= 0.01
        assert small["bytes"] < 0.5 * whole["bytes"] and small["ms"] > 0 < whole["ms"]
    assert cells["pruned", "int8"]["bytes"] < cells["dense", "int8"]["bytes"]
    lines = answer(export, *flags)
    assert lines[1].split() == ["float32", "int8"] and len(lines) == 4
