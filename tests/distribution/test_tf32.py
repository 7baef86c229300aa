"""float32 means float32: TF32 is on where --precision tf32 asks for it, and nowhere else."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import test as test_py
import train_cifar
from cli.options import device_options
from distribution import runtime as runtimes
from distribution.machines import Alone
from distribution.runtime import Runtime, make_runtime
from distribution.step import Step
from engine.configuration import described
from engine.latency import predicting
from engine.options import DeviceOptions

switched_on = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(autouse=True)
def off():
    """As make_runtime leaves the switch; TensorFlow's default is on."""
    before = switched_on()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def steps_of(precision):
    """(a Step, list of the states of the switch while it ran)."""
    seen = []

    def look():
        seen.append(bool(switched_on()))
        return np.float32(0)

    def compute(batch, shared):
        return {"loss": tf.numpy_function(look, [], tf.float32)}, {}

    update = lambda sums, shared: {"loss": tf.ensure_shape(sums["loss"], [])}
    runtime = Runtime(tf.distribute.get_strategy(), precision=precision)
    return Step(compute, runtime, update, figures=("loss",)), seen


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_the_switch_is_on_in_steps_of_tf32_alone(precision):
    step, seen = steps_of(precision)
    batch = np.zeros((2, 3), np.float32)
    step({"x": batch})
    step.several({"x": batch[None]}, 1, {"rate": np.zeros(1, np.float32)})
    assert seen == [precision == "tf32"] * 2 and not switched_on()


def test_the_switch_is_off_after_a_step_that_failed():
    def compute(batch, shared):
        raise ArithmeticError("in the step")

    step = Step(compute, Runtime(tf.distribute.get_strategy(), precision="tf32"))
    with pytest.raises(ArithmeticError):
        step({"x": np.zeros((2, 3), np.float32)})
    assert not switched_on()


def test_steps_of_a_search_stay_in_float32_beside_a_training_in_tf32():
    """One process has both: --precision is of trainings, --search_precision of the search."""
    training, on = steps_of("tf32")
    searching, off = steps_of("float32")
    for step in (training, searching, training, searching):
        step({"x": np.zeros((2, 3), np.float32)})
    assert (on, off) == ([True, True], [False, False])


def test_times_are_measured_with_the_switch(resnet_8, monkeypatch):
    seen = []
    whole = type(resnet_8).__call__

    def look(network, x, ctx):
        seen.append(bool(switched_on()))  # while it is traced: for XLA that is what counts
        return whole(network, x, ctx)

    monkeypatch.setattr(type(resnet_8), "__call__", look)
    for precision in ("tf32", "float32"):
        runtime = Runtime(tf.distribute.get_strategy(), precision=precision)
        predicting(resnet_8, runtime, 2)()
    assert seen == [True, False] and not switched_on()


def test_tf32_is_float32_in_every_other_respect():
    runtime = Runtime(tf.distribute.get_strategy(), precision="tf32")
    plain = dataclasses.replace(runtime, precision="float32")
    assert runtime.dtype == tf.float32
    for masked in (True, False):
        assert runtime.channel_multiple(masked) == plain.channel_multiple(masked)


def test_the_flag_is_of_trainings_and_in_config_json():
    flags = ["--dataset", "DIGITS", "--train_path", "x"]
    options = train_cifar.parse([*flags, "--precision", "tf32"])
    assert options.device.precision == "tf32" and options.device.search_precision == "float32"
    assert described(options, "start", 1)["device"]["precision"] == "tf32"
    assert device_options(test_py.parse(["--trained_param", "x", "--precision", "tf32"])).precision
    with pytest.raises(SystemExit):
        train_cifar.parse([*flags, "--search_precision", "tf32"])


AMPERE, VOLTA = {"compute_capability": (8, 0)}, {"compute_capability": (7, 0)}


@pytest.mark.parametrize("gpus, effect", [([AMPERE], True), ([AMPERE, VOLTA], False), ([], False)])
def test_a_note_says_where_tf32_has_no_effect(monkeypatch, gpus, effect):
    options = DeviceOptions(None, None, None, 1, "tf32", False)
    runtime = dataclasses.replace(
        Runtime(tf.distribute.get_strategy(), precision="tf32"), gpu=bool(gpus)
    )
    monkeypatch.setattr(runtimes, "_gpus_in_use", lambda: gpus)
    notes = [line for line in runtimes._notes(options, runtime) if "tf32" in line]
    assert len(notes) == (not effect)


def test_make_runtime_switches_it_off(monkeypatch):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    make_runtime(DeviceOptions(None, None, False, 1, "tf32", False), Alone())
    assert not switched_on()
