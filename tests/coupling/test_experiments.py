"""Operations without weights are understood by what they do to channel numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from coupling.experiments import Input, understand

L, ops = keras.layers, keras.ops
FOUR = Input((2, 3, 3, 4), -1, tf.float32)
SIX = Input((2, 3, 3, 6), -1, tf.float32)


def found(function, *inputs):
    run = lambda values, target=None: tf.nest.flatten(function(*values))
    return understand(run, list(inputs))


@pytest.mark.parametrize(
    "layer",
    [
        L.ReLU(),
        L.ReLU(max_value=2.0),
        L.Activation("sigmoid"),
        L.Activation("swish"),
        L.MaxPooling2D(2),
        L.AveragePooling2D(2, padding="same"),
        L.ZeroPadding2D(1),
        L.Cropping2D(1),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Rescaling(1 / 255),
        lambda x: x * 2.0 + 1.0,
        lambda x: ops.sqrt(x),
        lambda x: ops.ones_like(x),
        lambda x: tf.image.flip_left_right(x),
    ],
)
def test_each_channel_alone(layer):
    behaviour = found(layer, FOUR)
    assert list(behaviour.outputs[0].numbers) == [1, 2, 3, 4]
    assert behaviour.outputs[0].axis == -1
    assert len(set(behaviour.groups)) == 5 and not behaviour.spread.any()


@pytest.mark.parametrize(
    "function",
    [
        L.Softmax(),
        L.UnitNormalization(),
        lambda x: x + np.arange(4, dtype=np.float32),
        lambda x: x[..., :2],
        lambda x: ops.max(x, -1, keepdims=True),
        lambda x: ops.mean(x, -1, keepdims=True),
        lambda x: ops.reshape(x, (2, 36)),
        lambda x: ops.flip(x, 3) + x,
        lambda x: 1 / 0,
        lambda x: tf.reduce_sum(x) * 0 + np.nan,
    ],
)
def test_what_mixes_channels_is_not_understood(function):
    assert found(function, FOUR) is None


def test_a_single_channel_is_no_evidence():
    assert found(L.ReLU(), Input((2, 3, 3, 1), -1, tf.float32)) is None


def test_concatenate_flatten_flip_and_stack_are_index_maps():
    numbers = lambda behaviour: list(behaviour.outputs[0].numbers)
    assert numbers(found(lambda a, b: L.Concatenate()([b, a]), FOUR, SIX)) == [
        *range(5, 11),
        1,
        2,
        3,
        4,
    ]
    assert numbers(found(L.Flatten(), FOUR)) == [1, 2, 3, 4] * 9
    assert numbers(found(lambda x: ops.flip(x, -1), FOUR)) == [4, 3, 2, 1]
    assert numbers(found(lambda x: ops.repeat(x, 2, axis=-1), FOUR)) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert numbers(found(lambda x: ops.pad(x, [[0, 0]] * 3 + [[1, 2]]), FOUR)) == [
        0,
        1,
        2,
        3,
        4,
        0,
        0,
    ]


def test_permute_moves_the_axis():
    behaviour = found(L.Permute((3, 1, 2)), FOUR)
    assert behaviour.outputs[0].axis == -3
    assert list(behaviour.outputs[0].numbers) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "function",
    [lambda a, b: a + b, lambda a, b: a * b, ops.maximum, lambda a, b: L.Subtract()([a, b])],
)
def test_merges_unite_their_inputs(function):
    behaviour = found(function, FOUR, FOUR)
    assert list(behaviour.groups[5:]) == list(behaviour.groups[1:5])
    assert len(set(behaviour.groups[1:])) == 4


def test_broadcasting_over_places_unites_and_over_channels_spreads():
    gate = Input((2, 1, 1, 4), -1, tf.float32)
    assert not found(lambda a, b: a * b, FOUR, gate).spread.any()
    one = Input((2, 3, 3, 1), -1, tf.float32)
    assert list(found(lambda a, b: a * b, FOUR, one).spread) == [False] * 5 + [True]


def test_a_split_keeps_the_same_places_of_each_output():
    behaviour = found(lambda x: ops.split(x, 2, axis=-1), FOUR)
    assert [list(o.numbers) for o in behaviour.outputs] == [[1, 2], [3, 4]]
    assert list(behaviour.groups[1:3]) == list(behaviour.groups[3:5])


def test_several_channels_at_one_place_go_together():
    def run(values, target=None):
        shape = [2, 3, 3, 2, 2]
        if target:
            shape[target[0]] = target[1]
        return [tf.reshape(values[0], shape)]

    behaviour = understand(run, [FOUR])
    assert behaviour.outputs[0].axis == -1
    assert behaviour.groups[1] == behaviour.groups[3] != behaviour.groups[2] == behaviour.groups[4]
