"""Seconds from the start of a process to: help, the error for a wrong flag, the first training
step.

    python bench/startup.py [--arch ResNet-56] [--batch_size 128] [--compile] [--rounds 3]

Numbers are medians over rounds; each measures a whole process. The time to the first step includes
Python, TensorFlow, the network, tracing, XLA's compilation if asked for, and one step on random
CIFAR images.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time

from harness import ROOT, in_own_process, machine, parent_or_child, print_heading, print_row
from random_training import DATASET, SIZE, random_set, random_step
from timing import in_turn

from cli.parser import Parser, count
from cli.program import run_program
from dataloader import CLASSES
from engine.options import DeviceOptions, TrainOptions
from nets.catalogue import BUILDERS


def child(job):
    """Prints one JSON line when the first step is done."""
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from engine.feed import Feed
    from engine.training import train
    from nets import build_network

    size = job["batch_size"]
    runtime, _ = make_runtime(DeviceOptions(None, 1, job["compile"], 1, "float32", False), Alone())
    network = build_network(job["arch"], CLASSES[DATASET], SIZE)
    feed = Feed(random_set(size, views=1), runtime)
    step = random_step(network, runtime, 1, feed.tables)
    options = TrainOptions(1, 0.1, (), 1.0, 1e-4, size)
    train(step, feed, options, seed=[0])
    print('{"done": true}', flush=True)


def timed(run):
    """Seconds of run()."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def program(*flags):
    """A function that runs train_cifar.py with flags that it answers at once."""
    command = [sys.executable, os.path.join(ROOT, "train_cifar.py"), *flags]
    return lambda: subprocess.run(command, capture_output=True, check=False)


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    parser.add_argument("--batch_size", type=count, default=128, help="images per batch")
    parser.add_argument("--compile", action="store_true", help="compile the step with XLA")
    parser.add_argument("--rounds", type=count, default=3, help="processes per row")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def report(args):
    """Prints the table."""
    job = {"arch": args.arch, "batch_size": args.batch_size, "compile": args.compile}
    runs = {
        "train_cifar.py --help": program("--help"),
        "a wrong flag": program("--no_such_flag"),
        "first training step": lambda: in_own_process(__file__, job),
    }
    print(
        f"{args.arch}, 32x32, batches of {args.batch_size}, XLA {'on' if args.compile else 'off'};"
        f" {machine()}",
        flush=True,
    )
    calls = {name: functools.partial(timed, run) for name, run in runs.items()}
    seconds = in_turn(calls, args.rounds)
    print_heading(f"Seconds from the start of a process, median of {args.rounds}", ["until"], ["s"])
    for name, values in seconds.items():
        print_row([name, f"{statistics.median(values):.2f}"])


if __name__ == "__main__":
    sys.exit(run_program(lambda: parent_or_child(parse(), report, child)))
