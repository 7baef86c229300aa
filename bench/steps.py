"""Cost of XLA, precision, replicas and accumulation on a CPU: tables of speed and of memory.

    python bench/steps.py
    python bench/steps.py --arch ResNet-20 --precision float32 --replicas 1 --accum 1 \
        --rounds 3 --tables speed

The output is Markdown. Weights and images are random; steps, losses and augmentation are those of a
run. Each row has its own process, because logical devices and memory peaks belong to a process. A
number is the median of several calls after the first one, and then of all --rounds. An image counts
once, whatever its number of views. `> 90 s`: the first call and one more did not end within
--timeout. By default float16, and bfloat16 with XLA, are measured only with one replica and
--accum 1, because they take minutes on CPUs. docs/devices.md has the tables of one machine.
"""

import argparse
import dataclasses
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
from harness import brief, machine, parent_or_child, print_heading, print_row
from random_training import DATASET, RATES, SIZE, random_batch, random_set, random_step

from cli.flags import PRECISIONS
from cli.parser import Parser, count, positive
from cli.program import run_program
from dataloader import AUGMENTATIONS, CLASSES
from distribution.startup import import_tensorflow
from engine.memory import peak_rss_mib, reset_peak
from engine.options import DeviceOptions
from nets import build_network
from nets.catalogue import BUILDERS

LEAST_CALLS = 3  # smallest number of timed calls of a step
SPEED = {
    "train": "training",
    "distil": "distillation, 2 views",
    "score": "scoring",
    "predict": "candidates, bank",
}


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


HEADER = ["precision", "replicas", "accum", "XLA"]


# --------------------------------------------------------------------- the process that is measured


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


# ---------------------------------------------------------------------------- the process that asks


def measured(job):
    """dict cell -> metrics, for all cells of a job.

    If a cell ends its process, another process measures the cells after it.
    """
    results, left = {}, job["cells"]
    while left:
        own = json.dumps({**job, "cells": left})
        command = [sys.executable, os.path.abspath(__file__), "--one", own]
        ended = subprocess.run(command, capture_output=True, text=True)
        lines = [
            json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"cell"')
        ]
        results |= {metrics.pop("cell"): metrics for metrics in lines}
        left = left[len(lines) :]
        if left:
            results[left[0]] = why(ended, job["timeout"])
            left = left[1:]
    return results


def why(ended, timeout):
    """The metrics of a cell that ended its process: the reason."""
    if ended.returncode == -signal.SIGALRM:
        return {"over": timeout}
    if ended.returncode < 0:
        return {"error": f"ended by {signal.Signals(-ended.returncode).name}"}
    return {"error": brief("\n".join(reversed(ended.stderr.splitlines())))}


def text(rounds, name, digits=0):
    """The text of a cell: the median over rounds of the metric `name`, or why there is none."""
    values = [metrics[name] for metrics in rounds if name in metrics]
    if values:
        return f"{statistics.median(values):.{digits}f}"
    return f"> {rounds[-1]['over']} s" if "over" in rounds[-1] else "-"


def table(title, columns, jobs, rounds):
    """Prints a table row by row.

    columns: list of (heading, cell, metric, digits); jobs: one per row, measured `rounds` times.
    """
    results = [[] for _ in jobs]
    for number in range(1, rounds):
        for job, result in zip(jobs, results):
            print(
                f"{title}, round {number} of {rounds}: {Case(**job['case'])}",
                file=sys.stderr,
                flush=True,
            )
            result.append(measured(job))
    print_heading(title, HEADER, [column[0] for column in columns])
    notes = []
    for job, result in zip(jobs, results):
        case = Case(**job["case"])
        result.append(measured(job))
        cells = [
            text([metrics[cell] for metrics in result], name, digits)
            for _, cell, name, digits in columns
        ]
        print_row([str(case), *cells])
        errors = {
            cell: metrics[cell]["error"]
            for metrics in result
            for cell in job["cells"]
            if "error" in metrics[cell]
        }
        notes += [
            f"- {str(case).replace(' |', ',')}, {cell}: {error}" for cell, error in errors.items()
        ]
    if notes:
        print("", *notes, sep="\n", flush=True)


