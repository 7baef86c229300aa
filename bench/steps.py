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

import dataclasses
import itertools
import json
import signal
import statistics
import subprocess
import sys

import steps_row
from harness import (
    OF_PRECISION,
    add_choices,
    add_numbers,
    brief,
    machine,
    print_heading,
    print_row,
    say,
)
from random_training import SIZE
from steps_row import LEAST_CALLS, Case

from cli.flags import PRECISIONS
from cli.parser import Parser, count, positive
from cli.program import run_program
from nets.catalogue import BUILDERS

SPEED = {
    "train": "training",
    "distil": "distillation, 2 views",
    "score": "scoring",
    "predict": "candidates, bank",
}
HEADER = ["precision", "replicas", "accum", "XLA"]
NUMBERS = {  # flags: type, default, help
    "replicas": (count, [1, 2], "numbers of replicas on the CPU"),
    "accum": (count, [1, 2], "parts per replica's batch"),
    "memory_accum": (count, [1, 2, 4, 8], "the same, in the memory table"),
    "batch_size": (count, 128, "images per batch in training and distillation"),
    "search_batch_size": (count, 256, "images per batch in scoring and for candidates"),
    "memory_batch_size": (count, 256, "images per batch in the memory table"),
    "seconds": (positive, 3.0, f"timed seconds per step, at least {LEAST_CALLS} calls"),
    "timeout": (count, 90, "seconds after which a step is given up"),
    "rounds": (count, 1, "repetitions of each table"),
}


def measured(job):
    """dict cell -> metrics, for all cells of a job.

    If a cell ends its process, another process measures the cells after it.
    """
    results, remaining = {}, job["cells"]
    while remaining:
        own = json.dumps({**job, "cells": remaining})
        command = [sys.executable, steps_row.__file__, "--one", own]
        ended = subprocess.run(command, capture_output=True, text=True)
        lines = [
            json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"cell"')
        ]
        results |= {metrics.pop("cell"): metrics for metrics in lines}
        remaining = remaining[len(lines) :]
        if remaining:
            results[remaining[0]] = why(ended, job["timeout"])
            remaining = remaining[1:]
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
            say(f"{title}, round {number} of {rounds}: {Case(**job['case'])}")
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
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    add_choices(parser, "tables", ["speed", "memory"], ["speed", "memory"], "what to measure")
    add_choices(parser, "steps", list(SPEED), list(SPEED), "columns of the speed table")
    add_choices(parser, "compile", ["off", "on"], ["off", "on"], "XLA")
    text = (
        f"{OF_PRECISION}, in all combinations (default: all three, but float16, and bfloat16 with"
        " XLA, only with one replica and --accum 1)"
    )
    add_choices(parser, "precision", PRECISIONS, None, text)
    add_numbers(parser, NUMBERS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
