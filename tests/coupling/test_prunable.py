"""A Keras model in the steps of a run: the twin of a ResNet-20 has its gates, logits and scores."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import conv, half_mask, randomised, resnet_20

from coupling.extraction import extract
from coupling.heads import without_head
from coupling.prunable import PrunableModel
from distribution.runtime import Runtime
from ekg.extraction import filter_weights
from ekg.importance import split
from ekg.knowledge import reward_loss
from ekg.search import Greedy
from ekg.validation import Validation
from engine.options import SearchOptions
from nets.gates import Context
from op_utils import predicting_step, scoring_step
from utils import UserError

L = keras.layers
RNG = np.random.default_rng(3)
IMAGES = RNG.standard_normal((12, 32, 32, 3)).astype(np.float32)
LABELS = np.arange(12) % 10
given = lambda batch: batch["images"]


@pytest.fixture(scope="module")
def runtime():
    return Runtime(tf.distribute.get_strategy(), multiple=1, drops=False)


def twin_of(network):
    """A Keras ResNet-20 with the arrays of ours, in float32 and the same order of layers."""
    model = PrunableModel(resnet_20())
    ours = network.parameters()
    names = {}
    for path in model.variables_by_name():
        layer, array = path.rsplit("/", 1)
        if layer == "fc":
            names[path] = f"fc/{'biases' if array == 'bias' else 'kernel'}:0"
            continue
        if layer.startswith("stem"):
            target = "bn" if layer.endswith("_bn") else "conv"
        else:
            block, part = layer.split("_", 1)
            part = part.replace("_bn", "")
            kind = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3"}[part]
            target = f"BasicBlock{block.removeprefix('block')}/"
            target += kind if layer.endswith("_bn") else part
        names[path] = f"{target}/{array}:0"
    shapes = {path: variable.shape for path, variable in model.variables_by_name().items()}
    model.assign({path: ours[name].reshape(shapes[path]) for path, name in names.items()})
    for layer in model.model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.epsilon = 1e-5
    return model


@pytest.fixture(scope="module")
def pair():
    from conftest import random_arrays

    from nets import build_network

    network = build_network("ResNet-20", 10, 32, random_arrays("ResNet-20"))
    return network, twin_of(network)


@pytest.fixture(scope="module")
def order(pair):
    """int [F]: where each filter of ours is among the twin's; gates may come in another order."""
    ours, twin = pair
    renamed = lambda name: (
        name.replace("stem", "conv").replace("block", "BasicBlock").replace("_conv", "/conv")
    )
    starts = np.cumsum([0, *twin.gate_sizes])
    place = {renamed(gate.name): starts[gate.index] for gate in twin.gates}
    return np.concatenate([place[gate.name] + np.arange(gate.size) for gate in ours.gates])


def test_the_twin_has_the_same_gates(pair, order):
    ours, twin = pair
    assert sorted(gate.uses for gate in twin.gates) == sorted(gate.uses for gate in ours.gates)
    assert len(order) == twin.gate_sizes.sum()


def test_masked_logits_are_the_same(pair, order):
    ours, twin = pair
    flat = half_mask(ours)
    theirs = np.empty_like(flat)
    theirs[order] = flat
    masked = lambda network, mask: Context("batch", network.split_masks(tf.constant(mask)))
    # Ours keeps the norm of the last kernel too; here only kernels before a batch norm keep theirs.
    kernel, bias = (ours.parameters()[f"fc/{name}:0"] for name in ("kernel", "biases"))
    gate = ours.network_layers[-1].in_gate.index
    kept = kernel[split(flat, ours.gate_sizes)[gate] > 0]
    rescaled = np.linalg.norm(kernel) / np.linalg.norm(kept)
    cases = [
        (rescaled, masked(ours, flat), masked(twin, theirs)),
        (1, Context("batch"), Context("batch")),
        (1, Context("moving"), Context("moving")),
    ]
    for factor, *contexts in cases:
        a, b = (network(IMAGES, ctx).numpy() for network, ctx in zip(pair, contexts))
        b = (b - bias) * factor + bias
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max())


