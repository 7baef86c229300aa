"""Latency and throughput of a dense network and of pruned ones, next to their FLOPs, in Markdown.

    python bench/pruned.py
    python bench/pruned.py --pruned_param ../test/trained_param.pkl --compile off \
        --precision float32 --layers

Inference on random images, batch norm with moving averages. In addition to the files of
--pruned_param it times networks pruned by arithmetic: every gate keeps the same share of its
filters, exactly or rounded to a multiple of 8, 16 or 32, which may suit kernels better. Networks
take turns, call by call, so that other load on the machine affects all alike; numbers are medians.
The second table separates convolutions from the rest of a network. The third one (--layers) has
every shape of convolution.
"""

import collections
import dataclasses
import itertools
import math
import sys

from convolution_chains import chained, convolutions, gflops
from harness import OF_PRECISION, add_choices, add_numbers, machine, print_heading, print_row, say

from cli.flags import PRECISIONS
from cli.parser import Parser, count, positive, share
from cli.program import run_program
from distribution.startup import import_tensorflow
from ekg.filter_rule import filters_kept
from engine.latency import LEAST_CALLS, medians_ms, predicting
from engine.options import DeviceOptions
from nets import build_network
from nets.catalogue import BUILDERS
from nets.parameters import check_saved_for, read_parameters

BISECTIONS = 30  # halvings of the share of filters: much finer than one filter of any gate
NUMBERS = {  # flags: type, default, help
    "classes": (count, 10, "number of classes"),
    "size": (count, 32, "height and width in pixels"),
    "target_rate": (share, 0.45, "share of the FLOPs that remains in the other networks"),
    "batch_sizes": (count, [1, 32, 256], "images per call"),
    "seconds": (positive, 1.5, f"timed seconds per cell, at least {LEAST_CALLS} calls"),
}


# ----------------------------------------------------------------------------------------- networks


def widest(filters_of, flops_of, target):
    """filters_of(share), [G], for the largest share in 0 to 1 with at most `target` MACs.

    None if even share 0 has more.
    """
    if flops_of(filters_of(0.0)) > target:
        return None
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if flops_of(filters_of(middle)) <= target else (low, middle)
    return filters_of(low)


