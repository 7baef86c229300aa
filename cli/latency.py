"""test.py --latency: how long networks in parameter files take for a batch, side by side."""

import json
import os

import numpy as np

from cli.network_file import read_network_file
from cli.options import device_options
from cli.parser import count, positive
from utils import UserError

# Flags of the latency alone, and what they are without being given.
DEFAULTS = {
    "against": [],
    "batch_sizes": [1, 32],
    "threads": None,
    "seconds": 2.0,
    "layer_times": None,
}
LEAST_CALLS = 20  # timed calls per network and batch size: a p95 needs some


def add_latency_flags(parser):
    """Adds the argument group of --latency."""
    add = parser.add_argument_group(
        "latency", "Times instead of the evaluation, on random images. Networks take turns."
    ).add_argument
    add("--latency", action="store_true", help="time the network")
    add(
        "--against",
        metavar="FILE",
        nargs="+",
        help="parameter files to time beside it, the dense network first",
    )
    sizes = " ".join(map(str, DEFAULTS["batch_sizes"]))
    add("--batch_sizes", type=count, nargs="+", help=f"images per call (default: {sizes})")
    add("--threads", type=count, help="CPU threads (default: as many as there are cores)")
    add(
        "--layer_times",
        metavar="FILE",
        help="also time every kind of layer of the network at several widths up to its own, for the"
        " first of --batch_sizes, and write these times as JSON",
    )
    add(
        "--seconds",
        type=positive,
        help=f"timed seconds per network and batch size, at least {LEAST_CALLS} calls (default:"
        f" {DEFAULTS['seconds']:g})",
    )


def check_latency_flags(args):
    """Raises UserError for flags that contradict each other; fills in the defaults."""
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not args.latency:
            raise UserError(f"--{name} goes with --latency")
    if not args.latency:
        return
    for flag in ("batch_stats", "sync_bn", "cpu_replicas", "data_path"):
        if getattr(args, flag):
            raise UserError(f"--latency times one device, without images; leave out --{flag}")
    if args.gpu_id and len(args.gpu_id) > 1:
        raise UserError("--latency times one device; give one --gpu_id")
    folder = os.path.dirname(args.layer_times or "") or "."
    if not os.path.isdir(folder):
        raise UserError(f"--layer_times {args.layer_times}: there is no folder {folder}")
    if os.environ.get("TF_CONFIG"):
        raise UserError("--latency times one device; unset TF_CONFIG")


def report_latency(args):
    """Times the networks of a parsed command line and prints a table, or with --json one object."""
    files = [read_network_file(path, args) for path in args.against]
    files.append(read_network_file(args.trained_param, args, args.trained_key))
    from distribution.startup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from distribution.machines import Alone
    from distribution.runtime import cores, hardware, make_runtime

    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    runtime, _ = make_runtime(device_options(args), Alone())
    networks = [file.build_alone() for file in files]
    described = {
        "hardware": hardware(),
        "precision": runtime.precision,
        "compile": runtime.compile,
        "threads": args.threads or cores(),
        "networks": measured(args, files, networks, runtime),
    }
    if args.layer_times:
        described["layers"] = measure_layers(args, networks[-1], runtime)
    print(json.dumps(described) if args.json else table(described))


def measured(args, files, networks, runtime):
    """One dict per network: its file, costs and times."""
    from engine.latency import predicting, times_ms

    rows = []
    for file, network in zip(files, networks):
        flops, params = network.cost()
        row = {"file": file.path, "arch": file.arch, "flops": flops, "params": params}
        rows.append(row | {"times": []})
    for batch in args.batch_sizes:
        calls = [predicting(network, runtime, batch) for network in networks]
        for row, times in zip(rows, times_ms(calls, args.seconds, LEAST_CALLS)):
            median, p95 = np.percentile(times, [50, 95])
            entry = {"batch_size": batch, "median_ms": median, "p95_ms": p95, "calls": len(times)}
            row["times"].append(entry | {"images_per_second": 1e3 * batch / median})
    return rows


def measure_layers(args, network, runtime):
    """Writes --layer_times; returns a dict (JSON) with the check of the sum of all layers."""
    from ekg.predicted_time import measured
    from engine.console import Console
    from engine.layer_times import check_line

    console = Console(prints=not args.json)
    track = lambda kinds: console.bar(kinds, "times of layers")
    times = measured(network, runtime, args.batch_sizes[0], track)
    times.save(args.layer_times)
    described = {"file": args.layer_times, "batch_size": args.batch_sizes[0]} | times.check
    return described | {"deviation": times.deviation, "check": check_line(times)}


def table(described):
    """Text: a line of costs per network, then a block of times per batch size."""
    rows = described["networks"]
    width = max(len(row["file"]) for row in rows)
    xla = "on" if described["compile"] else "off"
    lines = [
        f"{described['hardware']}; {described['precision']}, XLA {xla}, threads:"
        f" {described['threads']}"
    ]
    for row in rows:
        share = row["flops"] / rows[0]["flops"]
        lines.append(
            f"  {row['file']:<{width}}  {row['arch']}, {row['flops']:,} FLOPs ({share:.1%}),"
            f" {row['params']:,} parameters"
        )
    for entries in zip(*(row["times"] for row in rows)):
        heading = f"batch {entries[0]['batch_size']}"
        lines += ["", f"{heading:<{width + 2}}  {'median':>11}  {'p95':>11}  {'images/s':>9}"]
        for row, own in zip(rows, entries):
            speed = f"  {entries[0]['median_ms'] / own['median_ms']:.2f}x as fast"
            lines.append(
                f"  {row['file']:<{width}}  {own['median_ms']:>8.2f} ms  {own['p95_ms']:>8.2f} ms"
                f"  {own['images_per_second']:>9.1f}{speed if row is not rows[0] else ''}"
            )
    if "layers" in described:
        layers = described["layers"]
        at = f"layers at batch {layers['batch_size']}"
        lines += ["", f"{at}: {layers['file']}; {layers['check']}"]
    return "\n".join(lines)