def speed_cases(args):
    """The cases of the speed table. Cases that differ only in XLA are next to each other."""
    for precision, replicas, accum in itertools.product(
        args.precision or PRECISIONS, args.replicas, args.accum
    ):
        cases = [
            Case(precision, replicas, accum, False, compile == "on") for compile in args.compile
        ]
        if replicas > 1 and accum == 1 and "off" in args.compile:
            cases.append(Case(precision, replicas, accum, True, False))
        yield from (case for case in cases if args.precision or not left_out(case))


def left_out(case):
    """Whether a case takes minutes, so that it is measured only if --precision asks for it."""
    slow = case.precision == "float16" or (case.precision == "bfloat16" and case.compile)
    return slow and (case.replicas, case.accum) != (1, 1)


def report(args):
    """Prints the tables that were asked for."""
    print(f"{args.arch}, {SIZE}x{SIZE}; {machine()}", flush=True)
    job = {
        name: getattr(args, name)
        for name in ("arch", "batch_size", "search_batch_size", "memory_batch_size")
    }
    job |= {"seconds": args.seconds, "timeout": args.timeout}
    if "speed" in args.tables:
        title = (
            f"Images per second; batches of {args.batch_size}, scoring and candidates of"
            f" {args.search_batch_size}"
        )
        columns = [(SPEED[cell], cell, "rate", 0) for cell in args.steps]
        columns += [("first call, s", "distil", "first", 1)] * ("distil" in args.steps)
        jobs = [
            {**job, "case": dataclasses.asdict(case), "cells": args.steps}
            for case in speed_cases(args)
        ]
        table(title, columns, jobs, args.rounds)
    if "memory" in args.tables:
        title = (
            "Peak of resident memory, MiB; distillation in float32, batches of"
            f" {args.memory_batch_size}"
        )
        columns = [
            ("whole process", "memory", "peak", 0),
            ("added by the steps", "memory", "added", 0),
        ]
        cases = [
            Case("float32", 1, accum, False, xla == "on")
            for xla in args.compile
            for accum in args.memory_accum
        ]
        jobs = [{**job, "case": dataclasses.asdict(case), "cells": ["memory"]} for case in cases]
        table(title, columns, jobs, args.rounds)


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])

    def numbers(name, default, text, kind=count, **settings):
        parser.add_argument(name, type=kind, default=default, help=text, **settings)

    def several(name, choices, default, text):
        parser.add_argument(name, choices=choices, nargs="+", default=default, help=text)

    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    several("--tables", ["speed", "memory"], ["speed", "memory"], "what to measure")
    several("--steps", list(SPEED), list(SPEED), "columns of the speed table")
    several("--compile", ["off", "on"], ["off", "on"], "XLA")
    several(
        "--precision",
        PRECISIONS,
        None,
        "types in which layers compute, in all combinations (default: all three, but float16, and"
        " bfloat16 with XLA, only with one replica and --accum 1)",
    )
    numbers("--replicas", [1, 2], "numbers of replicas on the CPU", nargs="+")
    numbers("--accum", [1, 2], "parts per replica's batch", nargs="+")
    numbers("--memory_accum", [1, 2, 4, 8], "the same, in the memory table", nargs="+")
    numbers("--batch_size", 128, "images per batch in training and distillation")
    numbers("--search_batch_size", 256, "images per batch in scoring and for candidates")
    numbers("--memory_batch_size", 256, "images per batch in the memory table")
    numbers("--seconds", 3.0, f"timed seconds per step, at least {LEAST_CALLS} calls", positive)
    numbers("--timeout", 90, "seconds after which a step is given up")
    numbers("--rounds", 1, "repetitions of each table")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_program(lambda: parent_or_child(parse(), report, child)))
