"""Measures one cell of the tables of bench/train.py, which starts this program once per cell.

    python bench/train_cell.py --one '{"cell": "alone", "arch": "ResNet-20", "views": 1, \
        "precision": "float32", "compile": false, "batch_size": 128, "images": 1280, "seconds": 3}'

Prints one JSON line with the images per second. cell: alone, data or convolutions; data also needs
steps_per_call and resident_mib.
"""

import json
import statistics
import sys
import time

from harness import run_child
from random_training import DATASET, RATES, SIZE, random_batch, random_set, random_step

from cli.program import run_program
from dataloader import CLASSES
from distribution.startup import import_tensorflow
from engine.options import DeviceOptions, TrainOptions
from nets import build_network

LEAST_CALLS = 5  # smallest number of timed calls of a step
WARM_UP = 2  # untimed calls first: tracing, memory, oneDNN's kernels


class Enough(Exception):
    """The training has been timed for long enough."""


def make_step(job, arrays, resident_mib=0):
    """(step, feed) of a job.

    job: dict; arrays: from random_set; resident_mib: MiB of them to keep on the device.
    """
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from engine.feed import Feed

    runtime, _ = make_runtime(
        DeviceOptions(None, 1, job["compile"], 1, job["precision"], False), Alone()
    )
    network = build_network(job["arch"], CLASSES[DATASET], SIZE)
    feed = Feed(arrays, runtime, resident_mib)
    return random_step(network, runtime, job["views"], feed.tables), feed


def rate_with_data(job):
    """Images per second in whole epochs of engine.training.train. The first epoch, which includes
    tracing, does not count.
    """
    from engine.training import train

    steps, times = job["images"] // job["batch_size"], []

    def on_epoch(record, _):
        if record["epoch"] > 1:
            times.append(record["seconds"])
        if len(times) * steps >= LEAST_CALLS and sum(times) >= job["seconds"]:
            raise Enough

    learning_rate, weight_decay = (float(rate) for rate in RATES.values())
    options = TrainOptions(1_000_000, learning_rate, (), 1.0, weight_decay, job["batch_size"])
    settings = dict(seed=[0], views=job["views"], steps_per_call=job["steps_per_call"])
    step, feed = make_step(job, random_set(job["images"], job["views"]), job["resident_mib"])
    try:
        train(step, feed, options, **settings, on_epoch=on_epoch)
    except Enough:
        pass
    return steps * job["batch_size"] / statistics.median(times)


def rate_alone(job):
    """Images per second of the step on one batch, made before."""
    size = job["batch_size"]
    step, _ = make_step(job, random_set(size, job["views"]))
    batch = random_batch(size, job["views"])

    # As many steps as in an epoch with data, so that both are means over the same number.
    def steps():
        for _ in range(job["images"] // size):
            _ = {name: float(value) for name, value in step(batch, **RATES)[0].items()}

    # Each call makes many steps: one untimed call and one timed call are enough.
    return rate_of(steps, job, job["images"] // size * size, warm_up=1, least=1)


def rate_of_convolutions(job):
    import tensorflow as tf
    from convolutions import convolutions_step

    tf.config.set_visible_devices([], "GPU")
    network = build_network(job["arch"], CLASSES[DATASET], SIZE)
    step = convolutions_step(network, job["batch_size"], tf.as_dtype(job["precision"]))
    return rate_of(step, job, job["batch_size"], WARM_UP, LEAST_CALLS)


def rate_of(call, job, images, warm_up, least):
    """Images per second, from the median time of a call.

    Args:
        call: function to time.
        job: dict; job["seconds"]: how long to time calls.
        images: images per call.
        warm_up: number of untimed calls first.
        least: smallest number of timed calls.
    """
    for _ in range(warm_up):
        call()
    times = []
    while len(times) < least or sum(times) < job["seconds"]:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return images / statistics.median(times)


def child(job):
    """Prints {"rate": images per second} of one cell."""
    import_tensorflow()
    rates = {"alone": rate_alone, "data": rate_with_data, "convolutions": rate_of_convolutions}
    print(json.dumps({"rate": rates[job["cell"]](job)}), flush=True)


if __name__ == "__main__":
    sys.exit(run_program(lambda: run_child(__doc__, child)))
