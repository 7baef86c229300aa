"""Small models, one or more per rule: their gates, and masked equals extracted."""

import keras
import numpy as np
import pytest
from keras_models import (
    L,
    assert_masked_equals_extracted,
    conv,
    conv_bn,
    randomised,
)

from coupling.network import KerasNetwork

ops = keras.ops


def image(size=8, channels=3):
    return keras.Input((size, size, channels))


def head(x):
    return L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x))


def ends(x, image):
    return keras.Model(image, head(x))


def chain():
    """Activations that do not keep 0, biases, borders of zeros."""
    x = i = image()
    x = conv(8, activation="sigmoid", name="a")(x)
    x = L.ZeroPadding2D()(x)
    x = L.Dropout(0.5)(conv(6, padding="valid", activation="swish", name="b")(x))
    return ends(x, i)


def grouped():
    x = i = image()
    x = conv(8, name="a")(x)
    x = L.ReLU()(conv(12, groups=2, name="b")(x))
    return ends(conv(5, name="c")(x), i)


def depthwise_as_groups():
    x = i = image()
    x = conv(8, name="a")(x)
    return ends(conv(16, groups=8, name="b")(x), i)


def depthwise():
    x = i = image()
    x = conv(8, name="a")(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, activation="sigmoid", name="b")(x)
    return ends(conv(5, name="c")(x), i)


def separable():
    x = i = image()
    x = conv(8, name="a")(x)
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, activation="swish", name="b")(x)
    return ends(L.BatchNormalization()(x), i)


def transposed():
    x = i = image()
    x = conv(8, name="a")(x)
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="b")(x)
    return ends(x, i)


def flattened():
    x = i = image()
    x = L.MaxPooling2D()(conv(6, name="a")(x))
    x = L.BatchNormalization()(L.Flatten()(x))
    x = L.Dense(8, activation="sigmoid", name="b")(x)
    return keras.Model(i, L.Dense(3, name="head")(x))


def concatenated():
    x = i = image()
    a, b = conv(8, name="a")(x), conv_bn(x, 4, "b")
    x = L.Activation("sigmoid")(L.Concatenate()([b, a, b]))
    return ends(conv(5, name="c")(x), i)


def added():
    x = i = image()
    a = conv(8, name="a")(x)
    b = conv(8, name="b")(L.ReLU()(a))
    return ends(ops.relu(a + 2.0 * b), i)


def squeezed():
    """A squeeze-and-excitation block: reshape, sigmoid, product."""
    x = i = image()
    x = conv_bn(x, 8, "a")
    s = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    s = conv(4, 1, activation="swish", name="s")(s)
    s = conv(8, 1, activation="sigmoid", name="t")(s)
    return ends(L.Multiply()([x, s]), i)


def reshaped():
    """A dense layer becomes a picture: places of one channel go together."""
    x = i = keras.Input((5,))
    x = L.Reshape((4, 4, 6))(L.Dense(96, activation="relu", name="a")(x))
    return ends(L.Conv2DTranspose(4, 3, name="b")(x), i)


def padded_channels():
    """The shortcut of a ResNet without projections: half of the channels are constant."""
    x = i = image()
    x = conv(4, name="a")(x)
    y = conv(8, name="b")(x)
    return ends(y + ops.pad(x, [[0, 0], [0, 0], [0, 0], [2, 2]]), i)


def shuffled():
    x = i = image()
    x = conv(8, name="a")(x)
    x = L.Reshape((8, 8, 2, 4))(x)
    x = L.Reshape((8, 8, 8))(L.Permute((1, 2, 4, 3))(x))
    return ends(conv(6, groups=2, name="b")(L.ReLU()(x)), i)


def shuffled_by_ops():
    x = i = image()
    x = conv(8, name="a")(x)
    x = ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 4)), (0, 1, 2, 4, 3))
    x = ops.reshape(x, (-1, 8, 8, 8))
    return ends(conv(5, name="b")(x), i)


def shared():
    """One layer on two inputs unites what it reads."""
    x = i = image()
    layer, norm = conv(6, name="c"), L.BatchNormalization()
    a = conv(8, name="a")(x)
    b = conv(8, name="b")(L.ReLU()(a))
    x = L.Concatenate()([norm(layer(a)), norm(layer(b))])
    return ends(x, i)


