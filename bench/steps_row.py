"""Measures one row of the tables of bench/steps.py, which starts this program once per row.

    python bench/steps_row.py --one '{"cells": ["train", "score"], "arch": "ResNet-20", \
        "case": {"precision": "float32", "replicas": 1, "accum": 1, "sync_bn": false, \
        "compile": false}, "batch_size": 128, "search_batch_size": 256, "seconds": 3, \
        "timeout": 90}'

Prints one JSON line per cell. cells: train, distil, score, predict; or memory, which needs
memory_batch_size instead of the other two.
"""

import dataclasses
import json
import signal
import statistics
import sys
import time

import numpy as np
from harness import brief, run_child
from random_training import DATASET, RATES, SIZE, random_batch, random_set, random_step

from cli.program import run_program
from dataloader import AUGMENTATIONS, CLASSES
from distribution.startup import import_tensorflow
from engine.memory import peak_rss_mib, reset_peak
from engine.options import DeviceOptions
from nets import build_network

LEAST_CALLS = 3  # smallest number of timed calls of a step


@dataclasses.dataclass(frozen=True)
class Case:
    """The settings of one row."""

    precision: str
    replicas: int
    accum: int
    sync_bn: bool
    compile: bool

    def __str__(self):
        replicas = f"{self.replicas}{' + sync_bn' * self.sync_bn}"
        return f"{self.precision} | {replicas} | {self.accum} | {'on' if self.compile else 'off'}"


class Steps:
    """One network on the devices of a job's case, with its steps.

    train, distil, score and predict return a function that makes one call of that step.
    """

    def __init__(self, job):
        import_tensorflow()
        from distribution.machines import Alone
        from distribution.runtime import make_runtime

        case = Case(**job["case"])
        options = DeviceOptions(
            None, case.replicas, case.compile, case.accum, case.precision, case.sync_bn
        )
        self.runtime, _ = make_runtime(options, Alone())
        with self.runtime.strategy.scope():
            self.network = build_network(job["arch"], CLASSES[DATASET], SIZE)
        self.job = job

    def size(self, flag):
        """The value of `flag`, images per batch. Raises UserError if it cannot be split."""
        self.runtime.check_batch(f"--{flag}", self.job[flag])
        return self.job[flag]

    def masks(self):
        return np.ones(self.network.gate_sizes.sum(), np.float32)

    def train(self, flag="batch_size", views=1):
        step = random_step(self.network, self.runtime, views)
        batch = random_batch(self.size(flag), views)
        return lambda: {name: float(value) for name, value in step(batch, **RATES)[0].items()}

    def distil(self, flag="batch_size"):
        return self.train(flag, views=2)

    def score(self):
        import tensorflow as tf

        from ekg.knowledge import reward_loss
        from op_utils import scoring_step

        step = scoring_step(self.network, self.runtime, self.normalised, reward_loss)
        n, rng = self.size("search_batch_size"), np.random.default_rng(0)
        batch = {
            **random_set(n, views=1),
            "knowledge": rng.standard_normal((n, CLASSES[DATASET]), np.float32),
            "weights": np.full(n, 1 / n, np.float32),
        }
        masks = self.masks()
        return lambda: tf.nest.map_structure(np.asarray, step(batch, masks=masks)[0]["signed"])

    def predict(self):
        from ekg.sub_networks import SubNetworks

        predict = SubNetworks(self.network, self.runtime, self.normalised, 1)
        images, masks = random_set(self.size("search_batch_size"), views=1)["images"], self.masks()
        return lambda: predict({"images": images}, masks[None])

    @staticmethod
    def normalised(batch):
        from dataloader.augment import normalise

        return normalise(batch["images"], AUGMENTATIONS[DATASET])


def speed(steps, name):
    """{"first": seconds of the first call, "rate": images per second later} of the step `name`."""
    job, call, times = steps.job, getattr(steps, name)(), []
    begin = time.perf_counter()
    call()
    first = time.perf_counter() - begin
    # When the time runs out, accept fewer calls: better than no number at all.
    while not times or (
        (len(times) < LEAST_CALLS or sum(times) < job["seconds"])
        and time.perf_counter() - begin + 2 * times[-1] < job["timeout"]
    ):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    size = job["batch_size" if name in ("train", "distil") else "search_batch_size"]
    return {"first": first, "rate": size / statistics.median(times)}


def memory(steps, _):
    """{"peak": MiB of a process that trains on two views, "added": MiB added by the steps}."""
    call = steps.distil("memory_batch_size")
    reset_peak()
    before = peak_rss_mib()
    for _ in range(2):
        call()
    peak = peak_rss_mib()
    return {"peak": peak, "added": peak - before}


def child(job):
    """Prints one JSON line per cell of the job. A cell that takes too long ends the process."""
    signal.alarm(job["timeout"])
    steps = Steps(job)
    for cell in job["cells"]:
        signal.alarm(job["timeout"])
        try:
            metrics = memory(steps, cell) if cell == "memory" else speed(steps, cell)
        except Exception as error:
            metrics = {"error": brief(f"{type(error).__name__}: {error}")}
        signal.alarm(0)
        print(json.dumps({"cell": cell, **metrics}), flush=True)


if __name__ == "__main__":
    sys.exit(run_program(lambda: run_child(__doc__, child)))
