"""Models that are no classifiers: regression and several outputs, with a loss function."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured
from keras_models import L

from ekg.keras import prune
from ekg.other_tasks import Packing, per_image, task_of
from utils import UserError

RNG = np.random.default_rng(0)
QUICK = dict(
    val_per_class=3,
    subset_per_class=6,
    search_batch_size=30,
    search_warmup_batch_size=30,
    train_epoch=6,
    learning_rate=1e-3,
    batch_size=24,
    num_teacher=2,
    views=("crop",),
    verbose=False,
)


def images():
    """(x float32 [120, 12, 12, 3], brightness [120], class [120])"""
    x, y = coloured(120, np.random.default_rng(0), 3, 12, noise=25)
    x = x / np.float32(255)
    return x, x.mean((1, 2, 3)) * 10, y


def model_of(*ends):
    i = keras.Input((12, 12, 3))
    x = L.Conv2D(8, 3, activation="relu")(L.Conv2D(8, 3, activation="relu")(i))
    x = L.GlobalAveragePooling2D()(x)
    outputs = [end(x) for end in ends]
    return keras.Model(i, outputs[0] if len(outputs) == 1 else outputs)


# ---------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize(
    "arrays",
    [
        np.arange(5),
        RNG.random((5, 2, 3), np.float32),
        [np.arange(5), RNG.random((5, 2))],
        {"a": np.arange(5) > 2, "b": (RNG.random(5),)},
    ],
    ids=["classes", "maps", "list", "dict"],
)
def test_packing_gives_back_what_it_took(arrays):
    packing, rows = Packing.of(arrays)
    assert rows.dtype == np.float32 and len(rows) == 5
    back = packing.unpacked(tf.constant(rows[1:4]))
    tf.nest.assert_same_structure(arrays, back)
    for given, found in zip(tf.nest.flatten(arrays), tf.nest.flatten(back)):
        assert found.dtype == given.dtype and found.shape == (3, *given.shape[1:])
        np.testing.assert_allclose(found, given[1:4], rtol=1e-6)


@pytest.mark.parametrize(
    "arrays, line",
    [
        ([np.zeros(3), np.zeros(4)], "different lengths"),
        (np.array(["a", "b"]), "labels are <U1; finite numbers are needed"),
        (np.array([1.0, np.nan]), "finite numbers"),
        (np.array([2**24 + 1]), "whole numbers above 16,777,216"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(arrays, line):
    with pytest.raises(UserError, match=line):
        Packing.of(arrays)


def squared(targets=1, outputs=1, loss=keras.losses.mean_squared_error):
    """The mean squared error of so many numbers, packed."""
    pack = lambda n: Packing.of(np.zeros((1, n), np.float32))[0]
    return per_image(loss, pack(targets), pack(outputs))


@pytest.mark.parametrize("loss", [keras.losses.mean_squared_error, keras.losses.MeanSquaredError()])
def test_a_loss_is_a_function_or_an_object(loss):
    y, o = RNG.random((2, 4, 3)).astype(np.float32)
    found = squared(3, 3, loss)(y, o)
    np.testing.assert_allclose(found, ((y - o) ** 2).mean(1), rtol=1e-5)


def test_one_loss_for_a_whole_batch_is_refused():
    with pytest.raises(UserError, match="one number per image is needed"):
        squared(1, 1, lambda y, o: tf.reduce_mean((y - o) ** 2))(
            np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32)
        )


def test_units_are_those_of_outputs_and_loss():
    y = RNG.normal(3, 2, (200, 2)).astype(np.float32)
    outputs = y + RNG.normal(0, 0.1, y.shape).astype(np.float32)
    task = task_of(squared(2, 2), y, outputs)
    # Accuracy is R^2 about the outputs' mean.
    constant = ((y - outputs.mean(0)) ** 2).mean()
    expected = 1 - ((y - outputs) ** 2).mean() / constant
    assert task.judgement.accuracy(y, outputs) == pytest.approx(expected, rel=1e-5)
    sums = task.measure(y, outputs)
    assert sums["top1"] / 200 == pytest.approx(expected, rel=1e-5)
    assert sums["loss"] / 200 == pytest.approx(((y - outputs) ** 2).mean(), rel=1e-5)
    # A teacher as far away as the outputs' own spread is as bad as a constant answer.
    far = outputs + outputs.std(0)
    assert task.judgement.agreement(far, outputs) == pytest.approx(constant, rel=1e-4)
    np.testing.assert_allclose(task.divergence(far, outputs, 4.0), constant, rtol=1e-4)


def test_what_the_device_computes_is_what_the_host_judges():
    y = RNG.normal(3, 2, (50, 2)).astype(np.float32)
    outputs, other = y + 0.1, y * 0.9
    task = task_of(squared(2, 2), y, outputs)
    weights = np.full(50, 1 / 50, np.float32)
    batch = {"labels": tf.constant(y), "weights": weights, "knowledge": tf.constant(other)}
    host = task.judgement.loss(y, outputs) + task.judgement.agreement(other, outputs)
    assert float(tf.reduce_sum(task.reward(batch, outputs))) == pytest.approx(host, rel=1e-5)
    views = tf.stack([outputs, other], 1)
    plain = task.plain({"labels": tf.constant(y)}, views)
    expected = ((outputs - y) ** 2).mean(1) + ((other - y) ** 2).mean(1)
    np.testing.assert_allclose(plain, expected, rtol=1e-4)
    right = task.right(tf.constant(y), views)
    assert right.shape == (50, 2)
    assert float(tf.reduce_mean(right[:, 1])) == pytest.approx(
        task.judgement.accuracy(y, other), rel=1e-4
    )


def test_outputs_no_better_than_their_mean_are_refused():
    y = RNG.normal(0, 1, (100, 1)).astype(np.float32)
    with pytest.raises(UserError, match="no better than"):
        task_of(squared(), y, RNG.normal(0, 1, (100, 1)).astype(np.float32))


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.long
def test_a_regression_is_pruned(tmp_path):
    x, y, _ = images()
    model = model_of(L.Dense(1))
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, y, epochs=25, batch_size=24, verbose=0)
    loss = keras.losses.MeanSquaredError()
    smaller = prune(model, (x, y), 0.6, loss=loss, folder=tmp_path / "run", **QUICK)
    assert smaller.count_params() < model.count_params() and smaller.output_shape == (None, 1)
    residue = y - smaller.predict(x, verbose=0)[:, 0]
    assert residue.var() < 0.2 * y.var()
    other = keras.losses.MeanAbsoluteError()
    with pytest.raises(UserError, match="with other options"):
        prune(model, (x, y), 0.6, loss=other, folder=tmp_path / "run", **QUICK)


@pytest.mark.long
@pytest.mark.parametrize("form", ["arrays", pytest.param("dataset", marks=pytest.mark.slow)])
def test_several_outputs_are_pruned(form):
    x, brightness, kinds = images()
    model = model_of(L.Dense(1), L.Dense(3, activation="softmax"))
    keras.utils.set_random_seed(0)
    parts = ["mse", "sparse_categorical_crossentropy"]
    model.compile(keras.optimizers.Adam(0.02), parts)
    model.fit(x, [brightness, kinds], epochs=25, batch_size=24, verbose=0)

    def loss(y, outputs):
        value = keras.losses.mean_squared_error(y[0][:, None], outputs[0])
        return value + keras.losses.sparse_categorical_crossentropy(y[1], outputs[1])

    data = (x, [brightness, kinds])
    if form == "dataset":
        data = tf.data.Dataset.from_tensor_slices((x, (brightness, kinds))).batch(50)
    smaller = prune(model, data, 0.6, loss=loss, finetune_teacher="single", **QUICK)
    assert smaller.count_params() < model.count_params()
    numbers, probabilities = smaller.predict(x, verbose=0)
    assert (brightness - numbers[:, 0]).var() < 0.3 * brightness.var()
    assert (probabilities.argmax(1) == kinds).mean() > 0.9