def nested():
    inner = keras.Sequential([keras.Input((None, None, 8)), conv(6, name="b"), L.ReLU()], name="in")
    j = keras.Input((8, 8, 8))
    outer = keras.Model(j, L.BatchNormalization(name="bn")(inner(j)), name="out")
    x = i = image()
    x = outer(conv(8, name="a")(x))
    return ends(x, i)


def nested_shared():
    j = keras.Input((8, 8, 8))
    inner = keras.Model(j, L.ReLU()(conv(8, name="c")(j)), name="in")
    x = i = image()
    a = inner(conv(8, name="a")(x))
    b = inner(conv(8, name="b")(x))
    return ends(L.Concatenate()([a, b]), i)


def nested_without_weights():
    """Nothing inside ties its inputs, but it can have only one shape."""
    j = keras.Input((8, 8, 8))
    inner = keras.Model(j, L.ReLU()(j), name="in")
    x = i = image()
    a, b = inner(conv(8, name="a")(x)), inner(conv(8, name="b")(x))
    return ends(L.Concatenate()([a, conv(5, name="c")(b)]), i)


def reshaped_twice():
    """One reshape on two vectors: it has one shape."""
    x = i = keras.Input((5,))
    reshape = L.Reshape((1, 1, 8))
    a, b = reshape(L.Dense(8, name="a")(x)), reshape(L.Dense(8, name="b")(x))
    return ends(L.Concatenate()([a, conv(4, 1, name="c")(b)]), i)


def prelu():
    x = i = image()
    x = L.PReLU(shared_axes=[1, 2])(conv(6, name="a")(x))
    x = L.PReLU()(conv(4, name="b")(x))
    return ends(x, i)


def batch_norms():
    """Without scale, without both, frozen, and called with training=False."""
    x = i = image()
    x = L.BatchNormalization(scale=False)(conv(6, name="a")(x))
    x = L.BatchNormalization(scale=False, center=False)(conv(5, name="b")(x))
    x = L.BatchNormalization(trainable=False)(conv(4, name="c")(x))
    x = L.BatchNormalization()(conv(7, name="d")(x), training=False)
    return ends(x, i)


def several_outputs():
    i = {side: keras.Input((8, 8, 3), name=side) for side in ("left", "right")}
    a, b = conv(6, name="a")(i["left"]), conv(6, name="b")(i["right"])
    x = a + b
    y = conv(4, name="c")(x)
    return keras.Model(i, {"logits": head(y), "features": y, "mean": L.Dense(2)(L.Flatten()(x))})


def layer_normalised():
    x = i = image()
    x = L.LayerNormalization(name="ln")(conv(6, name="a")(x))
    x = L.ReLU()(conv(5, name="b")(x))
    return ends(conv(4, activation="softmax", name="c")(x), i)


def attended():
    """Attention over places: one channel, which is multiplied with all."""
    x = i = image()
    x = conv(6, name="a")(x)
    return ends(x * conv(1, activation="sigmoid", name="b")(x), i)


def halves():
    """A gated linear unit by a split."""
    x = i = image()
    a, b = ops.split(conv(12, name="a")(x), 2, axis=-1)
    return ends(a * ops.sigmoid(b), i)


def one_dimensional():
    x = i = keras.Input((16, 3))
    x = L.BatchNormalization()(L.Conv1D(8, 3, name="a")(x))
    x = L.SeparableConv1D(6, 3, name="b")(L.DepthwiseConv1D(3, name="d")(x))
    x = L.UpSampling1D()(L.Conv1DTranspose(5, 3, name="c")(x))
    return keras.Model(i, L.Dense(3, name="head")(L.GlobalMaxPooling1D()(x)))


def per_place():
    """Dense layers along the channels of a picture."""
    x = i = image()
    x = L.Dense(8, activation="gelu", name="a")(x)
    return ends(L.Dense(6, name="b")(x), i)


def embedded_noise():
    """Layers that do nothing but in training, and random ones."""
    x = i = image()
    x = L.GaussianNoise(0.5)(L.RandomFlip()(conv(6, name="a")(x)))
    return ends(L.SpatialDropout2D(0.5)(x), i)


