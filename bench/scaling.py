"""Estimates the cost of a run by arithmetic: passes, hours, decoding, memory, disk and traffic.

    python bench/scaling.py [--images 1281167 --classes 1000 --test 50000] \
        [--gpus 1 4 8 16 32 64] [--rate 500 2000] ...

Nothing is timed. FLOPs, parameters and gates come from the network; --rate is your measurement or
assumption: images per second, forward and backward, on one GPU. docs/scaling.md has the formulas.
"""

import statistics
import sys

import numpy as np
from harness import add_numbers, print_heading, print_row

from cli.parser import Parser, count, count_or_none, positive, share
from cli.program import run_program
from distribution.startup import import_tensorflow
from ekg.budget import Budget
from ekg.candidates import fine_search, slice_steps
from ekg.filter_rule import FilterRule
from nets import build_network
from nets.catalogue import BUILDERS, CIFAR

NUMBERS = {  # flags: type, default, help
    "gpus": (count, [1, 4, 8, 16, 32, 64], "numbers of GPUs, over all machines"),
    "rate": (positive, [500.0, 2000.0], "images per second of training on one GPU"),
    "bank_top": (count, [64, 100], "logits per teacher in a row, one bank file each"),
    "images": (count, 1_281_167, "training images"),
    "classes": (count, 1000, "classes"),
    "test": (count_or_none, 50_000, "test images"),
    "kib": (positive, 110.0, "mean size of an encoded image in KiB"),
    "batch_size": (count, 256, "images per step of fine-tuning, over all GPUs"),
    "accum": (count, 1, "parts per GPU's batch"),
    "baseline_epoch": (count_or_none, 0, "epochs of a baseline, 0 with a trained network"),
    "epochs": (count_or_none, 100, "epochs of fine-tuning"),
    "val_per_class": (count, 32, "images per class in D_val"),
    "subset_per_class": (count, 256, "images per class in D_subset, at most"),
    "search_batch_size": (count, 256, "images of D_val per batch"),
    "search_target_rate": (share, 0.45, "share of the FLOPs that may remain"),
    "evaluated": (share, 0.6, "share of the gates evaluated per step of the search"),
    "num_teacher": (count, 5, "teachers in the memory bank"),
    "host_ns": (positive, 17.0, "nanoseconds per logit on a core, for both losses of a candidate"),
    "cores": (count, 16, "cores per machine"),
}


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-50", help="network")
    add_numbers(parser, NUMBERS)
    return parser.parse_args(argv)


def search_steps(network, target_rate, search_step=0.2):
    """(estimate, bound) of the number of steps of a search.

    The estimate is the median of five searches that remove slices in random order. The bound is the
    number of all slices.
    """
    rule = FilterRule(network.gate_sizes)
    budget = Budget(lambda filters: network.cost(filters)[0], network.cost()[0], target_rate)
    steps = slice_steps(rule.sizes, [gate.uses for gate in network.gates], search_step)
    counts = []
    for seed in range(5):
        rng, rates, taken = np.random.default_rng(seed), [1.0] * len(steps), 0
        while not budget.met(rule.kept(rates)):
            gate = rng.choice([i for i, rate in enumerate(rates) if rate > 0])
            rates, taken = fine_search(budget, rule, rates, gate, steps[gate]), taken + 1
        counts.append(taken)
    # - 1e-9: in floating point 1 / 0.2 may be above 5.
    return statistics.median(counts), int(np.ceil(1 / steps - 1e-9).sum())


def values(network):
    """Activations per view: (outputs of all parts but the last; outputs of all convolutions, all
    ReLUs and the pool of the stem).
    """
    parts = sum(part.out_size**2 * part.out_gate.size for part in network.parts[:-1])
    size_of = lambda bn: bn.size**2 * bn.shape("gamma")[3]
    # The last batch norm of a block has its ReLU after the addition, which `parts` counts.
    inner = [bn for bn in network.batch_norms if not bn.path.endswith(("bn2", "bn3"))]
    return parts, sum(map(size_of, network.batch_norms)) + sum(map(size_of, inner)) + parts


