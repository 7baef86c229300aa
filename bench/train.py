"""Training speed compared with PyTorch and with the network's convolutions alone, in Markdown.

    python bench/train.py
    python bench/train.py --arch ResNet-20 --precision float32 --compile off on --rounds 5 \
        --torch none

Numbers are images per second on the CPU, with random weights and images. `step alone`: the step on
one batch again and again. `with its data`: engine.training.train on arrays in memory, which also
draws, gathers and transfers every batch. An image counts once, whatever its number of views. Every
cell has its own process. All cells take turns in each of --rounds, so that other load on the
machine affects all alike; numbers are medians over rounds. `-`: the cell failed or took longer than
--timeout; it is not repeated.

The bound is the speed of a step in which only the convolutions and their gradients take time, in
TensorFlow's own kernels. PyTorch trains the same network (bench/torch_resnet.py). Let nothing else
run at the same time: PyTorch's threads wait by spinning, so on shared cores PyTorch becomes many
times slower, and TensorFlow much less. PyTorch is installed once, only for this benchmark, into
bench/.torch. If pip would install a build with CUDA, set PIP_INDEX_URL or PIP_FIND_LINKS to a place
with CPU builds.
"""

import dataclasses
import statistics
import subprocess
import sys

import train_cell
from harness import (
    OF_PRECISION,
    add_choices,
    add_numbers,
    in_own_process,
    machine,
    print_heading,
    print_row,
    say,
)
from random_training import DATASET, SIZE
from torch_install import TORCH_PROGRAM, torch_python
from train_cell import LEAST_CALLS

from cli.parser import Parser, count, positive
from cli.program import run_program
from dataloader import CLASSES
from nets.catalogue import BUILDERS

PRECISIONS = ["float32", "bfloat16"]
# Only networks of basic blocks: torch_resnet.py has no others.
ARCHITECTURES = {
    arch: settings["blocks"]
    for arch, (_, name, settings) in BUILDERS.items()
    if name == "CifarResNet"
}

PLAIN = "plain: step alone"
# --feeds -> (end of a heading, steps per call, MiB of data on the device)
FEEDS = {
    "host": ("with its data", 1, 0),
    "several": ("10 steps per call", 10, 0),
    "resident": ("resident data", 1, 1024),
    "both": ("both", 10, 1024),
}
NUMBERS = {  # flags: type, default, help
    "batch_size": (count, 128, "images per batch"),
    "images": (count, 1280, "images of the data set, in the columns with data"),
    "rounds": (count, 3, "measurements per cell"),
    "seconds": (positive, 3.0, f"timed seconds per cell, at least {LEAST_CALLS} calls"),
    "timeout": (count, 300, "seconds after which the process of a cell is ended"),
}


def columns(feeds):
    """dict heading -> entries that a job of this column adds."""
    found = {}
    for name, views in (("plain", 1), ("two views", 2)):
        found[f"{name}: step alone"] = {"cell": "alone", "views": views}
        for heading, steps, mib in (FEEDS[feed] for feed in feeds):
            settings = {
                "cell": "data",
                "views": views,
                "steps_per_call": steps,
                "resident_mib": mib,
            }
            found[f"{name}: {heading}"] = settings
    return found


@dataclasses.dataclass
class Row:
    """A row of a table."""

    table: str
    precision: str  # float32 or bfloat16: rows of the same precision are compared
    words: list  # its first cells
    jobs: dict  # column -> job
    program: str = train_cell.__file__
    python: str = sys.executable
    # column -> list of images per second, one per round
    rates: dict = dataclasses.field(default_factory=dict)
    errors: dict = dataclasses.field(default_factory=dict)  # column -> message

    def median_rate(self, column):
        """Images per second, median over rounds; None without a measurement."""
        return statistics.median(self.rates[column]) if self.rates.get(column) else None


def project_rows(args, job):
    for precision in args.precision:
        for xla in args.compile:
            own = {
                **job,
                "arch": args.arch,
                "images": args.images,
                "precision": precision,
                "compile": xla == "on",
            }
            jobs = {column: {**own, **settings} for column, settings in columns(args.feeds).items()}
            yield Row("this project", precision, [precision, xla], jobs)


