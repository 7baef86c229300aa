"""How fast training is, beside PyTorch and beside the network's convolutions alone: tables in
Markdown, images a second.

    python bench/train.py python bench/train.py --arch ResNet-20 --precision float32 --compile off
    on --rounds 5 --torch none

Random weights and random images, on the CPU. `Step alone`: the same batch over and over. `With its
data`: engine.training.train on arrays in memory, which draws, gathers and hands over every batch.
An image counts once, whatever the number of its views. Every cell is a process of its own, and all
cells take turns in each of --rounds, so that they meet the same machine; a figure is the median
over rounds. `-`: the cell failed, or was given up after --patience; it is not tried again.

The bound is what a step would reach if only the convolutions and their gradients took time, in
TensorFlow's own kernels. PyTorch trains the same network (bench/torch_resnet.py). Its threads wait
for each other by spinning: on cores that others use too its figures fall to a small part,
TensorFlow's far less, so let nothing else run. It is installed for this benchmark alone, once, into
bench/.torch; where pip would take a build with CUDA, PIP_INDEX_URL or PIP_FIND_LINKS can name a
place of CPU builds.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

from harness import brief, in_own_process, machine, parent_or_child, print_heading, print_row

from cli.flags import Parser, count, positive
from cli.program import run_program
from dataloader import AUGMENTATIONS, CLASSES
from distribution.startup import import_tensorflow
from engine.options import DeviceOptions, TrainOptions
from nets import build_network
from nets.catalogue import BUILDERS
from utils import UserError

DATASET, SIZE, TEACHERS = "CIFAR10", 32, 5
LEARNING_RATE, WEIGHT_DECAY = 0.01, 5e-4
LEAST_CALLS = 5  # timed calls of a step, however long they take
WARM_UP = 2  # calls before the timed ones: tracing, memory, oneDNN's kernels
PRECISIONS = ["float32", "bfloat16"]
# PyTorch only knows the basic blocks.
ARCHITECTURES = {
    arch: settings["blocks"]
    for arch, (_, name, settings) in BUILDERS.items()
    if name == "CifarResNet"
}

HERE = os.path.dirname(os.path.abspath(__file__))
TORCH_PROGRAM, TORCH_FOLDER = os.path.join(HERE, "torch_resnet.py"), os.path.join(HERE, ".torch")
TORCH_PACKAGES = ["torch==2.13.0", "numpy"]

PLAIN = "plain: step alone"
# --feeds -> (end of a heading, steps a call, MiB of the data that may lie on the device)
FEEDS = {
    "host": ("with its data", 1, 0),
    "several": ("10 steps a call", 10, 0),
    "resident": ("resident data", 1, 1024),
    "both": ("both", 10, 1024),
}


def columns(feeds):
    """dict heading -> what a job of this column adds."""
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
    """A row of a table: its words, the program and Python that measure it, and by column the job,
    the rates, the mistake.
    """

    table: str
    precision: str  # float32 or bfloat16, the figures it is compared with
    words: list
    jobs: dict
    program: str = __file__
    python: str = sys.executable
    rates: dict = dataclasses.field(
        default_factory=dict
    )  # column -> images a second, one of each round
    errors: dict = dataclasses.field(default_factory=dict)

    def figure(self, column):
        """The median over rounds, None where there is none."""
        return statistics.median(self.rates[column]) if self.rates.get(column) else None


# --------------------------------------------------------------------- the process that is measured


class Enough(Exception):
    """Training has gone on for as long as it is timed."""


def random_set(images, views):
    """Random arrays of a data set of so many images: a dict of [images, ...], with a bank for two
    views.
    """
    import numpy as np

    classes, rng = CLASSES[DATASET], np.random.default_rng(0)
    data = {
        "images": rng.integers(0, 256, (images, SIZE, SIZE, 3), np.uint8),
        "labels": rng.integers(0, classes, images),
    }
    if views > 1:
        data["bank"] = rng.standard_normal((images, classes, TEACHERS), np.float32).astype(
            np.float16
        )
    return data


def make_step(job, arrays, resident_mib=0):
    """(step, feed): the training step of a job, of a baseline for one view or of fine-tuning for
    two, on a random_set.
    """
    from dataloader.augment import augment
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from ekg.contrastive import contrastive_loss, plain_loss
    from engine.feed import Feed
    from op_utils import Optimizer, training_step

    runtime, _ = make_runtime(
        DeviceOptions(None, 1, job["compile"], 1, job["precision"], False), Alone()
    )
    network, several = build_network(job["arch"], CLASSES[DATASET], SIZE), job["views"] > 1
    prepare = lambda batch: augment(
        batch["images"], batch["draws"], AUGMENTATIONS[DATASET], colour=several
    )
    optimizer, feed = Optimizer(network.trainable, runtime), Feed(arrays, runtime, resident_mib)
    loss = contrastive_loss if several else plain_loss
    return training_step(network, optimizer, runtime, prepare, loss, feed.tables), feed


def rate_with_data(job):
    """Images a second of whole epochs of engine.training.train; the first one traces and is left
    out.
    """
    from engine.training import train

    steps, times = job["images"] // job["batch_size"], []

    def on_epoch(record, _):
        if record["epoch"] > 1:
            times.append(record["seconds"])
        if len(times) * steps >= LEAST_CALLS and sum(times) >= job["seconds"]:
            raise Enough

    options = TrainOptions(1_000_000, LEARNING_RATE, (), 1.0, WEIGHT_DECAY, job["batch_size"])
    settings = dict(seed=[0], views=job["views"], steps_per_call=job["steps_per_call"])
    step, feed = make_step(job, random_set(job["images"], job["views"]), job["resident_mib"])
    try:
        train(step, feed, options, **settings, on_epoch=on_epoch)
    except Enough:
        pass
    return steps * job["batch_size"] / statistics.median(times)


def rate_alone(job):
    """Images a second of the step on one batch that was made before."""
    import numpy as np

    from dataloader.augment import draw

    size = job["batch_size"]
    arrays = random_set(size, job["views"])
    step, _ = make_step(job, arrays)
    batch = {**arrays, "draws": draw(np.random.default_rng(0), size, job["views"])}
    shared = {"learning_rate": np.float32(LEARNING_RATE), "weight_decay": np.float32(WEIGHT_DECAY)}

    def steps():  # as many as an epoch of the columns with data, so that both are means over them
        for _ in range(job["images"] // size):
            _ = {name: float(value) for name, value in step(batch, **shared)[0].items()}

    # One call to warm up and one timed at least: of so many steps that is enough.
    return rate_of(steps, job, job["images"] // size * size, warm_up=1, least=1)


def rate_of_convolutions(job):
    import tensorflow as tf
    from convolutions import convolutions_step

    tf.config.set_visible_devices([], "GPU")
    network = build_network(job["arch"], CLASSES[DATASET], SIZE)
    step = convolutions_step(network, job["batch_size"], tf.as_dtype(job["precision"]))
    return rate_of(step, job, job["batch_size"], WARM_UP, LEAST_CALLS)


def rate_of(call, job, images, warm_up, least):
    """Images a second of calls that take so many each, over their median time; `least` calls are
    timed, after `warm_up`.
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
    """Prints {"rate": images a second} of one cell."""
    import_tensorflow()
    rate = {"alone": rate_alone, "data": rate_with_data, "convolutions": rate_of_convolutions}[
        job["cell"]
    ]
    print(json.dumps({"rate": rate(job)}), flush=True)