@pytest.mark.long
def test_scores_are_the_same_from_as_many_places(pair, order, runtime):
    ours, _ = pair
    batch = {"images": IMAGES, "labels": LABELS, "weights": np.full(12, 1 / 12, np.float32)}
    found = []
    for network in pair:
        step = scoring_step(network, runtime, given, reward_loss)
        masks = np.ones(network.gate_sizes.sum(), np.float32)
        signed = step(batch, masks=masks)[0]["signed"]
        assert step.traces == 1 and sum(map(len, signed)) == 19
        scores = [np.sum([np.abs(use) for use in uses], 0) for uses in signed]
        found.append(np.concatenate(scores))
    starts = np.cumsum([0, *ours.gate_sizes])
    for begin, end in itertools.pairwise(starts):
        a, b = found[0][begin:end], found[1][order[begin:end]]
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * a.max())


def test_weights_of_filters_are_the_same(pair, order):
    ours, twin = pair
    flat = half_mask(ours)
    theirs = np.empty_like(flat)
    theirs[order] = flat
    a, b = np.zeros(len(flat)), np.zeros(len(flat))
    for places, weights in filter_weights(ours, flat):
        a[places] += np.abs(weights).sum(1)
    for places, weights in twin.filter_weights(theirs):
        b[places] += np.abs(weights).sum(1)
    np.testing.assert_allclose(b[order], a, rtol=1e-5)


@pytest.mark.long
def test_a_search_ends_just_under_its_target_and_is_extracted(pair, runtime):
    _, twin = pair
    on_val = Validation(twin, runtime, given, IMAGES, LABELS, 12)
    search = Greedy(
        twin, LABELS, on_val.importance, on_val.predict, SearchOptions(0.9, 0.2, "slice")
    )
    state, _ = search.start()
    while not search.done(state):
        record = search.advance(state)
    assert on_val.scoring.traces == on_val.sub_networks.step.traces == 1
    masks = state.history[-1].masks(twin.gate_sizes)
    small = PrunableModel(extract(twin, masks, keep_norms=True))
    assert small.cost() == (record["flops"], record["params"])
    step = predicting_step(small, runtime, given, statistics="batch")
    (expected,) = on_val.predict(masks[None])
    logits = step({"images": IMAGES})[1]["logits"].numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_statistics_move_in_the_order_of_the_pass(pair):
    _, twin = pair
    ctx = Context("batch")
    twin(IMAGES, ctx)
    shapes = [tuple(mean.shape) for mean, _ in ctx.batch_statistics]
    assert shapes == [tuple(bn.arrays["moving_mean"].shape) for bn in twin.batch_norms]
    bn = PrunableModel(randomised(resnet_20())).batch_norms[0]
    mean, before = tf.ones([16]), bn.arrays["moving_mean"].numpy()
    bn.move(mean, mean)
    np.testing.assert_allclose(bn.arrays["moving_mean"], 0.9 * before + 0.1, rtol=1e-6)
    bn.move(mean, mean, decay=0.0)
    np.testing.assert_array_equal(bn.arrays["moving_mean"], mean)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [8, 9])
def test_a_1x1_convolution_with_strides_reads_the_same_pixels(padding, size):
    image = keras.Input((size, size, 4))
    options = dict(strides=(2, 3), padding=padding, activation="relu", groups=2)
    y = L.Dense(3)(L.Flatten()(L.Conv2D(6, 1, **options)(image)))
    model = randomised(keras.Model(image, y))
    images = RNG.standard_normal((2, size, size, 4)).astype(np.float32)
    found = PrunableModel(model)(images, Context("moving"))
    np.testing.assert_allclose(found, model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", ["within", "softmax", "activation", "nested", "none"])
def test_the_end_comes_off_for_logits_and_is_put_back(end):
    image = keras.Input((8, 8, 3))
    x = L.Flatten()(conv(4)(image))
    last = L.Dense(5, activation="softmax" if end in ("within", "nested") else None, name="last")
    y = keras.Sequential([keras.Input(x.shape[1:]), last])(x) if end == "nested" else last(x)
    y = {"softmax": L.Softmax(), "activation": L.Activation("softmax")}.get(end, lambda y: y)(y)
    model = randomised(keras.Model(image, y))
    images = RNG.standard_normal((2, 8, 8, 3)).astype(np.float32)
    expected = model(images).numpy()
    logits, head = without_head(model)
    found = logits(images).numpy()
    assert (found < 0).any()
    if end != "none":
        np.testing.assert_allclose(tf.nn.softmax(found), expected, rtol=1e-5)
    np.testing.assert_allclose(head.put_back(logits)(images), expected, rtol=1e-5)


def test_one_output_is_needed():
    image = keras.Input((8, 8, 3))
    x = L.Flatten()(image)
    with pytest.raises(UserError, match="has 2 outputs"):
        without_head(keras.Model(image, [L.Dense(2)(x), L.Dense(3)(x)]))
