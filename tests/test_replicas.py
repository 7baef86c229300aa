"""Replicas, accumulated parts, XLA and precision: what must not change a result, what may, and how
much.
"""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tiny

from analysis.curvature import Hessian
from dataloader import load_dataset
from dataloader.augment import augment
from distribution.runtime import Runtime
from distribution.step import Step
from ekg.contrastive import choose_knowledge, plain_loss
from ekg.knowledge import reward_loss
from engine.console import Bar
from engine.evaluation import Evaluator
from engine.feed import Feed
from engine.options import TrainOptions
from engine.training import train
from nets import build_network
from nets.gates import Context
from op_utils import LossScale, Optimizer, Rescaled, scoring_step, training_step

pytestmark = pytest.mark.long

PROGRAM = pathlib.Path(replicated.__file__)


def off_by(value, expected):
    """The largest difference, relative to the largest magnitude."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-30)


def steps(runtime):
    return replicated.scores_and_logits(runtime) | replicated.trained(runtime)


@pytest.fixture(scope="module")
def one():
    """The results of the steps on one replica."""
    return steps(Runtime(tf.distribute.get_strategy()))


@pytest.fixture(scope="module")
def all_of_one(one):
    """What `one` has, and the results of a step with a live teacher and of a short search."""
    runtime = Runtime(tf.distribute.get_strategy())
    return one | replicated.taught(runtime) | replicated.searched(runtime)


@pytest.fixture(scope="module")
def mirrored():
    """Two CPU replicas."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def results_of(replicas, statistics, folder):
    path = folder / "results.npz"
    command = [sys.executable, PROGRAM, str(replicas), statistics, path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(np.load(path))


# ----------------------------------------------------------------------------------------- replicas


def same_results(several, one):
    assert several.keys() == one.keys()
    for name in {"order", "gates", "widths", "flops"} & several.keys():
        np.testing.assert_array_equal(several[name], one[name], err_msg=name)
    for name, value in several.items():
        assert off_by(value, one[name]) <= 1e-5, name


def test_replicas_with_global_batch_statistics_are_one_replica(one, mirrored):
    """Losses, signed sums, scores, orders, bank logits before float16, parameters after 5 steps."""
    same_results(steps(Runtime(mirrored, sync_bn=True)), one)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_search_as_one_replica(all_of_one, tmp_path, replicas):
    """Also with a live teacher; and every step gives what it gives on one replica."""
    assert len(all_of_one["gates"]) >= 3 and len(set(all_of_one["gates"])) > 1
    same_results(results_of(replicas, "sync", tmp_path), all_of_one)


def test_replicas_of_a_keras_model_are_one_replica(mirrored):
    results = {}
    for name, strategy in (("one", tf.distribute.get_strategy()), ("two", mirrored)):
        runtime = Runtime(strategy, sync_bn=True, multiple=1, drops=False)
        make = replicated.keras_model_on
        found = replicated.scores_and_logits(runtime, make) | replicated.trained(runtime, make)
        results[name] = found
    assert results["one"].keys() == results["two"].keys()
    np.testing.assert_array_equal(results["one"]["order"], results["two"]["order"])
    for name, value in results["two"].items():
        assert off_by(value, results["one"][name]) <= 1e-5, name


@pytest.mark.slow
def test_replicas_with_their_own_statistics_give_the_same_shapes_and_reach_the_same_target(
    all_of_one, tmp_path
):
    """Without --sync_bn each replica normalises with its own half of the batch, as published. So
    whatever has passed a batch norm with batch statistics may differ: logits, losses, scores, hence
    orders, the gates a search takes and trained parameters. What must not: shapes, costs of given
    widths, logits on moving averages, and that the search ends at or under its target within one
    filter.
    """
    local, one = results_of(2, "local", tmp_path), all_of_one
    names = [name for name in one if name not in ("gates", "widths", "flops", "search losses")]
    assert {name: local[name].shape for name in names} == {name: one[name].shape for name in names}
    assert off_by(local["moving logits"], one["moving logits"]) <= 1e-5
    assert off_by(local["bank logits"], one["bank logits"]) > 1e-3, (
        "or the statistics were not local"
    )
    assert local["flops"][0] == one["flops"][0]
    for flops in (local["flops"], one["flops"]):
        assert flops[-1] <= 0.75 * flops[0] < flops[-2]


def test_the_teachers_that_count_are_the_same_for_every_part():
    """What the comparison of trained parameters rests on: each replica decides for its own part of
    the batch.
    """
    logits = replicated.small_network()(replicated.PIXELS, Context("batch")).numpy()[:, None]
    for parts in (1, 2, 4):
        for part in np.split(np.arange(replicated.IMAGES), parts):
            counts = choose_knowledge(np.float32(replicated.BANK[part]), logits[part], 4.0)[1]
            assert list(counts.numpy()) == [True, True, False]


# --------------------------------------------------------------------- compilation, parts, replicas


@pytest.mark.parametrize(
    "replicas, accum",
    [(1, 1), *(pytest.param(*many, marks=pytest.mark.slow) for many in ((1, 2), (2, 1), (2, 2)))],
)
def test_compiled_steps_give_what_the_others_give(one, mirrored, replicas, accum):
    """Training with two views, scoring, candidates and bank, evaluation."""
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    plain = one if replicas == accum == 1 else steps(Runtime(strategy, False, accum))
    compiled = steps(Runtime(strategy, True, accum))
    for name, value in plain.items():
        assert off_by(compiled[name], value) <= (0 if name == "order" else 2e-5), name


@pytest.mark.slow
def test_a_replica_more_is_a_part_more(mirrored):
    """Two replicas and two accumulated parts both normalise, and choose teachers, by halves of the
    batch.
    """
    expected = steps(Runtime(tf.distribute.get_strategy(), accum=2))
    for name, value in steps(Runtime(mirrored)).items():
        assert off_by(value, expected[name]) <= 1e-5, name


@pytest.mark.parametrize(
    "replicas, compile",
    [
        (1, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, False), (1, True), (2, True))
        ),
    ],
)
def test_four_parts_are_the_whole_where_batch_norm_uses_moving_averages(
    mirrored, replicas, compile
):
    """Gradients, signed sums of a masked network, logits: each image's, in the batch's order."""
    network = replicated.network_on(
        Runtime(mirrored if replicas == 2 else tf.distribute.get_strategy())
    )
    masks = (np.random.default_rng(4).random(network.gate_sizes.sum()) < 0.8).astype(np.float32)

    def compute(batch, shared):
        with tf.GradientTape(persistent=True) as tape:
            run = Context("moving", network.split_masks(shared["masks"]), tape)
            logits = network(batch["images"], run)
            total = tf.reduce_sum(reward_loss(batch, logits))
        sums = {
            "gradients": tape.gradient(total, network.trainable),
            "signed": tape.gradient(total, run.probes),
        }
        return sums, {"logits": logits, "place": batch["place"]}

    weights = np.full(replicated.IMAGES, 1 / replicated.IMAGES, np.float32)
    batch = {
        "images": replicated.PIXELS,
        "labels": replicated.LABELS,
        "knowledge": replicated.KNOWLEDGE,
        "weights": weights,
    }
    batch["place"] = np.arange(replicated.IMAGES)
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    whole, parts = (
        Step(compute, Runtime(strategy, compile, accum))(batch, masks=masks) for accum in (1, 4)
    )
    np.testing.assert_array_equal(parts[1]["place"], batch["place"])
    for kind in ("gradients", "signed"):
        flat = [
            np.concatenate([np.reshape(v, -1) for v in tf.nest.flatten(sums[kind])])
            for sums in (parts[0], whole[0])
        ]
        assert off_by(*flat) <= 1e-5, kind
    assert off_by(parts[1]["logits"], whole[1]["logits"]) <= 1e-5