# ---------------------------------------------------------------------------- the process that asks


def torch_python(wanted):
    """(Python that has torch, torch's version) of --torch; (None, None) for none. Raises UserError
    where there is none.
    """
    if wanted == "none":
        return None, None
    python = install_torch() if wanted == "install" else wanted
    try:
        said = in_own_process(TORCH_PROGRAM, {"cell": "version"}, python)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--torch {wanted}: {python} has no PyTorch: {error}") from error
    return python, said[0]["version"]


def install_torch():
    """The Python of bench/.torch, which is made if it is not there whole."""
    python = os.path.join(TORCH_FOLDER, "Scripts" if os.name == "nt" else "bin", "python")
    ready = os.path.join(TORCH_FOLDER, ".ready")
    if os.path.exists(ready):
        return python
    print(
        f"installs {' '.join(TORCH_PACKAGES)} in {os.path.relpath(TORCH_FOLDER)}, once",
        file=sys.stderr,
        flush=True,
    )
    pip = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *TORCH_PACKAGES,
    ]
    for command in ([sys.executable, "-m", "venv", TORCH_FOLDER], pip):
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            said = f"{ended.stdout}\n{ended.stderr}".splitlines()
            mistakes = [line for line in said if line.startswith("ERROR")] or said[::-1]
            raise UserError(
                f"--torch install: {brief(chr(10).join(mistakes))}; --torch PYTHON or --torch none"
                " go without it"
            )
    for name, content in ((".gitignore", "*\n"), (".ready", "")):
        with open(os.path.join(TORCH_FOLDER, name), "w") as file:
            file.write(content)
    return python


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