def torch_rows(args, job, python):
    own = {
        **job,
        "cell": "alone",
        "blocks": ARCHITECTURES[args.arch],
        "classes": CLASSES[DATASET],
        "size": SIZE,
    }
    for precision in args.precision:
        for way in ["float32"] if precision == "float32" else ["bfloat16", "autocast"]:
            for name, compiled in (("eager", False), ("torch.compile", True)):
                jobs = {
                    PLAIN: {
                        **own,
                        "least_calls": LEAST_CALLS,
                        "precision": way,
                        "compile": compiled,
                    }
                }
                yield Row("PyTorch", precision, [way, name], jobs, TORCH_PROGRAM, python)


def bound_rows(args, job):
    for precision in args.precision:
        jobs = {PLAIN: {**job, "cell": "convolutions", "arch": args.arch, "precision": precision}}
        yield Row("convolutions alone", precision, [precision], jobs)


def measure(rows, rounds, timeout):
    """Measures every cell once per round; fills the rates and errors of the rows."""
    for number in range(1, rounds + 1):
        for row in rows:
            for column, job in row.jobs.items():
                if column in row.errors:
                    continue
                say(f"round {number} of {rounds}: {row.table}, {', '.join(row.words)}, {column}")
                try:
                    rate = in_own_process(row.program, job, row.python, timeout)[0]["rate"]
                    row.rates.setdefault(column, []).append(rate)
                except subprocess.TimeoutExpired:
                    row.errors[column] = f"given up after {timeout} s"
                except RuntimeError as error:
                    row.errors[column] = str(error)


def print_table(title, names, rows):
    """Prints rows with the same columns, then the reasons for missing cells."""
    if not rows:
        return
    print_heading(title, names, list(rows[0].jobs))
    for row in rows:
        rates = [row.median_rate(column) for column in row.jobs]
        print_row([*row.words, *("-" if rate is None else f"{rate:.0f}" for rate in rates)])
    notes = [
        f"- {', '.join(row.words)}, {column}: {error}"
        for row in rows
        for column, error in row.errors.items()
    ]
    if notes:
        print("", *notes, sep="\n", flush=True)


def print_ratios(precisions, tables):
    """Prints one line per precision: the fastest plain step of this project relative to the
    others'.
    """
    print()
    for precision in precisions:
        best = {}
        for name, rows in tables.items():
            rates = [
                (row.median_rate(PLAIN), " ".join(row.words))
                for row in rows
                if row.precision == precision
            ]
            best[name] = max((pair for pair in rates if pair[0] is not None), default=None)
        own, *others = best.items()
        if own[1] is not None:
            ratios = [
                f"{own[1][0] / pair[0]:.2f} times {name} ({pair[1]})"
                for name, pair in others
                if pair is not None
            ]
            print(
                f"- {precision}, {PLAIN}: {own[0]} reaches {own[1][0]:.0f}"
                f" images/s{''.join(f', {r}' for r in ratios)}"
            )


def report(args):
    """Measures everything, then prints it."""
    python, version = torch_python(args.torch)
    print(
        f"{args.arch}, {SIZE}x{SIZE}; {machine()}{f', PyTorch {version}' if version else ''}",
        flush=True,
    )
    job = {"batch_size": args.batch_size, "seconds": args.seconds}
    tables = {
        "this project": list(project_rows(args, job)),
        "PyTorch": list(torch_rows(args, job, python)) if python else [],
        "the bound": list(bound_rows(args, job)),
    }
    measure([row for rows in tables.values() for row in rows], args.rounds, args.timeout)
    title = f"images per second, batches of {args.batch_size}, median of {args.rounds} rounds"
    print_table(
        f"This project: {title}; data sets of {args.images} images",
        ["precision", "XLA"],
        tables["this project"],
    )
    print_table(f"PyTorch: {title}", ["precision", "mode"], tables["PyTorch"])
    print_table(
        f"The bound, convolutions and their gradients alone: {title}",
        ["precision"],
        tables["the bound"],
    )
    print_ratios(args.precision, tables)


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(ARCHITECTURES), default="ResNet-56", help="network")
    add_choices(parser, "precision", PRECISIONS, PRECISIONS, OF_PRECISION)
    add_choices(parser, "compile", ["off", "on"], ["off", "on"], "XLA, in this project")
    add_choices(parser, "feeds", list(FEEDS), ["host"], "ways to feed the data, one column each")
    add_numbers(parser, NUMBERS)
    parser.add_argument(
        "--torch",
        default="install",
        metavar="install|PYTHON|none",
        help="where PyTorch is: install it in bench/.torch, path of a Python that has it, or none"
        " to skip its rows",
    )
    args = parser.parse_args(argv)
    if args.images < args.batch_size:
        parser.error(f"--images {args.images} is less than one --batch_size {args.batch_size}")
    return args


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
