"""The compiled steps: one trace each, the same results compiled or not and in parts or whole, the
update rule.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dataloader import AUGMENTATIONS
from dataloader.augment import augment, draw, normalise
from dataloader.sampling import padded_batches
from distribution.runtime import Runtime
from ekg.contrastive import contrastive_loss, plain_loss
from ekg.knowledge import reward_loss
from ekg.sub_networks import SubNetworks
from nets import build_network
from nets.gates import Context
from op_utils import (
    Optimizer,
    nesterov,
    predicting_step,
    scoring_step,
    statistics_step,
    training_step,
)
from utils import accumulator

pytestmark = pytest.mark.long

CIFAR = AUGMENTATIONS["CIFAR10"]


@pytest.fixture
def network(resnet_8):
    return resnet_8


def given(batch):
    return batch["images"]


def pixels(count):
    return np.random.default_rng(8).integers(0, 256, (count, 32, 32, 3), np.uint8)


def distillation_batch(count):
    rng = np.random.default_rng(9)
    return {
        "images": pixels(count),
        "labels": np.arange(count) % 10,
        "draws": draw(rng, count, 2),
        "bank": rng.standard_normal((count, 10, 3)).astype(np.float16),
    }


def scoring_batch(images):
    rng = np.random.default_rng(10)
    count = len(images)
    knowledge, weights = (
        rng.standard_normal((count, 10)).astype(np.float32),
        np.full(count, 1 / count, np.float32),
    )
    return {
        "images": images,
        "labels": np.arange(count) % 10,
        "knowledge": knowledge,
        "weights": weights,
    }


def two_views(batch):
    return augment(batch["images"], batch["draws"], CIFAR, colour=True)


def test_every_step_is_traced_once(network, runtime):
    """Over the last partial batch, other masks, learning rates, images and numbers given as Python
    or NumPy values.
    """
    sizes, rng = network.gate_sizes.sum(), np.random.default_rng(0)
    prepare = lambda batch: normalise(batch["images"], CIFAR)
    scoring, sub_networks = (
        scoring_step(network, runtime, prepare, reward_loss),
        SubNetworks(network, runtime, prepare, 3),
    )
    moving, statistics = (
        predicting_step(network, runtime, prepare),
        statistics_step(network, runtime, prepare),
    )
    distil = training_step(
        network, Optimizer(network.trainable, runtime), runtime, two_views, contrastive_loss
    )
    one_view = lambda batch: augment(batch["images"], batch["draws"], CIFAR, colour=False)
    plain = training_step(
        network, Optimizer(network.trainable, runtime), runtime, one_view, plain_loss
    )
    images = pixels(10)
    for indices, _ in padded_batches(10, 4):  # 4, 4 and a partial one of 2
        masks = (rng.random(sizes) < 0.7).astype(np.float32)
        scoring(scoring_batch(images[indices]), masks=masks)
        sub_networks(
            {"images": images[indices]},
            (rng.random((rng.integers(1, 6), sizes)) < 0.7).astype(np.float32),
        )
        moving({"images": images[indices]})
        statistics({"images": images[indices]})
        distil(distillation_batch(4), learning_rate=0.01 * rng.random(), weight_decay=5e-4)
        batch = {"images": images[indices], "labels": np.arange(4), "draws": draw(rng, 4, 1)}
        plain(batch, learning_rate=np.float32(rng.random()), weight_decay=np.float32(1e-4))
    assert [
        step.traces for step in (scoring, sub_networks.step, moving, statistics, distil, plain)
    ] == [1] * 6


def test_accumulated_training_runs_and_decides_by_part(network, runtime):
    student = build_network("ResNet-8", 10, 32, network.parameters())
    optimizer = Optimizer(student.trainable, runtime)
    step = training_step(
        student, optimizer, dataclasses.replace(runtime, accum=2), two_views, contrastive_loss
    )
    batch = distillation_batch(8)
    sums, _ = step(batch, learning_rate=0.01, weight_decay=0.0)
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        part = {name: value[half] for name, value in batch.items()}
        logits = network(tf.reshape(two_views(part), [8, 32, 32, 3]), Context("batch"))
        halves.append(tf.reduce_mean(contrastive_loss(part, tf.reshape(logits, [4, 2, 10]))))
    assert float(sums["loss"]) == pytest.approx(float(sum(halves)) / 2, rel=1e-4)


def test_a_live_teacher_sees_the_students_views_and_does_not_learn(network, runtime):
    """In parts too: each part's views have their own batch statistics, teacher's and student's
    alike.
    """
    student = build_network("ResNet-8", 10, 32)
    before, batch, seen = network.parameters(), distillation_batch(8), []

    def loss(batch, logits):
        seen.append(batch["answers"].shape)
        return tf.reduce_sum(batch["answers"] + 0 * logits, [1, 2])

    parts = dataclasses.replace(runtime, accum=2)
    step = training_step(
        student, Optimizer(student.trainable, runtime), parts, two_views, loss, teacher=network
    )
    total = float(step(batch, learning_rate=0.0, weight_decay=0.0)[0]["loss"])
    assert set(map(tuple, seen)) == {(4, 2, 10)} and step.traces == 1
    expected = 0.0
    for half in (slice(0, 4), slice(4, 8)):
        views = two_views({name: value[half] for name, value in batch.items()})
        expected += (
            float(tf.reduce_sum(network(tf.reshape(views, [8, 32, 32, 3]), Context("batch")))) / 8
        )
    assert total == pytest.approx(expected, rel=1e-3)
    for name, array in network.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_accumulator_adds_sums_and_keeps_rows_in_order():
    def compute(batch, shared):
        return {"sum": tf.reduce_sum(batch["x"]), "count": tf.constant(1.0)}, {
            "row": batch["x"] * shared["k"]
        }

    x = np.arange(12, dtype=np.float32).reshape(12, 1)
    run = tf.function(accumulator(compute, 3), autograph=False)
    sums, rows = run({"x": tf.constant(x)}, {"k": tf.constant(2.0)})
    assert (float(sums["sum"]), float(sums["count"])) == (66.0, 3.0)
    np.testing.assert_array_equal(rows["row"], 2 * x)


def test_nesterov_rule():
    v, w = nesterov(tf.constant(1.0), tf.constant(0.5), tf.constant(2.0), 0.1)
    assert float(v) == pytest.approx(0.9 * 0.5 - 0.1 * 2)
    assert float(w) == pytest.approx(1 + 0.9 * (0.9 * 0.5 - 0.2) - 0.2)


def test_nesterov_is_that_of_keras():
    ours, theirs = tf.Variable([1.0, -2.0]), tf.Variable([1.0, -2.0])
    optimizer = Optimizer([ours], Runtime(tf.distribute.get_strategy()))
    keras = tf.keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    for _ in range(4):
        optimizer.apply([2 * tf.convert_to_tensor(ours)], 0.1, 0.0)
        keras.apply_gradients([(2 * tf.convert_to_tensor(theirs), theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_weight_decay_is_an_l2_gradient_on_every_trainable_variable(network, runtime):
    """With a loss of 0 one step is w <- w - 1.9 lr wd w, on BN and bias too, and not on moving
    averages.
    """
    step = training_step(
        network,
        Optimizer(network.trainable, runtime),
        runtime,
        lambda batch: batch["images"][:, None],
        lambda batch, logits: 0.0 * tf.reduce_sum(logits, [1, 2]),
    )
    before = {v.name: v.numpy() for v in network.trainable}
    step(
        {"images": np.ones((2, 32, 32, 3), np.float32), "labels": np.zeros(2, np.int64)},
        learning_rate=0.1,
        weight_decay=0.5,
    )
    for variable in network.trainable:
        np.testing.assert_allclose(
            variable, before[variable.name] * (1 - 1.9 * 0.1 * 0.5), rtol=1e-5, atol=1e-7
        )


def test_two_views_share_the_statistics_and_halve_the_gradient(network, runtime):
    """Twice the same view of every image: loss twice, gradient once that of one view."""
    images, labels = (
        np.random.default_rng(1).standard_normal((4, 32, 32, 3)).astype(np.float32),
        np.arange(4),
    )
    updates = {}
    for views in (1, 2):
        student = build_network("ResNet-8", 10, 32, network.parameters())
        prepare = lambda batch, views=views: tf.repeat(batch["images"][:, None], views, 1)
        step = training_step(
            student, Optimizer(student.trainable, runtime), runtime, prepare, plain_loss
        )
        sums, _ = step({"images": images, "labels": labels}, learning_rate=0.1, weight_decay=0.0)
        updates[views] = float(sums["loss"]), student.parameters()
    assert updates[2][0] == pytest.approx(2 * updates[1][0], rel=1e-5)
    for name, array in updates[1][1].items():
        np.testing.assert_allclose(updates[2][1][name], array, rtol=1e-3, atol=1e-4, err_msg=name)


def test_training_moves_the_averages_and_learns(runtime):
    network = build_network("ResNet-8", 10, 32)
    step = training_step(
        network,
        Optimizer(network.trainable, runtime),
        runtime,
        lambda b: normalise(b["images"], CIFAR)[:, None],
        plain_loss,
    )
    labels = np.arange(20) % 2
    images = (pixels(20) // 4 + 120 * labels[:, None, None, None]).astype(np.uint8)
    losses = [
        float(
            step({"images": images, "labels": labels}, learning_rate=0.1, weight_decay=0.0)[0][
                "loss"
            ]
        )
        for _ in range(8)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert network.batch_norms[0].arrays["moving_mean"].numpy().any()