def measure(rows, rounds, patience):
    """Fills the rows' rates, every cell once a round."""
    for number in range(1, rounds + 1):
        for row in rows:
            for column, job in row.jobs.items():
                if column in row.errors:
                    continue
                print(
                    f"round {number} of {rounds}: {row.table}, {', '.join(row.words)}, {column}",
                    file=sys.stderr,
                    flush=True,
                )
                try:
                    rate = in_own_process(row.program, job, row.python, patience)[0]["rate"]
                    row.rates.setdefault(column, []).append(rate)
                except subprocess.TimeoutExpired:
                    row.errors[column] = f"given up after {patience} s"
                except RuntimeError as error:
                    row.errors[column] = str(error)


def print_table(title, names, rows):
    """Prints rows that have the same columns, and why cells are missing."""
    if not rows:
        return
    print_heading(title, names, list(rows[0].jobs))
    for row in rows:
        figures = [row.figure(column) for column in row.jobs]
        print_row([*row.words, *("-" if figure is None else f"{figure:.0f}" for figure in figures)])
    notes = [
        f"- {', '.join(row.words)}, {column}: {error}"
        for row in rows
        for column, error in row.errors.items()
    ]
    if notes:
        print("", *notes, sep="\n", flush=True)


def print_ratios(precisions, tables):
    """A line for each precision: the fastest plain step of this project over the others' fastest
    figures.
    """
    print()
    for precision in precisions:
        best = {}
        for name, rows in tables.items():
            figures = [
                (row.figure(PLAIN), " ".join(row.words))
                for row in rows
                if row.precision == precision
            ]
            best[name] = max((pair for pair in figures if pair[0] is not None), default=None)
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
    measure([row for rows in tables.values() for row in rows], args.rounds, args.patience)
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
    several = dict(nargs="+")
    parser.add_argument(
        "--arch", choices=list(ARCHITECTURES), default="ResNet-56", help="the network"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS,
        help="what layers compute in",
        **several,
    )
    parser.add_argument(
        "--compile",
        choices=["off", "on"],
        default=["off", "on"],
        help="XLA, in this project",
        **several,
    )
    parser.add_argument(
        "--feeds",
        choices=list(FEEDS),
        default=["host"],
        help="how the data come, a column each",
        **several,
    )
    parser.add_argument("--batch_size", type=count, default=128, help="images a batch")
    parser.add_argument(
        "--images", type=count, default=1280, help="images of the data set of the columns with data"
    )
    parser.add_argument("--rounds", type=count, default=3, help="times to go through all cells")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=3.0,
        help=f"to time a cell for, {LEAST_CALLS} calls at least",
    )
    parser.add_argument(
        "--patience",
        type=count,
        default=300,
        help="seconds after which a cell's process is given up",
    )
    parser.add_argument(
        "--torch",
        default="install",
        metavar="install|PYTHON|none",
        help=(
            "where PyTorch is: install it in bench/.torch, a Python that has it, or leave its"
            " rows out"
        ),
    )
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.images < args.batch_size:
        parser.error(f"--images {args.images} fills no batch of --batch_size {args.batch_size}")
    return args


if __name__ == "__main__":
    sys.exit(run_program(lambda: parent_or_child(parse(), report, child)))
