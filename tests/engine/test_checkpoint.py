"""A training resumed from a checkpoint gives the same bits. A damaged checkpoint is refused."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from trainings import OPTIONS

from dataloader import AUGMENTATIONS
from dataloader.augment import augment
from distribution.runtime import Runtime
from ekg.contrastive import plain_loss
from engine.checkpoint import Checkpoint, check_parameters, first_not_finite
from engine.feed import Feed
from engine.training import Progress, train
from nets import build_network
from op_utils import Optimizer, training_step
from utils import UserError

pytestmark = pytest.mark.long

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (26, 32, 32, 3), np.uint8), RNG.permutation(26) % 10


class Enough(Exception):
    pass


class Training:
    """A training of two epochs of 4 steps."""

    def __init__(self, runtime, path, parameters=None):
        with runtime.strategy.scope():
            self.network = build_network("ResNet-8", 10, 32, parameters)
        self.feed = Feed({"images": IMAGES, "labels": LABELS}, runtime, 0)
        self.optimizer = Optimizer(self.network.trainable, runtime)
        prepare = lambda batch: augment(
            batch["images"], batch["draws"], AUGMENTATIONS["CIFAR10"], colour=False
        )
        self.step = training_step(self.network, self.optimizer, runtime, prepare, plain_loss)
        self.begin(path)

    def begin(self, path):
        self.checkpoint = Checkpoint(path, self.network, self.optimizer)
        self.records, self.figures = [], {}

    def again(self, path):
        """The same traced step, with the initial values of a new training and no velocity."""
        initial = build_network("ResNet-8", 10, 32).parameters()
        for name, variable in self.network.variables_by_name().items():
            variable.assign(initial[name])
        for velocity in self.optimizer.velocities:
            velocity.assign(tf.zeros_like(velocity))
        self.begin(path)
        return self

    def run(self, progress=None, until=None, steps_per_call=1):
        """Trains from `progress`, and up to the Progress (epoch, step) `until`, where the
        checkpoint is written.
        """

        def after_call(progress):
            if (progress.epoch, progress.step) == until:
                self.checkpoint.save(progress, seconds=3.5)
                raise Enough

        def on_epoch(record, then):
            self.records.append({**record, "seconds": None})
            after_call(then)

        settings = dict(seed=[1], progress=progress, steps_per_call=steps_per_call)
        try:
            on_step = lambda number, figures: self.figures.update({number: figures})
            train(
                self.step,
                self.feed,
                OPTIONS,
                **settings,
                on_step=on_step,
                after_call=after_call,
                on_epoch=on_epoch,
            )
        except Enough:
            pass
        return self


@pytest.fixture(scope="module")
def whole():
    return Training(Runtime(tf.distribute.get_strategy()), "").run()


@pytest.fixture(scope="module")
def other():
    """A training beside the whole one."""
    return Training(Runtime(tf.distribute.get_strategy()), "")


@pytest.mark.parametrize(
    "steps_per_call, at", [(1, (0, 3)), (1, (0, 4)), (1, (1, 0)), (2, (0, 2)), (2, (1, 2))], ids=str
)
def test_a_training_goes_on_to_the_bit(whole, other, tmp_path, at, steps_per_call):
    """From within an epoch, from its last step before it was recorded, and from between two; in
    calls of one step or two.
    """
    path = str(tmp_path / "checkpoint.npz")
    other.again(path).run(until=at, steps_per_call=steps_per_call)
    again = other.again(path)
    progress, seconds = again.checkpoint.restore(2, 4)
    assert (progress.epoch, progress.step, seconds) == (*at, 3.5)
    again.run(progress, steps_per_call=steps_per_call)
    same_end(again, whole, first_epoch=at[0])


def same_end(again, whole, first_epoch):
    assert again.records == whole.records[first_epoch:]
    assert again.figures == {
        number: figures for number, figures in whole.figures.items() if number in again.figures
    }
    for name, array in whole.network.parameters().items():
        np.testing.assert_array_equal(again.network.parameters()[name], array, err_msg=name)
    for ours, theirs in zip(
        again.checkpoint.optimizer.velocities, whole.checkpoint.optimizer.velocities
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_training_in_float16_goes_on_with_its_loss_scale(runtime, tmp_path):
    path, runtime = (
        str(tmp_path / "checkpoint.npz"),
        dataclasses.replace(runtime, precision="float16"),
    )
    first = Training(runtime, path)
    first.checkpoint.optimizer.loss_scale.scale.assign(2.0**9)
    first.checkpoint.optimizer.loss_scale.good_steps.assign(17)
    first.checkpoint.save(Progress(), 0)
    again = Training(runtime, path)
    again.checkpoint.restore(2, 4)
    scale = again.checkpoint.optimizer.loss_scale
    assert (scale.scale.numpy(), scale.good_steps.numpy()) == (2.0**9, 17)


PROGRESS = {"epoch": 1, "step": 0, "loss": 0.0, "accuracy": 0.0, "seconds": 0.0}
STRANGE = [{"epochs": 1}, []]
STRANGE += [
    {**PROGRESS, name: value}
    for name, value in (("epoch", -1), ("epoch", 3), ("step", 5), ("loss", "1"))
]


@pytest.mark.parametrize(
    "damage", ["cut short", "another network", "no progress", "a text", "NaN", *STRANGE], ids=str
)
def test_a_checkpoint_that_does_not_fit_is_refused(runtime, tmp_path, damage):
    path = tmp_path / "checkpoint.npz"
    training = Training(runtime, str(path))
    training.checkpoint.save(Progress(1), 0)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another network":
        training.checkpoint.network = build_network("ResNet-8", 7, 32)
    else:
        arrays = dict(np.load(path))
        if damage == "no progress":
            del arrays["__meta__"]
        elif damage in ("a text", "NaN"):
            arrays["fc/biases:0"] = np.full(
                (1, 10), "1" if damage == "a text" else np.float32(np.nan)
            )
        else:
            arrays["__meta__"] = np.array(json.dumps({"progress": damage, "seconds": 0}))
        np.savez(path, **arrays)
    with pytest.raises(
        UserError, match=r"checkpoint.npz is damaged \(.*\); delete it to restart this training"
    ):
        training.checkpoint.restore(2, 4)


def test_weights_that_are_not_finite_replace_no_checkpoint(runtime, tmp_path):
    path = tmp_path / "checkpoint.npz"
    training = Training(runtime, str(path))
    training.checkpoint.save(Progress(1), 0)
    before = path.read_bytes()
    training.network.variables_by_name()["fc/biases:0"].assign(np.full((1, 10), np.inf))
    with pytest.raises(FloatingPointError, match="fc/biases:0 has become NaN or infinite"):
        training.checkpoint.save(Progress(2), 0)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FloatingPointError, match="second"):
        check_parameters(
            {"first": np.zeros(2), "second": np.array([1, np.nan]), "third": np.array(np.nan)}
        )


@pytest.mark.parametrize(
    "layer, first", [("conv", "bn"), ("BasicBlock1.0/conv1", "BasicBlock1.0/bn1"), ("fc", "")]
)
def test_the_first_layer_that_is_not_finite_is_named(runtime, layer, first):
    """Although the update of the same step spoils all weights."""
    parameters = build_network("ResNet-8", 10, 32).parameters()
    parameters |= {"BasicBlock1.0/bn2/gamma:0": np.ones((1, 1, 1, 32), np.float32)}
    parameters[f"{layer}/kernel:0"] = np.full_like(parameters[f"{layer}/kernel:0"], 1e38)
    training = Training(runtime, "", parameters)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        training.run()
    assert first_not_finite(training.network) == first
