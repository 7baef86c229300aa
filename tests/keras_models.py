"""Keras models for tests, and the check that a masked model equals the extracted one."""

import functools

import keras
import numpy as np
import tensorflow as tf

from coupling.extraction import extract
from coupling.graph import inference_flags, inlined, run_graph, run_nested
from coupling.masking import kept_filters, masked_values
from coupling.network import KerasNetwork

L = keras.layers


def randomised(model, seed=0):
    """The model with random weights, so that no bias of 0 and no scale of 1 hides a channel."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        scale = max(1, int(np.prod(weight.shape[:-1]))) ** -0.5
        if weight.name in ("gamma", "moving_variance", "variance"):
            value = random.uniform(0.5, 1.5, weight.shape)
        elif "kernel" in weight.name:
            value = random.normal(0, scale, weight.shape)
        else:
            value = random.normal(0, 0.2, weight.shape)
        if weight.dtype.startswith("float"):
            weight.assign(value.astype(np.float32))
    for layer in model.layers:
        if isinstance(layer, L.Normalization):
            layer.finalize_state()  # it computes with constants made from its weights
    return model


def half_mask(network, seed=1):
    """float32 [F]: half of each gate, rounded down but at least one filter, at random places."""
    random = np.random.default_rng(seed)
    halves = [random.permutation(np.arange(n) < max(1, n // 2)) for n in network.gate_sizes]
    return np.concatenate(halves or [np.zeros(0)]).astype(np.float32)


def images_for(network, seed=2):
    """list of float32 arrays, one per input of the model; 32 pixels where sizes are open."""
    random = np.random.default_rng(seed)
    shapes = [[3, *(n or 32 for n in x.shape[1:])] for x in network.model.inputs]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def difference(outputs, others):
    """The largest difference, relative to the largest output."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(outputs, others)
    ]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


def masked_outputs(network, mask, inputs, statistics="moving", keep_norms=False):
    """The outputs of the model with masks: flat list of tensors. No variable changes.

    Args:
        network: KerasNetwork.
        mask: float32 [F], see masked_values.
        inputs: flat list of tensors, one per input of the model.
        statistics: "batch" or "moving", what batch norms use. One that is not trainable uses
            its moving averages anyway.
        keep_norms: see masked_values.
    """
    values = masked_values(network, mask, keep_norms)
    with keras.StatelessScope(state_mapping=values):
        return outputs_of(network.model, inputs, statistics)


def outputs_of(model, inputs, statistics="moving"):
    """The outputs of a functional model: flat list of tensors.

    Only batch norms are told to train, by statistics "batch", so dropout and stochastic depth stay
    off. Outside of a StatelessScope that changes their moving averages.
    """

    def called(operation):
        nested = inlined(operation)
        if nested is not None:
            return functools.partial(run_nested, nested, called)
        return functools.partial(_called, operation, statistics)

    return run_graph(model, [tf.convert_to_tensor(x) for x in inputs], called)


def _called(operation, statistics, *args, **kwargs):
    flags = inference_flags(operation)
    if statistics == "batch" and type(operation) is keras.layers.BatchNormalization:
        flags = {"training": True}
    return operation(*args, **{**kwargs, **flags})


def assert_masked_equals_extracted(network, mask=None, statistics=("moving", "batch"), images=None):
    """With half of every gate gone. Returns the extracted model."""
    mask = half_mask(network) if mask is None else mask
    images = images_for(network) if images is None else images
    whole = outputs_of(network.model, images)
    for kind in statistics:
        keep_norms = kind == "batch"
        masked = masked_outputs(network, mask, images, kind, keep_norms)
        small = extract(network, mask, keep_norms)
        with keras.StatelessScope():  # batch statistics must not move the averages
            outputs = outputs_of(small, images, kind)
        assert difference(masked, outputs) < 1e-4
        if len(mask):
            assert difference(masked, whole) > 1e-3, "the mask has no effect"
    kept = kept_filters(network, mask)
    macs, params = network.cost(kept)
    assert params == small.count_params()
    assert macs == KerasNetwork(small, 32).cost()[0]
    return small


def conv(filters, size=3, **options):
    return L.Conv2D(filters, size, **{"padding": "same", **options})


def conv_bn(x, filters, name, strides=1, size=3):
    x = conv(filters, size, strides=strides, use_bias=False, name=name)(x)
    return L.BatchNormalization(name=f"{name}_bn")(x)


def resnet_20(classes=10, width=16):
    """ResNet-20 as a Keras model, as nets.resnet has it."""
    image = x = keras.Input((32, 32, 3))
    x = L.ReLU()(conv_bn(x, width, "stem"))
    for stage in range(3):
        for block in range(3):
            name = f"block{stage}.{block}"
            strides = 2 if stage and not block else 1
            shortcut = x
            if strides == 2:
                shortcut = conv_bn(x, width * 2**stage, f"{name}_conv3", 2, 1)
            y = L.ReLU()(conv_bn(x, width * 2**stage, f"{name}_conv1", strides))
            y = conv_bn(y, width * 2**stage, f"{name}_conv2")
            x = L.ReLU()(L.Add()([y, shortcut]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(classes, name="fc")(x))
