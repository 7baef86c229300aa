"""Models that are no classifiers: regression and several outputs, with a loss function."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured
from keras_models import L

from ekg.keras import prune
from ekg.keras_own_loss import OwnLoss
from ekg.other_tasks import Packing, check_alone, per_image, task_of
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
    """(x float32 [120, 12, 12, 3], numbers of any size float64 [120], class [120])"""
    x, y = coloured(120, np.random.default_rng(0), 3, 12, noise=25)
    x = x / np.float32(255)
    return x, 400 + 1000 * x.mean((1, 2, 3), np.float64), y


def normalised(x):
    """A layer with adapted statistics: some of its weights are single numbers."""
    layer = L.Normalization()
    layer.adapt(x)
    return layer


def standing(x, y):
    """A last layer that begins with the mean and the spread of labels."""
    end = keras.Sequential([L.Dense(1), L.Rescaling(float(y.std()), float(y.mean()))])
    return end(x)


def model_of(*ends, first=lambda x: x):
    i = keras.Input((12, 12, 3))
    x = L.Conv2D(8, 3, activation="relu")(L.Conv2D(8, 3, activation="relu")(first(i)))
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
        assert found.dtype == tf.float32 and found.shape == (3, *given.shape[1:])
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


def test_labels_are_what_keras_gives_to_a_loss():
    """float32, and [n, 1] beside outputs [n, 1]."""
    packing, rows = Packing.of(np.arange(5, dtype=np.int64))
    loss = per_image(lambda y, o: tf.square(y - o), packing, Packing.of(np.zeros((1, 1)))[0])
    outputs = np.full((5, 1), 2.0, np.float32)
    np.testing.assert_allclose(loss(rows, outputs), (np.arange(5) - 2.0) ** 2)


def test_a_loss_that_mixes_images_is_refused():
    mixes = squared(1, 1, lambda y, o: tf.square(y[:, None] - o))  # [n, 1, 1] - [n, 1]: [n, n, 1]
    y = RNG.random((6, 1)).astype(np.float32)
    with pytest.raises(UserError, match="changes with the other images of its batch"):
        check_alone(mixes, y, y + 0.1)


def test_an_error_within_the_loss_is_one_line():
    with pytest.raises(UserError, match="the loss fails: ZeroDivisionError"):
        squared(1, 1, lambda y, o: 1 / 0)(np.zeros((4, 1)), np.zeros((4, 1)))


def test_units_are_those_of_outputs_and_loss():
    y = RNG.normal(3000, 200, (200, 2)).astype(np.float32)
    outputs = y + RNG.normal(0, 10, y.shape).astype(np.float32)
    task, spread = task_of(squared(2, 2), y, outputs)
    np.testing.assert_allclose(spread, outputs.std(0), rtol=1e-5)
    # Accuracy is R^2, wherever the outputs lie.
    constant = ((y - y.mean(0)) ** 2).mean()
    expected = 1 - ((y - outputs) ** 2).mean() / constant
    assert task.judgement.accuracy(y, outputs / spread) == pytest.approx(expected, rel=1e-3)
    sums = task.measure(y, outputs / spread)
    assert sums["top1"] / 200 == pytest.approx(expected, rel=1e-3)
    assert sums["loss"] / 200 == pytest.approx(((y - outputs) ** 2).mean(), rel=1e-2)
    # A teacher as far away as the outputs' own spread is as bad as a constant answer: 1.
    near = outputs / spread
    assert task.judgement.agreement(near + 1, near) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(task.divergence(near + 1, near, 4.0), 1, rtol=1e-3)


def test_what_the_device_computes_is_what_the_host_judges():
    y = RNG.normal(3, 2, (50, 2)).astype(np.float32)
    outputs, other = y + np.float32(0.1), y * np.float32(0.9)
    task, spread = task_of(squared(2, 2), y, outputs)
    own, others = outputs / spread, other / spread
    weights = np.full(50, 1 / 50, np.float32)
    batch = {"labels": tf.constant(y), "weights": weights, "knowledge": tf.constant(others)}
    host = task.judgement.loss(y, own) + task.judgement.agreement(others, own)
    assert float(tf.reduce_sum(task.reward(batch, own))) == pytest.approx(host, rel=1e-4)
    views = tf.stack([own, others], 1)
    plain = task.plain({"labels": tf.constant(y)}, views)
    unit = ((y - y.mean(0)) ** 2).mean()
    expected = (((outputs - y) ** 2).mean(1) + ((other - y) ** 2).mean(1)) / unit
    np.testing.assert_allclose(plain, expected, rtol=1e-3)
    right = task.right(tf.constant(y), views)
    assert right.shape == (50, 2)
    assert float(tf.reduce_mean(right[:, 1])) == pytest.approx(
        task.judgement.accuracy(y, others), rel=1e-3
    )


def test_outputs_no_better_than_their_mean_are_refused():
    y = RNG.normal(0, 1, (100, 1)).astype(np.float32)
    with pytest.raises(UserError, match="no better than"):
        task_of(squared(), y, RNG.normal(0, 1, (100, 1)).astype(np.float32))
    with pytest.raises(UserError, match="no better than"):
        task_of(squared(), y, y + 5)  # a constant answer is nearer


@pytest.mark.parametrize(
    "loss, line",
    [
        ("mso", "loss='mso' is no loss of Keras"),
        (keras.losses.MeanSquaredError, "loss is a type; a keras"),
        ({"a": "mse"}, "loss is a dict; a keras"),
    ],
)
def test_what_is_no_loss_is_refused(loss, line):
    with pytest.raises(UserError, match=line):
        OwnLoss(loss, None)


def test_losses_are_told_apart():
    made = lambda scale: lambda y, o: scale * tf.square(y - o)

    def said():
        losses = ["mse", keras.losses.Huber(1.0), keras.losses.Huber(0.5), made(1), made(2)]
        return [OwnLoss(loss, None).said for loss in losses]

    assert len(set(said())) == 5 and said() == said()


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.long
def test_a_regression_is_pruned(tmp_path):
    x, y, _ = images()
    keras.utils.set_random_seed(0)
    model = model_of(lambda z: standing(z, y), first=normalised(x))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, y, epochs=25, batch_size=24, verbose=0)
    loss = keras.losses.MeanSquaredError()
    smaller = prune(model, (x, y), 0.6, loss=loss, folder=tmp_path / "run", **QUICK)
    assert smaller.count_params() < model.count_params() and smaller.output_shape == (None, 1)
    residue = y - smaller.predict(x, verbose=0)[:, 0]
    assert residue.var() < 0.2 * y.var()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["accuracy_name"] == "explained" and result["pruned"]["top1"] > 0.9
    other = keras.losses.MeanAbsoluteError()
    with pytest.raises(UserError, match="with other options"):
        prune(model, (x, y), 0.6, loss=other, folder=tmp_path / "run", **QUICK)


@pytest.mark.long
@pytest.mark.parametrize("form", ["arrays", pytest.param("dataset", marks=pytest.mark.slow)])
def test_several_outputs_are_pruned(form):
    x, brightness, kinds = images()
    keras.utils.set_random_seed(0)
    end = lambda z: standing(z, brightness)
    model = model_of(end, L.Dense(3, activation="softmax"))
    brightness = brightness.astype(np.float32)
    parts = ["mse", "sparse_categorical_crossentropy"]
    model.compile(keras.optimizers.Adam(0.02), parts, loss_weights=[1e-4, 1.0])
    model.fit(x, [brightness, kinds], epochs=25, batch_size=24, verbose=0)

    def loss(y, outputs):
        value = keras.losses.mean_squared_error(y[0][:, None], outputs[0])
        return value / 10000 + keras.losses.sparse_categorical_crossentropy(y[1], outputs[1])

    data = (x, [brightness, kinds])
    if form == "dataset":
        data = tf.data.Dataset.from_tensor_slices((x, (brightness, kinds))).batch(50)
    smaller = prune(model, data, 0.6, loss=loss, finetune_teacher="single", **QUICK)
    assert smaller.count_params() < model.count_params()
    numbers, probabilities = smaller.predict(x, verbose=0)
    assert (brightness - numbers[:, 0]).var() < 0.3 * brightness.var()
    assert (probabilities.argmax(1) == kinds).mean() > 0.9
