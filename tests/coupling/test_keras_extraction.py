"""The extracted model is a plain Keras model: it can be saved, loaded and trained by itself."""

import keras
import numpy as np
import pytest
from keras_models import (
    L,
    assert_masked_equals_extracted,
    conv,
    conv_bn,
    difference,
    half_mask,
    images_for,
    outputs_of,
    randomised,
    resnet_20,
)
from test_rules import GATES, concatenated, image

from coupling.extraction import extract
from coupling.network import KerasNetwork
from utils import UserError

pytestmark = pytest.mark.long


def test_whatever_goes_a_chain_stays_equal():
    """One filter left, all but one left, one gate whole."""
    network = KerasNetwork(randomised(resnet_20(width=4)))
    ends = np.cumsum(network.gate_sizes)
    last = np.zeros(ends[-1], np.float32)
    last[ends - 1] = 1
    assert_masked_equals_extracted(network, last, ["moving"])
    first_gone = np.ones(ends[-1], np.float32)
    first_gone[ends - network.gate_sizes] = 0
    assert_masked_equals_extracted(network, first_gone, ["moving"])
    half = half_mask(network)
    half[: ends[0]] = 1
    assert_masked_equals_extracted(network, half, ["moving"])


@pytest.mark.parametrize("build", GATES, ids=lambda build: build.__name__)
def test_saved_and_loaded_it_answers_the_same(build, tmp_path):
    network = KerasNetwork(randomised(build()))
    small = extract(network, half_mask(network))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    images = images_for(network)
    assert difference(outputs_of(small, images), outputs_of(loaded, images)) < 1e-5
    assert loaded.name == network.model.name
    names = lambda model: [layer.name for layer in model.layers if layer.weights]
    assert sorted(names(loaded)) == sorted(names(network.model))


def test_structures_and_names_of_inputs_and_outputs_stay():
    i = {side: keras.Input((8, 8, 3), name=side) for side in ("right", "left")}
    x = conv(6, name="a")(i["left"]) + conv(6, name="b")(i["right"])
    y = conv(4, name="c")(x)
    model = keras.Model(i, {"one": y, "two": L.Dense(2, name="d")(L.Flatten()(x))})
    network = KerasNetwork(randomised(model))
    small = extract(network, half_mask(network))
    data = {side: np.ones((1, 8, 8, 3), np.float32) for side in ("left", "right")}
    outputs = small(data)
    assert outputs["one"].shape == (1, 8, 8, 4) and outputs["two"].shape == (1, 2)


def test_the_new_model_shares_nothing_with_the_old_one():
    # No ResNet: oneDNN's gradient of a strided 1x1 kernel may crash (uxlfoundation/oneDNN#6035).
    network = KerasNetwork(randomised(concatenated()))
    small = extract(network, np.ones(network.gate_sizes.sum()))
    assert not {id(w) for w in small.weights} & {id(w) for w in network.model.weights}
    (images,) = images_for(network)
    before = network.model(images, training=False)
    small.compile("sgd", "mse")
    small.fit(images, np.ones((3, 3)), verbose=0)
    assert np.array_equal(before, network.model(images, training=False))


def test_settings_of_layers_stay():
    x = i = image()
    x = L.Conv2D(8, 3, 2, "same", dilation_rate=1, kernel_regularizer="l2", name="a")(x)
    x = L.BatchNormalization(momentum=0.7, epsilon=0.1, trainable=False, name="bn")(x)
    x = L.Dense(2)(L.GlobalAveragePooling2D()(L.LeakyReLU(negative_slope=0.3)(x)))
    network = KerasNetwork(randomised(keras.Model(i, x)))
    small = extract(network, half_mask(network))
    a, bn = small.get_layer("a"), small.get_layer("bn")
    assert a.filters == 4 and a.strides == (2, 2) and a.kernel_regularizer is not None
    assert bn.momentum == 0.7 and bn.epsilon == 0.1 and not bn.trainable
    assert_masked_equals_extracted(network)


def test_lambda_layers_and_preprocessing_are_kept(tmp_path):
    x = i = image()
    norm = L.Normalization(mean=[1.0, 2, 3], variance=[4.0, 5, 6])
    adapted = L.Normalization()
    adapted.adapt(np.random.default_rng(0).standard_normal((20, 8, 8, 3)) * 5)
    double = L.Lambda(lambda x: x * 2)
    x = double(conv(6, name="a")(adapted(norm(L.Rescaling(1 / 255)(x)))))
    model = keras.Model(i, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    kernels = [w for w in model.weights if "normalization" not in w.path]
    for weight in kernels:
        weight.assign(np.random.default_rng(1).normal(0, 1, weight.shape))
    network = KerasNetwork(model)
    assert [gate.name for gate in network.gates] == ["a"]
    small = assert_masked_equals_extracted(network, statistics=["moving"])
    (copy,) = (layer for layer in small.layers if isinstance(layer, L.Lambda))
    assert copy.function is double.function and len(double._inbound_nodes) == 1
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    images = images_for(network)
    assert difference(outputs_of(small, images), outputs_of(loaded, images)) < 1e-5


class Unconfigured(L.Layer):
    def __init__(self, constant, weighted):
        super().__init__(name="odd")
        self.constant = constant
        self.scale = self.add_weight(shape=(), name="scale") if weighted else None

    def call(self, x):
        return x + np.float32(self.constant)


def test_layers_without_configuration_are_used_as_they_are_if_they_have_no_weights():
    def network(weighted):
        x = i = image()
        x = Unconfigured(np.ones(1), weighted)(conv_bn(x, 6, "a"))
        x = conv(5, name="b")(x)
        return KerasNetwork(randomised(keras.Model(i, L.Dense(2)(L.GlobalMaxPool2D()(x)))))

    assert_masked_equals_extracted(network(False))
    with pytest.raises(UserError, match=r"Unconfigured odd cannot be copied: .* get_config"):
        extract(network(True), np.ones(5))
