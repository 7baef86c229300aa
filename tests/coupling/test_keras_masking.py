"""Masks go into a run as data: one trace for all, and no variable changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import (
    L,
    conv,
    conv_bn,
    difference,
    half_mask,
    images_for,
    masked_outputs,
    outputs_of,
    randomised,
    resnet_20,
)

from coupling.masking import kept_filters, masked_values
from coupling.network import KerasNetwork


@pytest.fixture(scope="module")
def network():
    return KerasNetwork(randomised(resnet_20(width=4)))


def values_of(network):
    return [np.array(keras.ops.convert_to_numpy(w)) for w in network.model.weights]


def test_all_ones_are_the_model_itself(network):
    ones, images = np.ones(network.gate_sizes.sum(), np.float32), images_for(network)
    masked = masked_outputs(network, ones, images)
    assert difference(masked, [network.model(images[0], training=False)]) < 1e-6
    assert difference(masked, outputs_of(network.model, images)) == 0


@pytest.mark.long
@pytest.mark.parametrize("statistics", ["moving", "batch"])
def test_one_trace_serves_every_mask_and_no_variable_changes(network, statistics):
    traces = []

    @tf.function
    def logits(mask, images):
        traces.append(1)
        return masked_outputs(network, mask, [images], statistics, keep_norms=True)[0]

    (images,) = images_for(network)
    before = values_of(network)
    for seed in range(3):
        mask = half_mask(network, seed)
        eager = masked_outputs(network, mask, [images], statistics, keep_norms=True)
        assert difference(eager, [logits(tf.constant(mask), tf.constant(images))]) < 1e-5
    assert len(traces) == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, values_of(network)))


def test_what_is_read_is_masked_as_well_as_what_is_written(network):
    mask = half_mask(network)
    values = {id(v): value.numpy() for v, value in masked_values(network, mask)}
    kernel = network.model.get_layer("block0.1_conv1").kernel
    gates = {gate.name: gate for gate in network.gates}
    parts = np.split(mask, np.cumsum(network.gate_sizes)[:-1])
    kept = [parts[gates[name].index] > 0 for name in ("stem", "block0.1_conv1")]
    expected = kernel.numpy() * kept[0][:, None] * kept[1]
    assert np.array_equal(values[id(kernel)], expected)
    norm = network.model.get_layer("block0.1_conv1_bn")
    assert np.array_equal(values[id(norm.beta)], norm.beta.numpy() * kept[1])
    assert id(norm.moving_variance) not in values


def test_norms_are_kept_where_only_batch_norms_read():
    image = keras.Input((8, 8, 3))
    x = conv(6, name="b")(L.ReLU()(conv_bn(image, 8, "a")))
    model = keras.Model(image, L.Dense(2)(L.GlobalAveragePooling2D()(x)))
    network = KerasNetwork(randomised(model))
    values = dict(
        (v.path.rpartition("/")[0], value.numpy())
        for v, value in masked_values(network, half_mask(network), keep_norms=True)
        if v.name == "kernel"
    )
    norm = lambda name: np.linalg.norm(model.get_layer(name).kernel)
    assert np.linalg.norm(values["a"]) == pytest.approx(norm("a"), rel=1e-6)
    assert np.linalg.norm(values["b"]) < 0.9 * norm("b")


def test_batch_statistics_are_those_of_the_batch_unless_a_norm_is_frozen():
    image = keras.Input((8, 8, 3))
    x = L.Dropout(0.5)(L.BatchNormalization(name="live")(image))
    fixed = L.BatchNormalization(trainable=False, name="fixed")(image)
    network = KerasNetwork(randomised(keras.Model(image, [x, fixed])))
    x = images_for(network)[0] * 3 + 1
    live, fixed = masked_outputs(network, np.zeros(0, np.float32), [x], "batch")
    norm = network.model.get_layer("live")
    scaled = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + norm.epsilon)
    assert np.allclose(live, scaled * norm.gamma + norm.beta, atol=1e-4)
    assert np.allclose(fixed, network.model.get_layer("fixed")(x, training=False), atol=1e-6)


def test_kept_filters_are_counted_per_gate(network):
    assert list(kept_filters(network, half_mask(network))) == list(network.gate_sizes // 2)
