"""Timing calls that take turns, and the inference of a network as such a call."""

import statistics
import time

import numpy as np

LEAST_CALLS = 7  # smallest number of timed calls per cell


def in_turn(calls, rounds):
    """dict name -> list of what calls[name]() returned in each round.

    All calls take turns, so that other load on the machine affects all alike.
    """
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


def medians_ms(calls, seconds):
    """Median milliseconds of each function in `calls`.

    They take turns for `seconds` seconds per function, and at least LEAST_CALLS times.
    """
    for call in calls * 2:  # untimed: the first call traces and compiles, the second warms up
        call()
    times, begin = [[] for _ in calls], time.perf_counter()
    while len(times[0]) < LEAST_CALLS or time.perf_counter() - begin < seconds * len(calls):
        for call, taken in zip(calls, times):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def predicting(network, runtime, batch):
    """A function that computes the logits of `batch` images with `runtime` and copies them to the
    host.
    """
    import tensorflow as tf

    from op_utils import context

    images = normals([batch, network.input_size, network.input_size, 3])
    ctx = context(runtime, "moving")
    predict = tf.function(lambda x: network(x, ctx), jit_compile=runtime.compile, autograph=False)
    return lambda: predict(images).numpy()


def normals(shape, scale=1.0):
    """Random float32 of this shape on the device. Not zeros, which may be faster."""
    import tensorflow as tf

    return tf.constant(
        np.float32(scale) * np.random.default_rng(0).standard_normal(shape, np.float32)
    )