GATES = {
    chain: [("a", 8, 1), ("b", 6, 1)],
    grouped: [("a", 4, 1), ("b", 6, 1), ("c", 5, 1)],
    depthwise_as_groups: [("a", 8, 2)],
    depthwise: [("a", 8, 2), ("c", 5, 1)],
    separable: [("a", 8, 2), ("b", 6, 1)],
    transposed: [("a", 8, 1), ("b", 6, 1)],
    flattened: [("a", 6, 1), ("b", 8, 1)],
    concatenated: [("a", 8, 1), ("b", 4, 1), ("c", 5, 1)],
    added: [("a", 8, 2)],
    squeezed: [("a", 8, 2), ("s", 4, 1)],
    reshaped: [("a", 6, 1), ("b", 4, 1)],
    padded_channels: [("a", 4, 2)],
    shuffled: [("a", 2, 1), ("b", 3, 1)],
    shuffled_by_ops: [("a", 4, 1), ("b", 5, 1)],
    shared: [("a", 8, 2), ("c", 6, 1)],
    nested: [("a", 8, 1), ("out/in/b", 6, 1)],
    nested_shared: [("b", 8, 2), ("in/c", 8, 1)],
    nested_without_weights: [("b", 8, 2), ("c", 5, 1)],
    reshaped_twice: [("b", 8, 2), ("c", 4, 1)],
    prelu: [("a", 6, 1), ("b", 4, 1)],
    batch_norms: [("a", 6, 1), ("b", 5, 1), ("c", 4, 1), ("d", 7, 1)],
    several_outputs: [("a", 6, 2)],
    layer_normalised: [("b", 5, 1)],
    attended: [("a", 6, 1)],
    halves: [("a", 6, 1)],
    one_dimensional: [("a", 8, 3), ("b", 6, 1), ("c", 5, 1)],
    per_place: [("a", 8, 1), ("b", 6, 1)],
    embedded_noise: [("a", 6, 1)],
}


@pytest.fixture(scope="module")
def network():
    """network(build) -> its KerasNetwork, with random weights."""
    made = {}

    def make(build):
        if build not in made:
            keras.utils.set_random_seed(0)
            made[build] = KerasNetwork(randomised(build()))
        return made[build]

    return make


@pytest.mark.parametrize("build", GATES, ids=lambda build: build.__name__)
def test_gates_and_equality(network, build):
    gates = network(build).gates
    assert sorted((g.name, g.size, g.uses) for g in gates) == sorted(GATES[build])
    assert_masked_equals_extracted(network(build))


def member(network, gate, path):
    (gate,) = (g for g in network.gates if g.name == gate)
    return {(m.path, m.axis): m.indices for m in gate.members}[path]


def test_the_flattened_map_has_each_place_of_a_channel(network):
    indices = member(network(flattened), "a", ("b/kernel", 0))
    assert np.array_equal(indices, np.arange(6)[:, None] + 6 * np.arange(16))


def test_a_doubled_channel_is_two_places(network):
    assert np.array_equal(
        member(network(concatenated), "b", ("c/kernel", 2)), [[n, 12 + n] for n in range(4)]
    )
    assert np.array_equal(
        member(network(depthwise), "a", ("c/kernel", 2)), [[2 * n, 2 * n + 1] for n in range(8)]
    )
    assert np.array_equal(
        member(network(grouped), "a", ("a/kernel", 3)), [[n, 4 + n] for n in range(4)]
    )


def test_what_is_frozen_says_why(network):
    why = lambda build: {(f.layer, f.count): f.why for f in network(build).frozen}
    assert why(chain) == {("head", 3): "tied to the model's output head"}
    assert why(layer_normalised) == {
        ("a", 6): "there is no rule for the weights of LayerNormalization ln",
        ("c", 4): "the activation of Conv2D c mixes channels or has their number inside",
        ("head", 3): "tied to the model's output head",
    }
    assert why(attended)["b", 1] == "the activation of Conv2D b has a single channel"
    # Four channels of b are added to constants.
    assert why(padded_channels)["b", 4].endswith("adds channels that are constant")


def test_scales_are_only_undone_by_batch_norms_that_use_the_batch(network):
    normed = lambda build: {w.path for w in network(build).weights if w.normed}
    assert normed(batch_norms) == {"a/kernel", "b/kernel", "d/kernel"}
    assert normed(concatenated) == {"b/kernel"}
    assert normed(one_dimensional) == {"a/kernel"}
    assert normed(shared) == {"c/kernel"}
    assert normed(chain) == set()
