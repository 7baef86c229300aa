"""nets.load: a parameter file becomes a function of images to logits."""

import numpy as np
import pytest
import tensorflow as tf

import nets
from dataloader import AUGMENTATIONS
from dataloader.augment import normalise
from ekg.extraction import extract
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from utils import UserError

META = {"arch": "ResNet-20", "dataset": "CIFAR100", "input_size": 32}


@pytest.fixture
def pruned(network):
    """Array dict of a third of a ResNet-20, with variances above 0."""
    flat = np.concatenate([np.arange(size) < size // 3 for size in network.gate_sizes])
    arrays = extract(network, flat.astype(np.float32))
    return {n: np.abs(a) + 0.1 if "variance" in n else a for n, a in arrays.items()}


@pytest.fixture
def path(pruned, tmp_path):
    write_parameters(str(tmp_path / "pruned.pkl"), pruned, META)
    return tmp_path / "pruned.pkl"


@pytest.mark.long
def test_uint8_images_are_normalised_as_in_training(path, pruned):
    loaded = nets.load(path)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    alone = nets.build_network("ResNet-20", 10, 32, pruned)
    prepared = normalise(images, AUGMENTATIONS["CIFAR100"])
    expected = alone(prepared, Context("moving")).numpy()
    close = dict(rtol=0, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(loaded(images), expected, **close)
    np.testing.assert_allclose(loaded(prepared), expected, **close)
    np.testing.assert_allclose(loaded(prepared.numpy().astype(np.float64)), expected, **close)
    np.testing.assert_allclose(loaded(images[:2]), expected[:2], **close)


def test_images_of_another_shape_or_type_are_named(path):
    loaded = nets.load(path)
    with pytest.raises(ValueError, match=r"images are uint8 \[1, 28, 28, 3\], expected .*\[B, 32,"):
        loaded(np.zeros((1, 28, 28, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images are int64 \[1, 32, 32, 3\]"):
        loaded(np.zeros((1, 32, 32, 3), np.int64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_are_not_normalised_are_refused(path, dtype):
    loaded = nets.load(path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"normalised, within -2.04 to 2.04; these reach 255; pass"
    ):
        loaded(pixels.astype(dtype))
    with pytest.raises(ValueError, match="pass pixels of 0 to 255 as uint8, or normalise them"):
        loaded(-pixels.astype(dtype))
    dark = np.full((1, 32, 32, 3), 20, dtype)
    with pytest.raises(ValueError, match="these reach 20"):
        loaded(dark)


@pytest.mark.long
def test_the_extremes_of_normalised_pixels_are_taken_with_noise_on_them(path):
    loaded = nets.load(path)
    extremes = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255)])
    prepared = normalise(extremes, AUGMENTATIONS["CIFAR100"]).numpy()
    np.testing.assert_allclose(loaded(prepared), loaded(extremes.astype(np.uint8)), atol=1e-4)
    assert np.isfinite(loaded(prepared * 2)).all()
    assert np.isfinite(tf.function(loaded)(prepared)).all()


@pytest.mark.long
def test_a_file_that_says_nothing_is_loaded_by_name(pruned, tmp_path):
    path = str(tmp_path / "bare.npz")
    write_parameters(path, pruned, {})
    with pytest.raises(UserError, match="does not say its arch; give arch=, one of ResNet-"):
        nets.load(path)
    with pytest.raises(UserError, match="does not say its dataset; give dataset=, one of CIFAR10"):
        nets.load(path, arch="ResNet-20")
    loaded = nets.load(path, arch="ResNet-20", dataset="CIFAR10")
    assert loaded(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)
    with pytest.raises(UserError, match="does not fit ResNet-56"):
        nets.load(path, arch="ResNet-56", dataset="CIFAR10")


def test_what_contradicts_the_file_is_refused(path):
    with pytest.raises(UserError, match="was saved for arch ResNet-20, not ResNet-56"):
        nets.load(path, arch="ResNet-56")
    with pytest.raises(UserError, match="was saved for dataset CIFAR100, not CIFAR10"):
        nets.load(path, dataset="CIFAR10")
    arrays, meta = read_parameters(str(path))
    write_parameters(str(path), arrays, meta | {"width_multiplier": 1.0})
    with pytest.raises(UserError, match=r"was saved for .*width_multiplier 1"):
        nets.load(path, width_multiplier=0.5)


@pytest.mark.parametrize("size", ["abc", None, -3, 10**6, 32.5])
def test_a_strange_input_size_counts_as_none(pruned, tmp_path, size):
    path = str(tmp_path / "strange.pkl")
    write_parameters(path, pruned, META | {"input_size": size})
    assert nets.load(path).network.input_size == 32


@pytest.mark.long
def test_a_narrow_network_with_symmetric_padding(tmp_path):
    """Width, padding and classes are those of the file: as the network itself computes."""
    variant = {"padding": "symmetric", "width_multiplier": 0.5}
    alone = nets.build_network("MobileNet-v2", 5, 32, **variant)
    write_parameters(
        str(tmp_path / "m.npz"),
        alone.parameters(),
        {"arch": "MobileNet-v2", "dataset": "CIFAR10", **variant},
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = alone(normalise(images, AUGMENTATIONS["CIFAR10"]), Context("moving")).numpy()
    found = nets.load(tmp_path / "m.npz")(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-6)


def test_each_type_of_images_is_traced_once(path):
    loaded = nets.load(path)
    for count in (3, 5, 7):
        loaded(np.zeros((count, 32, 32, 3), np.uint8))
    counts = [function.experimental_get_tracing_count() for function in loaded._predict.values()]
    assert sorted(counts) == [0, 1]
