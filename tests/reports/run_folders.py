"""Run folders made by hand, with small networks and numbers that are easy to find on a page."""

import json
import os

import numpy as np

import train_cifar
from engine.configuration import described
from engine.run_files import STAGES, UNFINISHED
from nets.parameters import write_parameters

GATES = ("BasicBlock0.0/conv1", "BasicBlock1.0/conv1")
VERSIONS = {"ekg": "0.1.0", "tensorflow": "2.21.0", "hardware": "2 cores of a Test CPU"}
BASELINE = {"top1": 0.9803, "top5": 0.999, "loss": 0.06, "params": 2000, "flops": 1000000}
PRUNED = {"top1": 0.9775, "top5": 0.998, "loss": 0.07, "params": 1000, "flops": 450000}


def arrays(widths, seed=0):
    """A network of two convolutions and a depthwise one, so wide."""
    random = np.random.default_rng(seed)
    shapes = {
        "first/kernel:0": (3, 3, 3, widths[0]),
        "depthwise/kernel:0": (3, 3, widths[0], 1),
        "second/kernel:0": (1, 1, widths[0], widths[1]),
        "fc/kernel:0": (widths[1], 10),
    }
    return {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}


NETWORKS = {
    "baseline": arrays((8, 16)),
    "warm_up": arrays((8, 16), seed=1),
    "extraction": arrays((3, 16), seed=2),
    "fine_tuning": arrays((3, 16), seed=3),
}


def search_records(count=5, **more):
    """From all FLOPs down to 45 %."""
    rates = np.linspace(1, 0.45, count).tolist()
    return [
        {
            "step": i,
            "gate": GATES[i % 2] if i else None,
            "filters": [10 - (i + 1) // 2, 10 - i // 2],
            "flops": round(1000000 * rate),
            "params": 2000 - 250 * i,
            "flops_rate": rate,
            "loss": 0.05 + 0.01 * i,
            "accuracy": 0.99 - 0.01 * i,
            "score": 0.1 + 0.01 * i if i else None,
            "candidates": list(GATES) if i else [],
            "seconds": 1.5,
        }
        | more
        for i, rate in enumerate(rates)
    ]


def training_records(stage, epochs, tested=True):
    test = lambda epoch: {
        "test_top1": 0.9 + 0.01 * epoch,
        "test_top5": 0.99,
        "test_loss": 0.3 - 0.01 * epoch,
    }
    return [
        {
            "stage": stage,
            "epoch": epoch,
            "learning_rate": 0.01,
            "loss": 1 / epoch,
            "accuracy": 0.8 + 0.01 * epoch,
            "seconds": 2.0,
        }
        | (test(epoch) if tested else {})
        for epoch in range(1, epochs + 1)
    ]


def make_run(path, *flags, until=None, tuned=None):
    """Makes the folder of a run started with `flags`, and returns its path as text.

    until: the last stage that is done, None for a finished run; tuned: epochs of fine-tuning that
    are done although its stage is not.
    """
    folder = os.fspath(path)
    os.makedirs(os.path.join(folder, "checkpoints"))
    usual = ("--arch", "ResNet-20", "--dataset", "DIGITS", "--train_path", folder)
    options = train_cifar.parse([*usual, "--baseline_epoch", "3", "--train_epoch", "4", *flags])
    config = {"options": described(options, "a baseline trained here", 1)}
    write(folder, "config.json", config | {"versions": VERSIONS, "begun": 1700000000.5})
    names = [*STAGES]
    if not options.fine_tuning.epochs:
        names = names[: names.index("extraction") + 1]
    done = names if until is None else names[: names.index(until) + 1]
    for stage in done:
        file = os.path.join(folder, STAGES[stage])
        if stage in NETWORKS:
            write_parameters(file, NETWORKS[stage], {})
        else:
            open(file, "wb").close()
    result = {
        "seconds": {stage: 60.0 * (i + 1) for i, stage in enumerate(done)},
        "peak_rss_mib": {stage: 1000.0 + i for i, stage in enumerate(done)},
    }
    if until is None:
        result["baseline"] = BASELINE | {"latency_ms": 3.0}
        result["pruned"] = PRUNED | {"latency_ms": 2.0}
    write(folder, "result.json", result)
    epochs = {"baseline": 3, "warm_up": 1, "fine_tuning": options.fine_tuning.epochs}
    trained = {stage: count for stage, count in epochs.items() if stage in done}
    if tuned:
        trained["fine_tuning"] = tuned
        open(os.path.join(folder, UNFINISHED["fine_tuning"]), "wb").close()
    records = [
        r for stage, n in trained.items() for r in training_records(stage, n, stage != "warm_up")
    ]
    write_lines(folder, "training.jsonl", records)
    write_lines(folder, "search.jsonl", search_records() if "search" in done else [])
    return folder


def write(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file)


def write_lines(folder, name, records):
    with open(os.path.join(folder, name), "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def make_analysis(path, networks, density=True):
    """Makes the folder of an analysis of `networks`, dict name -> digest; returns its path."""
    folder = os.fspath(path)
    for name in ("hessian", "landscape"):
        os.makedirs(os.path.join(folder, name))
    for i, (name, digest) in enumerate(networks.items()):
        grid = np.linspace(-1, 50, 40)
        entry = {
            "name": name,
            "file": f"{name}.pkl",
            "digest": digest,
            "arrays": "kernels",
            "images": 320,
            "split": "val",
            "loss": 0.05,
            "lambda_max": 123.5 + i,
            "residual_max": 0.0012,
            "lambda_min": -2.5,
            "residual_min": 0.045 * (1 + i),
            "condition_number": 49.4,
            "iterations": 80,
            "converged": not i,
            "eigenvalues": [123.5 + i, 60.0],
            "density": {"grid": grid.tolist(), "density": np.exp(-grid).tolist()}
            if density
            else None,
        }
        write(os.path.join(folder, "hessian"), f"{name}.json", entry)
    write(os.path.join(folder, "hessian"), "config.json", {"options": {}})
    alpha, beta = np.linspace(-1, 1, 5), np.linspace(-1, 1, 7)
    bowl = 0.1 + alpha[:, None] ** 2 + 2 * beta**2
    loss = np.stack([(i + 1) * bowl for i in range(len(networks))])
    file = os.path.join(folder, "landscape", "grid.npz")
    np.savez(file, alpha=alpha, beta=beta, loss=loss, complete=np.array(True))
    found = [{"name": name, "digest": digest, "loss": 0.1} for name, digest in networks.items()]
    write(os.path.join(folder, "landscape"), "result.json", {"networks": found, "seed": 0})
    return folder


def make_potential(path, start="a baseline trained here", count=5):
    """Writes a study of `count` sub-networks into the folder of a run; returns its path."""
    folder = os.path.join(path, "potential")
    os.makedirs(folder)
    write(folder, "config.json", {"options": {"run": {"start": start}}})
    for i in range(count):
        entry = {"digest": str(i), "val_loss": 0.5 + 0.1 * i, "condition_number": 0.3 - 0.02 * i}
        write(folder, f"sub-network-{i:03d}.json", entry | {"test_loss": 0.2 + 0.01 * i})
    interval = lambda value: {"value": value, "low": value - 0.25, "high": value + 0.05, "n": count}
    correlations = {
        "n": count,
        "val_loss": {"pearson": interval(0.81), "spearman": interval(0.92)},
        "condition_number": {"pearson": interval(-0.33), "spearman": None},
    }
    write(folder, "correlations.json", correlations)
    return os.fspath(path)
