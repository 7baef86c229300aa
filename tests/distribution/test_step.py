"""Steps share their code, and TensorFlow counts the traces of each alone."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from distribution.runtime import Runtime
from distribution.step import Step


@pytest.fixture
def warnings():
    """List of the texts that TensorFlow logs as warnings during the test."""
    found, logger = [], tf.get_logger()
    handler, level = logging.Handler(logging.WARNING), logger.level
    handler.emit = lambda record: found.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel("WARNING")
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def doubled(batch, shared):
    return {"sum": tf.reduce_sum(2 * batch["x"])}, {}


def batch(size):
    return {"x": np.ones(size, np.float32)}


@pytest.mark.parametrize("compiled", [False, True])
def test_many_steps_are_no_retracing(runtime, warnings, compiled):
    """As with the sub-networks of a study, each of which has steps of its own."""
    runtime = Runtime(runtime.strategy, compile=compiled)
    for _ in range(12):
        step = Step(doubled, runtime)
        assert float(step(batch(4))[0]["sum"]) == 8 and step.traces == 1
    assert warnings == []


def test_a_step_that_is_traced_again_and_again_is_still_reported(runtime, warnings):
    step = Step(doubled, runtime)
    for size in range(1, 13):
        step(batch(size))
    assert step.traces == 12 and "triggered tf.function retracing" in warnings[0]