def rounded(sizes, kept, multiple):
    """list [G]: the share `kept` of each gate's filters, rounded to the nearest multiple; at least
    `multiple`, and never more filters than the gate has.
    """
    nearest = lambda size: math.floor(size * kept / multiple + 0.5) * multiple
    return [max(multiple, min(nearest(size), size // multiple * multiple)) for size in sizes]


def choices(sizes, target_rate):
    """dict name -> function from a share of filters kept to the number of filters per gate [G]."""
    made = {f"uniform {target_rate:g}": lambda kept: filters_kept(sizes, [kept] * len(sizes))}
    for multiple in (8, 16, 32):
        if min(sizes) >= multiple:
            made[f"multiples of {multiple}"] = lambda kept, multiple=multiple: rounded(
                sizes, kept, multiple
            )
    return made


def extracted(dense, filters):
    """The network that remains of `dense` when gate i keeps its first filters[i] filters.

    Which filters it keeps does not affect the speed.
    """
    from ekg.extraction import extract
    from ekg.importance import first_filters

    arrays = extract(dense, first_filters(dense.gate_sizes, filters))
    return build_network(
        dense.arch, dense.classes, dense.input_size, arrays, origin="the extraction"
    )


def make_networks(args, files):
    """dict name of row -> network, the dense one first. files: dict path -> arrays."""
    build = lambda path: build_network(
        args.arch, args.classes, args.size, files.get(path), origin=path
    )
    dense = build(args.trained_param)
    networks = {"dense": dense} | {path: build(path) for path in args.pruned_param}
    flops_of = lambda filters: dense.cost(filters)[0]
    for name, filters_of in choices(
        [int(size) for size in dense.gate_sizes], args.target_rate
    ).items():
        filters = widest(filters_of, flops_of, args.target_rate * flops_of(None))
        if filters is None:
            say(f"{name}: skipped, it cannot reach --target_rate {args.target_rate:g}")
        else:
            networks[name] = extracted(dense, filters)
    return networks


# ------------------------------------------------------------------------------------------- tables


def speed_table(args, networks, runtime):
    """Prints milliseconds per call, images per second and speed-up over the dense network, for
    every batch size.
    """
    combination = f"{runtime.precision}, XLA {'on' if runtime.compile else 'off'}"
    costs = [network.cost() for network in networks.values()]
    rows = [
        [name, *(f"{mine / whole:.1%}" for mine, whole in zip(cost, costs[0]))]
        for name, cost in zip(networks, costs)
    ]
    for batch in args.batch_sizes:
        say(f"{combination}, batch {batch}: {len(networks)} networks in turn")
        calls = [predicting(network, runtime, batch) for network in networks.values()]
        times = medians_ms(calls, args.seconds)
        for row, ms in zip(rows, times):
            row += [f"{ms:.2f}", f"{1e3 * batch / ms:.0f}", f"{times[0] / ms:.2f}"]
    columns = [
        f"{name}, batch {batch}"
        for batch in args.batch_sizes
        for name in ("ms", "images/s", "speed-up")
    ]
    print_heading(f"Inference in {combination}", ["network"], ["FLOPs", "params", *columns])
    for row in rows:
        print_row(row)


def why_table(args, networks, runtime):
    """Prints the milliseconds of convolutions and of the rest.

    "ideal" is the time of the dense convolutions times the ratio of MACs.
    """
    batch = max(args.batch_sizes)
    say(f"convolutions and the rest, batch {batch}: {len(networks)} networks in turn")
    convs = [convolutions(network) for network in networks.values()]
    whole = lambda network: predicting(network, runtime, batch)
    pairs = [
        (whole(network), chained(own, batch)) for network, own in zip(networks.values(), convs)
    ]
    times = medians_ms([call for pair in pairs for call in pair], args.seconds)
    wholes, alone = times[::2], times[1::2]
    headings = [
        "whole network",
        "convolutions",
        "rest",
        "convolutions' MACs",
        "convolutions, ideal",
        "convolutions, GFLOP/s",
    ]
    print_heading(
        f"Where the time goes, ms; float32, XLA off, batch {batch}", ["network"], headings
    )
    dense_macs = sum(conv.macs for conv in convs[0])
    for name, own, whole, ms in zip(networks, convs, wholes, alone):
        rate = sum(conv.macs for conv in own) / dense_macs
        numbers = [f"{value:.2f}" for value in (whole, ms, whole - ms)]
        print_row(
            [
                name,
                *numbers,
                f"{rate:.1%}",
                f"{alone[0] * rate:.2f}",
                f"{gflops(own, batch, ms):.0f}",
            ]
        )


def layers_table(args, networks):
    """Prints the milliseconds of every distinct convolution of the dense and the first pruned
    network.

    Each is timed in its own call. With small batches the fixed cost of a call matters: some tenths
    of a millisecond.
    """
    batch = max(args.batch_sizes)
    rows = [
        (name, conv, uses)
        for name, network in itertools.islice(networks.items(), 2)
        for conv, uses in collections.Counter(convolutions(network)).items()
    ]
    say(f"{len(rows)} shapes of convolutions in turn, batch {batch}")
    times = medians_ms([chained([conv], batch) for _, conv, _ in rows], args.seconds)
    names = ["network", "kernel"]
    headings = ["in", "out", "output size", "stride", "layers", "ms", "GFLOP/s"]
    print_heading(f"Convolutions by shape; float32, XLA off, batch {batch}", names, headings)
    for (name, conv, uses), ms in zip(rows, times):
        kernel = f"{conv.kernel[0]}x{conv.kernel[1]}{' depthwise' * conv.depthwise}"
        numbers = [conv.reads[1], conv.writes[1], conv.out_size, conv.strides, uses]
        print_row(
            [name, kernel, *map(str, numbers), f"{ms:.2f}", f"{gflops([conv], batch, ms):.0f}"]
        )


def gpu_name():
    """Text with the names of the GPUs in use, "" on CPUs."""
    import tensorflow as tf

    return "".join(
        f"{tf.config.experimental.get_device_details(gpu).get('device_name', 'a GPU')}; "
        for gpu in tf.config.get_visible_devices("GPU")
    )


def report(args):
    """Prints the tables."""
    files = {}
    for path in filter(None, [args.trained_param, *args.pruned_param]):
        files[path], meta = read_parameters(path)
        check_saved_for(path, meta, "arch", args.arch)
    import_tensorflow()
    from distribution.machines import Alone
    from distribution.runtime import make_runtime

    # The first GPU if there is one, else the CPU.
    runtime, _ = make_runtime(DeviceOptions(None, None, False, 1, "float32", False), Alone())
    networks = make_networks(args, files)
    print(f"{args.arch}, {args.size}x{args.size}; {gpu_name()}{machine()}", flush=True)
    for precision, compile in itertools.product(args.precision, args.compile):
        speed_table(
            args,
            networks,
            dataclasses.replace(runtime, precision=precision, compile=compile == "on"),
        )
    why_table(args, networks, runtime)
    if args.layers:
        layers_table(args, networks)


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    add_numbers(parser, NUMBERS)
    parser.add_argument(
        "--trained_param",
        metavar="FILE",
        help="parameter file of the dense network (default: random values)",
    )
    parser.add_argument(
        "--pruned_param",
        metavar="FILE",
        nargs="+",
        default=[],
        help="parameter files of pruned networks",
    )
    add_choices(parser, "precision", PRECISIONS, ["float32", "bfloat16"], OF_PRECISION)
    add_choices(parser, "compile", ["off", "on"], ["off", "on"], "XLA")
    parser.add_argument(
        "--layers", action="store_true", help="also time every shape of convolution"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
