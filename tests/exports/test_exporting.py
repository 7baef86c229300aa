"""Exported files are those of the network, or are not there."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from settled import pixels, settled_network

from exports.checking import agree, top1
from exports.exportable import of_network
from exports.exporting import export
from exports.formats import FORMATS, TFLITE, exported_format, formats
from exports.process import Running
from exports.silence import silent_layers
from exports.targets import files_of
from exports.writing import write
from nets.catalogue import PIXELS
from utils import UserError

ONNX = FORMATS["onnx"]


@pytest.fixture(scope="module")
def exportable():
    """A pruned ResNet-8 with PyTorch's padding, of which a block is a constant."""
    return of_network(settled_network("ResNet-8", True, "symmetric"), *PIXELS["CIFAR10"])


@pytest.fixture
def images():
    return pixels(9, 16)


def test_types_are_those_asked_for_and_formats_come_once():
    names = [each.name for each in formats(["onnx", "tflite", "onnx"], ["int8"])]
    assert names == ["ONNX", "TFLite int8"]
    assert exported_format("a.int8.tflite") is TFLITE["int8"]
    assert exported_format("a.tflite").name == "TFLite" and exported_format("a.pkl") is None


@pytest.mark.parametrize("differ, images, fine", [(1, 4, True), (2, 4, False), (1, 16, True)])
def test_one_image_may_have_another_top1(differ, images, fine):
    assert agree(np.arange(images) >= differ, TFLITE["float16"]) == fine


@pytest.mark.long
def test_a_file_takes_uint8_images_and_gives_logits_and_probabilities(exportable, tmp_path, images):
    path = str(tmp_path / "x.onnx")
    result = export(exportable, ONNX, path, images)
    assert result.difference < 1e-5 and result.agreement == 1 and result.images == 9
    with Running(path, "onnx") as running:
        assert (running.dtype, running.shape) == ("uint8", (None, 16, 16, 3))
        found = running.answers(images[:4])
        times = running.milliseconds(3)
    expected = exportable.expected(images[:4])
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, rtol=1e-5)
    assert times.shape == (3,) and (times > 0).all()
    assert os.listdir(tmp_path) == ["x.onnx"]


@pytest.mark.long
@pytest.mark.parametrize("wanted", [ONNX, TFLITE["float16"], TFLITE["int8"]])
def test_a_bad_export_leaves_the_folder_as_it_was(exportable, tmp_path, images, wanted):
    """The file is that of another network than the one it is compared with."""
    path = tmp_path / f"x{wanted.ending}"
    path.write_bytes(b"former")
    network = settled_network("ResNet-8", False, "symmetric")
    network.parts[-1].fc.biases.assign_add(np.linspace(0, 5, 10, dtype=np.float32)[None])
    other = of_network(network, *PIXELS["CIFAR10"])
    wrong = dict(inference=exportable.inference, for_int8=exportable.for_int8)
    bad = dataclasses.replace(other, **wrong)
    with pytest.raises(UserError, match=r"differs from the network.*it is not written"):
        export(bad, wanted, str(path), images, images)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"former"


@pytest.mark.long
def test_what_cannot_be_converted_is_one_line(exportable, tmp_path, images):
    broken = dataclasses.replace(exportable, activation=lambda logits: None / 0)
    with pytest.raises(UserError, match="ResNet-8 cannot be converted to ONNX"):
        export(broken, ONNX, str(tmp_path / "x.onnx"), images)
    assert os.listdir(tmp_path) == []


@pytest.mark.long
def test_a_nan_is_a_difference(exportable, tmp_path, images):
    wrong = dataclasses.replace(exportable, reference=lambda x: np.full([len(x), 10], np.nan))
    with pytest.raises(UserError, match="differs from the network: greatest difference nan"):
        export(wrong, ONNX, str(tmp_path / "x.onnx"), images)


@pytest.mark.parametrize(
    "arch, name",
    [
        pytest.param("ResNet-8", "BasicBlock1.0/conv1", marks=pytest.mark.long),
        pytest.param("MobileNet-v2", "InvertedResidual1.1/conv0", marks=pytest.mark.slow),
        pytest.param("MobileNet-v2", "InvertedResidual1.1/conv1", marks=pytest.mark.slow),
        pytest.param("ResNet-50", "BasicBlock0.0/conv0", marks=pytest.mark.slow),
    ],
)
def test_a_branch_of_dead_filters_is_a_constant_in_int8(tmp_path, images, arch, name):
    """The kernels of XNNPACK refuse a range of rounding errors."""
    network = settled_network(arch, False, "symmetric", 16, width=0.25)
    conv = next(layer for layer in network.network_layers if layer.path == name)
    conv.norm.arrays["beta"].assign_sub(tf.fill(conv.norm.arrays["beta"].shape, 100.0))
    exportable = of_network(network, *PIXELS["CIFAR10"])
    silent = silent_layers(exportable.inference, images)
    assert f"{conv.path.replace('/', '_')}_relu" in silent
    small = exportable.for_int8(images)
    assert len(small.layers) < len(exportable.inference.layers)
    expected = exportable.expected(images)["logits"]
    np.testing.assert_allclose(small(images), expected, atol=1e-5 * np.abs(expected).max())
    path = str(tmp_path / "x.tflite")
    write(exportable, TFLITE["int8"], path, images)
    with Running(path, "tflite") as running:
        assert np.isfinite(running.answers(images)["logits"]).all()


@pytest.mark.long
def test_a_library_that_crashes_ends_only_its_own_process(tmp_path, monkeypatch, images):
    runner = tmp_path / "runner.py"
    runner.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr("exports.process.RUNNER", runner)
    with pytest.raises(UserError, match=r"x cannot be run: the library .* ended with code -11"):
        Running("x", "onnx")


def test_the_class_of_a_single_output():
    outputs = np.array([[-1.0], [0.3], [0.7]])
    assert top1(outputs).tolist() == [0, 1, 1]
    assert top1(outputs, logits=False).tolist() == [0, 0, 1]
    assert top1(np.array([[0, 2, 1], [5, 2, 1]])).tolist() == [1, 0]


def test_the_files_of_a_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    assert files_of(tmp_path / "a") == [str(tmp_path / "a" / "b" / "c")]
    assert files_of(tmp_path / "a" / "b" / "c") == [tmp_path / "a" / "b" / "c"]