@pytest.mark.slow
def test_the_loop_over_parts_works_inside_the_compiled_function(mirrored):
    """As on GPUs; on CPUs the loop goes around the compiled part, which gives the same."""
    for strategy in (tf.distribute.get_strategy(), mirrored):
        around, inside = (
            Runtime(strategy, compile=True, accum=2, gpu=gpu) for gpu in (False, True)
        )
        expected = replicated.scores_and_logits(around)
        for name, value in replicated.scores_and_logits(inside).items():
            assert off_by(value, expected[name]) <= 2e-5, name


# ---------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    "precision, tolerance",
    [("bfloat16", 0.05), pytest.param("float16", 0.01, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_half_precision_computes_the_same_within_its_digits(one, precision, tolerance, compile):
    runtime = Runtime(tf.distribute.get_strategy(), compile, precision=precision)
    half = steps(runtime)
    for name in (
        "bank logits",
        "moving logits",
        "losses",
        "conv/kernel:0",
        "bn/moving_variance:0",
    ):
        assert half[name].dtype == one[name].dtype and off_by(half[name], one[name]) <= tolerance, (
            name
        )
    # Sums that nearly cancel keep their sign and size, not their digits.
    assert np.corrcoef(half["signed"], one["signed"])[0, 1] > 0.9
    assert off_by(half["moving logits"], one["moving logits"]) > 1e-5, (
        "or it was computed in float32"
    )


def test_what_stays_float32_in_half_precision():
    """Variables, batch statistics, probes' sums, the head; feature maps are in the precision asked
    for.
    """
    network, seen = replicated.small_network(), []
    block = network.parts[1]
    network.parts.insert(2, lambda x, run: seen.append(x.dtype) or x)
    with tf.GradientTape() as tape:
        run = Context(
            "batch", network.split_masks(tf.ones(network.gate_sizes.sum())), tape, dtype=tf.bfloat16
        )
        logits = network(replicated.PIXELS, run)
        total = tf.reduce_sum(logits**2)
    assert (
        seen == [tf.bfloat16]
        and block.convs[0][0].kernel.dtype == tf.float32
        and logits.dtype == tf.float32
    )
    assert {value.dtype for pair in run.batch_statistics for value in pair} == {tf.float32}
    assert {value.dtype for value in tf.nest.flatten(tape.gradient(total, run.probes))} == {
        tf.float32
    }


def half_step(network, factor):
    """A float16 training step whose loss is the mean logit times `factor`."""
    runtime = Runtime(tf.distribute.get_strategy(), precision="float16")
    optimizer = Optimizer(network.trainable, runtime)
    loss = lambda batch, logits: factor * tf.reduce_sum(logits, [1, 2])
    return training_step(network, optimizer, runtime, both_ways_once, loss), optimizer


def both_ways_once(batch):
    return batch["images"][:, None]


def test_gradients_too_small_for_float16_survive_by_loss_scaling():
    batch, moved = {"images": replicated.PIXELS, "labels": replicated.LABELS}, {}
    for factor, scale in ((1e-3, LossScale.START), (1e-6, LossScale.START), (1e-6, 1.0)):
        network = replicated.small_network()
        before = network.parameters()["conv/kernel:0"]
        step, optimizer = half_step(network, factor)
        optimizer.loss_scale.scale.assign(scale)
        step(batch, learning_rate=10 / factor, weight_decay=0.0)
        moved[factor, scale] = network.parameters()["conv/kernel:0"] - before
    expected = moved[1e-3, LossScale.START]
    assert off_by(moved[1e-6, LossScale.START], expected) < 0.1
    assert off_by(moved[1e-6, 1.0], expected) > 0.5, "or the scale is not needed"


def test_a_step_that_overflows_changes_no_weight_and_halves_the_scale():
    network = replicated.small_network()
    step, optimizer = half_step(network, 1e6)
    before = [v.numpy() for v in network.trainable]
    figures, _ = step(
        {"images": replicated.PIXELS, "labels": replicated.LABELS},
        learning_rate=0.1,
        weight_decay=0.1,
    )
    assert np.isfinite(figures["loss"]) and float(figures["loss_scale"]) == LossScale.START / 2
    for variable, velocity, value in zip(network.trainable, optimizer.velocities, before):
        np.testing.assert_array_equal(variable, value)
        assert not velocity.numpy().any()


def test_the_scale_grows_after_many_good_steps(monkeypatch):
    monkeypatch.setattr(LossScale, "GROW_AFTER", 3)
    step, _ = half_step(replicated.small_network(), 1e-3)
    batch = {"images": replicated.PIXELS, "labels": replicated.LABELS}
    scales = [
        float(step(batch, learning_rate=0.0, weight_decay=0.0)[0]["loss_scale"]) for _ in range(4)
    ]
    assert scales == [LossScale.START, LossScale.START, 2 * LossScale.START, 2 * LossScale.START]


def test_gradients_that_overflow_at_any_scale_stop_training():
    step, optimizer = half_step(replicated.small_network(), 1e12)
    optimizer.loss_scale.scale.assign(1.0)
    setup = TrainOptions(1, 0.1, (), 1.0, 0.0, 8)
    images = np.zeros((8, 8, 8, 3), np.uint8)
    cast = lambda batch, **shared: step(
        {"images": replicated.PIXELS[:8], "labels": batch["labels"]}, **shared
    )
    with pytest.raises(FloatingPointError, match="bfloat16"):
        feed = Feed({"images": images, "labels": np.zeros(8, np.int64)}, step.runtime)
        train(cast, feed, setup, seed=[0], bar=lambda items, label: Bar(items, label, 1, False))


def test_scores_in_float16_find_a_scale_that_does_not_overflow():
    """The same scores, whether the first scale overflows or not."""
    network = replicated.small_network()
    runtime = Runtime(tf.distribute.get_strategy(), precision="float16")
    step = Rescaled(scoring_step(network, runtime, replicated.given, reward_loss))
    batch = {
        "images": replicated.PIXELS,
        "labels": replicated.LABELS,
        "knowledge": replicated.KNOWLEDGE,
    }
    batch["weights"] = np.full(replicated.IMAGES, 1 / replicated.IMAGES, np.float32)
    masks = np.ones(network.gate_sizes.sum(), np.float32)
    flat = lambda: np.concatenate(tf.nest.flatten(step(batch, masks=masks)[0]["signed"]))
    expected = flat()
    step.scale = 2.0**40
    found = flat()
    assert step.scale < 2.0**40 and np.isfinite(found).all()
    assert np.corrcoef(found, expected)[0, 1] > 0.99


@pytest.mark.slow
def test_bfloat16_learns_what_float32_learns():
    """200 steps on DIGITS: within one point of the test accuracy."""
    data = load_dataset("DIGITS")
    prepare = lambda batch: augment(
        batch["images"], batch["draws"], data.augmentation, colour=False
    )
    accuracy = {}
    for precision in ("float32", "bfloat16"):
        runtime = Runtime(tf.distribute.get_strategy(), precision=precision)
        network = build_network("ResNet-20", 10, 32)
        step = training_step(
            network, Optimizer(network.trainable, runtime), runtime, prepare, plain_loss
        )
        setup, silent = (
            TrainOptions(5, 0.1, (0.5, 0.8), 0.1, 1e-4, 36),
            lambda items, label: Bar(items, label, 1, False, False),
        )
        assert len(data.y_train) // setup.batch_size * setup.epochs == 200
        feed = Feed({"images": data.x_train, "labels": data.y_train}, runtime)
        train(step, feed, setup, seed=[0], augmented=False, bar=silent)
        evaluator = Evaluator(network, runtime, data.augmentation, data.x_test, data.y_test, 355)
        accuracy[precision] = evaluator()["top1"]
    assert accuracy["float32"] > 0.95
    assert accuracy["bfloat16"] >= accuracy["float32"] - 0.01


def test_runtime_is_told_apart_by_its_parts(mirrored):
    runtime = Runtime(mirrored, accum=3)
    assert (runtime.replicas, runtime.parts) == (2, 6)
    assert (
        not runtime.synchronises
        and dataclasses.replace(runtime, accum=1, sync_bn=True).synchronises
    )


# ---------------------------------------------------------------------------------------- curvature


def test_products_with_a_hessian_do_not_depend_on_replicas(mirrored):
    """Here, because a second MirroredStrategy in a process takes the first one's operations."""
    found = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            network = tiny.resnet_8()
        hessian = Hessian(network, "kernels", Runtime(strategy), tiny.images(8), tiny.given)
        vectors = np.random.default_rng(2).standard_normal((3, hessian.size))
        found.append(np.stack([hessian.product(vector) for vector in vectors]))
    assert off_by(found[1], found[0]) <= 1e-5