def stages(a, steps, candidates):
    """dict stage -> (forward passes, decoded images). A forward and a backward pass count as three
    forward passes.
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
    """Text of a number of bytes, with a unit."""
    unit, name = next(
        (u for u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= u[0]),
        (1, "B"),
    )
    return f"{number / unit:,.1f} {name}"


def print_table(title, columns, rows, words=in_bytes):
    """Prints a table. rows: dict name -> list of numbers; words: number -> text."""
    print_heading(title, ["what"], columns)
    for name, numbers in rows.items():
        print_row([name, *map(words, numbers)])


class Facts:
    """The numbers that the tables are computed from. a: parsed command line."""

    def __init__(self, a):
        network = build_network(a.arch, a.classes, 32 if a.arch in CIFAR else 224)
        self.flops, self.params = network.cost()
        self.gates, self.filters = len(network.gates), int(network.gate_sizes.sum())
        self.steps, self.bound = search_steps(network, a.search_target_rate)
        self.candidates = round(a.evaluated * self.gates)  # per step of the search
        self.trainable = self.params - network.moving_averages()
        self.parts, self.kept = values(network)  # activations per view, see `values`
        self.val = a.classes * a.val_per_class  # images of D_val
        self.pixels = 3 * network.input_size**2  # bytes of an image
        self.logits = 4 * a.classes  # bytes of the logits of an image


def print_work(a, facts):
    """Prints passes, hours and rates of decoding."""
    work = stages(a, facts.steps, facts.candidates)
    work = {name: numbers for name, numbers in work.items() if numbers[0]}
    millions = lambda number: f"{number / 1e6:,.2f}"
    print_table("Millions", ["forward passes", "decoded images"], work, millions)
    passes = {name: numbers[0] for name, numbers in work.items()}
    passes["all"] = sum(passes.values())
    for r in a.rate:
        hours = {name: [n / (3 * r * g) / 3600 for g in a.gpus] for name, n in passes.items()}
        print_table(f"Hours, r = {r:,.0f}", on_gpus(a), hours, "{:,.2f}".format)
    shares = {
        "baseline, one view: r": 1,
        "fine-tuning, two views: r / 2": 1 / 2,
        f"bank: 3 r / {a.num_teacher}": 3 / a.num_teacher,
        "evaluation: 3 r": 3,
    }
    rates = {name: [factor * r for r in a.rate] for name, factor in shares.items()}
    columns = [f"r = {r:,.0f}" for r in a.rate]
    print_table("Images/s to decode for each GPU", columns, rates, "{:,.0f}".format)


def on_gpus(a):
    """The headings of the columns of a table by number of GPUs."""
    return [f"G = {g}" for g in a.gpus]


def print_memory(a, facts):
    """Prints the memory of a GPU and of a host."""
    split = lambda total: [total / g / a.accum for g in a.gpus]
    weights = 4 * (facts.params + 2 * facts.trainable)
    memory = {
        "weights, momentum, gradients": [weights] * len(a.gpus),
        "two views, kept for the way back": split(8 * facts.kept * a.batch_size),
        "rows of the bank, one copy": split(facts.logits * a.num_teacher * a.batch_size),
        "search, shared by candidates": split(4 * facts.parts * a.search_batch_size),
    }
    title = f"Memory of a GPU, float32, {a.batch_size} images per step, --accum {a.accum}"
    print_table(title, on_gpus(a), memory)
    knowledge = facts.val * facts.logits
    together = max(1, min(2**30 // knowledge, facts.gates))  # candidates evaluated together
    memory = {
        "index of shards, labels: 28 per image": 28 * a.images,
        "order of an epoch: 44 per image": 44 * a.images,
        "D_val": facts.val * facts.pixels,
        "T": knowledge,
        "losses of a candidate": 24 * 2**20 * a.cores + 8 * facts.val,
        "logits of candidates": 3 * together * knowledge,
        "five batches of two views": 10 * a.batch_size * facts.pixels,
    }
    print_table("Memory of a host", ["bytes"], {name: [number] for name, number in memory.items()})


def print_disk(a, facts):
    """Prints the sizes of the files of a run."""
    rows = a.images * a.num_teacher  # of the bank
    index = 4 if a.classes <= 2**16 else 6  # bytes of a logit and its class
    disk = {"encoded images": a.images * a.kib * 1024, "bank, all logits": rows * 2 * a.classes}
    disk |= {f"bank, --bank_top {m}": rows * (index * m + 2) for m in a.bank_top}
    disk |= {
        "parameter file": 4 * facts.params,
        "checkpoint of a training": 4 * (facts.params + facts.trainable),
        "search_state.npz": facts.val * facts.logits + facts.steps * 4 * facts.filters,
    }
    print_table("Disk", ["bytes"], {name: [number] for name, number in disk.items()})


def print_traffic(a, facts):
    """Prints the traffic of GPUs and storage, and the seconds per candidate."""
    traffic = {"a training step: all-reduce": [2 * (g - 1) / g * 4 * facts.params for g in a.gpus]}
    rows = {"a candidate": facts.val, "the bank": a.images * a.num_teacher, "an evaluation": a.test}
    traffic |= {
        f"{name}: rows gathered": [(g - 1) / g * n * facts.logits for g in a.gpus]
        for name, n in rows.items()
    }
    print_table("Traffic of a GPU", on_gpus(a), traffic)
    for r in a.rate:
        read = {
            "encoded images": [r / 2 * g * a.kib * 1024 for g in a.gpus],
            "dense bank": [r / 2 * g * 2 * a.classes * a.num_teacher for g in a.gpus],
        }
        print_table(f"Bytes/s from storage in fine-tuning, r = {r:,.0f}", on_gpus(a), read)
        on_host = facts.val * a.classes * a.host_ns / 1e9 / a.cores
        seconds = {
            "on the GPUs": [facts.val / (3 * r * g) for g in a.gpus],
            "on the host, its losses": [on_host] * len(a.gpus),
        }
        print_table(f"Seconds per candidate, r = {r:,.0f}", on_gpus(a), seconds, "{:,.2f}".format)


def report(a):
    """Prints the tables."""
    import_tensorflow()
    facts = Facts(a)
    print(
        f"{a.arch}, {a.classes:,} classes: {facts.flops:,} FLOPs, {facts.params:,} parameters,"
        f" {facts.gates} gates, {facts.filters:,} filters"
    )
    print(
        f"search to {a.search_target_rate:.0%}: about {facts.steps} steps, at most {facts.bound};"
        f" about {facts.candidates} candidates per step"
    )
    print_work(a, facts)
    print_memory(a, facts)
    print_disk(a, facts)
    print_traffic(a, facts)


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
