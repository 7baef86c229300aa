"""What a run takes, by arithmetic: passes, hours, decoding, memory, disk and traffic.

    python bench/scaling.py [--images 1281167 --classes 1000 --test 50000] [--gpus 1 4 8 16 32 64]
    [--rate 500 2000] ...

Nothing is timed. FLOPs, parameters and gates are those of the network as it is built; --rate,
images a second of forward and backward pass on one GPU, is what you have measured or assume.
docs/scaling.md has the formulas.
"""

import statistics
import sys

import numpy as np
from harness import print_heading, print_row

from cli.flags import Parser, count, count_or_none, positive, share
from cli.program import run_program
from distribution.startup import import_tensorflow
from ekg.candidates import fine_search, slice_steps
from ekg.importance import filters_kept
from nets import build_network
from nets.catalogue import BUILDERS, CIFAR

FLAGS = {  # name: (type, default, help)
    "images": (count, 1_281_167, "training images"),
    "classes": (count, 1000, "classes"),
    "test": (count_or_none, 50_000, "test images"),
    "kib": (positive, 110.0, "mean KiB of an encoded image"),
    "batch_size": (count, 256, "images a step of fine-tuning, over all GPUs"),
    "accum": (count, 1, "parts in which a GPU takes its batch"),
    "baseline_epoch": (
        count_or_none,
        0,
        "epochs of a baseline, 0 where a trained network is given",
    ),
    "epochs": (count_or_none, 100, "epochs of fine-tuning"),
    "val_per_class": (count, 32, "images a class in D_val"),
    "subset_per_class": (count, 256, "images a class in D_subset, at most"),
    "search_batch_size": (count, 256, "images of D_val a batch"),
    "search_target_rate": (share, 0.45, "share of the FLOPs that remains"),
    "evaluated": (share, 0.6, "share of the gates that a step of the search evaluates"),
    "num_teacher": (count, 5, "teachers in the memory bank"),
    "host_ns": (
        positive,
        17.0,
        "nanoseconds that a core takes for both losses of a candidate, a logit",
    ),
    "cores": (count, 16, "cores a machine"),
}


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-50", help="the network")
    parser.add_argument(
        "--gpus",
        type=count,
        nargs="+",
        default=[1, 4, 8, 16, 32, 64],
        help="GPUs, over all machines",
    )
    parser.add_argument(
        "--rate",
        type=positive,
        nargs="+",
        default=[500.0, 2000.0],
        help="images/s of training on one GPU",
    )
    parser.add_argument(
        "--bank_top",
        type=count,
        nargs="+",
        default=[64, 100],
        help="logits a row keeps, a file each",
    )
    for name, (kind, default, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser.parse_args(argv)


def search_steps(network, target_rate, search_step=0.2):
    """(estimate, bound) of a search's steps: slices that fall in random order, median of five; all
    slices there are.
    """
    sizes, flops_of = network.gate_sizes, lambda filters: network.cost(filters)[0]
    steps, target = (
        slice_steps(sizes, [gate.uses for gate in network.gates], search_step),
        target_rate * network.cost()[0],
    )
    counts = []
    for seed in range(5):
        rng, rates, taken = np.random.default_rng(seed), [1.0] * len(sizes), 0
        while flops_of(filters_kept(sizes, rates)) > target:
            gate = rng.choice([i for i, rate in enumerate(rates) if rate > 0])
            rates, taken = fine_search(flops_of, sizes, rates, gate, steps[gate], target), taken + 1
        counts.append(taken)
    return statistics.median(counts), int(
        np.ceil(1 / steps - 1e-9).sum()
    )  # 1 / 0.2 may come out above 5


def values(network):
    """Values of a view: (out of every part but the last; out of every convolution, every ReLU and
    the stem's pool).
    """
    parts = sum(part.out_size**2 * part.out_gate.size for part in network.parts[:-1])
    size_of = lambda bn: bn.size**2 * bn.shape("gamma")[3]
    inner = [
        bn for bn in network.batch_norms if not bn.path.endswith(("bn2", "bn3"))
    ]  # those have their ReLU behind the add
    return parts, sum(map(size_of, network.batch_norms)) + sum(map(size_of, inner)) + parts


def stages(a, steps, candidates):
    """dict stage -> (forward passes, decoded images); a forward and backward pass is three forward
    passes.
    """
    val, subset = a.classes * a.val_per_class, min(a.classes * a.subset_per_class, a.images)
    return {
        "baseline": (
            a.baseline_epoch * (3 * a.images + a.test),
            a.baseline_epoch * (a.images + a.test),
        ),
        "warm-up": (3 * subset, subset),
        "search": (val * (1 + steps * (3 + candidates)), val),
        "memory bank": (a.num_teacher * a.images, a.images),
        "moving averages": (subset, subset),
        "fine-tuning, two views": (
            a.epochs * (6 * a.images + a.test),
            a.epochs * (a.images + a.test),
        ),
        "evaluation, twice": (2 * a.test, 2 * a.test),
    }


def in_bytes(number):
    unit, name = next(
        (u for u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= u[0]),
        (1, "B"),
    )
    return f"{number / unit:,.1f} {name}"


def print_table(title, columns, rows, words=in_bytes):
    """rows: dict name -> list of numbers."""
    print_heading(title, ["what"], columns)
    for name, numbers in rows.items():
        print_row([name, *map(words, numbers)])


def report(a):
    """Prints the tables."""
    import_tensorflow()
    network = build_network(a.arch, a.classes, 32 if a.arch in CIFAR else 224)
    (flops, params), gates, filters = (
        network.cost(),
        len(network.gates),
        int(network.gate_sizes.sum()),
    )
    (steps, bound), candidates = (
        search_steps(network, a.search_target_rate),
        round(a.evaluated * gates),
    )
    trainable, (parts, kept) = params - network.moving_averages(), values(network)
    val, k, pixels, logits = (
        a.classes * a.val_per_class,
        a.num_teacher,
        3 * network.input_size**2,
        4 * a.classes,
    )
    gpus, each = [f"G = {g}" for g in a.gpus], lambda of: [of(g) for g in a.gpus]
    print(
        f"{a.arch}, {a.classes:,} classes: {flops:,} FLOPs, {params:,} parameters, {gates} gates,"
        f" {filters:,} filters"
    )
    print(
        f"search to {a.search_target_rate:.0%}: about {steps} steps, at most {bound}; about"
        f" {candidates} candidates a step"
    )
    work = {name: numbers for name, numbers in stages(a, steps, candidates).items() if numbers[0]}
    print_table(
        "Millions",
        ["forward passes", "decoded images"],
        work,
        lambda number: f"{number / 1e6:,.2f}",
    )
    passes = {name: numbers[0] for name, numbers in work.items()} | {
        "all": sum(numbers[0] for numbers in work.values())
    }
    for r in a.rate:
        hours = {
            name: each(lambda g, n=n, r=r: n / (3 * r * g) / 3600) for name, n in passes.items()
        }
        print_table(f"Hours, r = {r:,.0f}", gpus, hours, "{:,.2f}".format)
    shares = {
        "baseline, one view: r": 1,
        "fine-tuning, two views: r / 2": 1 / 2,
        f"bank: 3 r / {k}": 3 / k,
        "evaluation: 3 r": 3,
    }
    rates = {name: [factor * r for r in a.rate] for name, factor in shares.items()}
    print_table(
        "Images/s to decode for each GPU",
        [f"r = {r:,.0f}" for r in a.rate],
        rates,
        "{:,.0f}".format,
    )
    memory = {"weights, momentum, gradients": each(lambda g: 4 * (params + 2 * trainable))}
    memory["two views, kept for the way back"] = each(
        lambda g: 8 * kept * a.batch_size / g / a.accum
    )
    memory["rows of the bank, one copy"] = each(lambda g: logits * k * a.batch_size / g / a.accum)
    memory["search, shared by candidates"] = each(
        lambda g: 4 * parts * a.search_batch_size / g / a.accum
    )
    print_table(
        f"Memory of a GPU, float32, {a.batch_size} images a step, --accum {a.accum}", gpus, memory
    )
    together = max(1, min(2**30 // (val * logits), gates))
    memory = {
        "index of shards, labels: 28 an image": 28 * a.images,
        "order of an epoch: 44 an image": 44 * a.images,
    }
    memory |= {
        "D_val": val * pixels,
        "T": val * logits,
        "losses of a candidate": 24 * 2**20 * a.cores + 8 * val,
    }
    memory |= {
        "logits of candidates": 3 * together * val * logits,
        "five batches of two views": 10 * a.batch_size * pixels,
    }
    disk = {
        "encoded images": a.images * a.kib * 1024,
        "bank, all logits": a.images * k * 2 * a.classes,
    }
    disk |= {
        f"bank, --bank_top {m}": a.images * k * ((4 if a.classes <= 2**16 else 6) * m + 2)
        for m in a.bank_top
    }
    disk |= {"parameter file": 4 * params, "checkpoint of a training": 4 * (params + trainable)}
    disk["search_state.npz"] = val * logits + steps * 4 * filters
    print_table("Memory of a host", ["bytes"], {name: [number] for name, number in memory.items()})
    print_table("Disk", ["bytes"], {name: [number] for name, number in disk.items()})
    traffic = {"a training step: all-reduce": each(lambda g: 2 * (g - 1) / g * 4 * params)}
    rows = {"a candidate": val, "the bank": a.images * k, "an evaluation": a.test}
    traffic |= {
        f"{name}: rows gathered": each(lambda g, n=n: (g - 1) / g * n * logits)
        for name, n in rows.items()
    }
    print_table("Traffic of a GPU", gpus, traffic)
    for r in a.rate:
        read = {"encoded images": each(lambda g, r=r: r / 2 * g * a.kib * 1024)}
        read["dense bank"] = each(lambda g, r=r: r / 2 * g * 2 * a.classes * k)
        print_table(f"Bytes/s from storage in fine-tuning, r = {r:,.0f}", gpus, read)
        seconds = {"on the GPUs": each(lambda g, r=r: val / (3 * r * g))}
        seconds["on the host, its losses"] = each(
            lambda g: val * a.classes * a.host_ns / 1e9 / a.cores
        )
        print_table(f"Seconds of a candidate, r = {r:,.0f}", gpus, seconds, "{:,.2f}".format)


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
