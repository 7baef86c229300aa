"""How long networks take for a batch of images. They take turns, call by call.

Other load on the machine then affects all of them alike. Images are random: zeros may be faster.

TensorFlow is imported when something is timed, so that programs answer --help at once.
"""

import time

import numpy as np

UNTIMED = 3  # rounds before the timed ones: the first call traces and compiles
LEAST_CALLS = 7  # smallest number of timed calls


def times_ms(calls, seconds=0.0, least=LEAST_CALLS):
    """Milliseconds of each function in `calls`, float64 [functions, rounds].

    They take turns for `seconds` seconds per function, and at least `least` times.
    """
    for call in calls * UNTIMED:
        call()
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while len(rounds) < least or time.perf_counter() - begin < seconds * len(calls):
        rounds.append([_seconds(call) for call in calls])
    return 1e3 * np.array(rounds).T


def medians_ms(calls, seconds=0.0, least=LEAST_CALLS):
    """Median milliseconds of each function in `calls`; see times_ms."""
    return np.median(times_ms(calls, seconds, least), 1).tolist()


def _seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def predicting(network, runtime, batch):
    """A function that computes the logits of `batch` images and copies them to the host.

    Batch norm uses moving averages, as in deployment.

    network: Network; runtime: Runtime, for its precision and XLA.
    """
    from distribution.step import traced
    from op_utils import context

    images = normals([batch, *network.image_shape])
    ctx = context(runtime, "moving")
    predict = traced(lambda x: network(x, ctx), jit_compile=runtime.compile)

    def call():
        with runtime.arithmetic():
            return predict(images).numpy()

    return call


def normals(shape, scale=1.0):
    """Random float32 of this shape on the device."""
    import tensorflow as tf

    return tf.constant(
        np.float32(scale) * np.random.default_rng(0).standard_normal(shape, np.float32)
    )


def latencies_ms(networks, runtime, batch, calls):
    """Median milliseconds of so many calls of each of `networks`, at this batch size."""
    return medians_ms([predicting(network, runtime, batch) for network in networks], least=calls)
