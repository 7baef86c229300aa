"""Speed of a dense and a pruned network with channels filled up to multiples, in Markdown.

    python bench/channels.py --trained_param FILE --pruned_param ../test/slimmed_param.pkl

Kernels process channels in blocks, but a pruned network has gates of 1, 7 or 13 filters. They can
be filled up with filters of zeros (nets.gates), which does not change results.
distribution.runtime.MULTIPLES has the multiples in use, chosen from these tables. Images are
random. A training step is that of fine-tuning, with two views and the bank. All rows take turns,
call by call, so that other load on the machine affects all alike; numbers are medians.
"""

import dataclasses
import sys

import numpy as np
from harness import OF_PRECISION, add_choices, add_numbers, machine, print_heading, print_row, say
from random_training import RATES, random_batch, random_step

from cli.flags import PRECISIONS
from cli.parser import Parser, count, positive
from cli.program import run_program
from distribution.startup import import_tensorflow
from engine.latency import medians_ms, predicting
from engine.options import DeviceOptions
from nets import build_network
from nets.catalogue import BUILDERS
from nets.parameters import check_saved_for, read_parameters

NUMBERS = {  # flags: type, default, help
    "size": (count, 32, "height and width in pixels"),
    "multiples": (count, [4, 8, 16, 32], "channels to fill up to"),
    "batch_size": (count, 128, "images per training step"),
    "val_batch_size": (count, 256, "images per call in inference"),
    "seconds": (positive, 3.0, "timed seconds per row"),
}


def training(network, runtime, batch):
    """A function that makes one step of fine-tuning, on two views of `batch` images."""
    step, data = random_step(network, runtime, views=2), random_batch(batch, views=2)
    rates = RATES | {"learning_rate": np.float32(1e-4)}  # small: the weights stay trained ones
    return lambda: float(step(data, **rates)[0]["loss"])


def table(args, networks, runtime):
    """Prints one row for the dense network, and one per multiple for the pruned network."""
    rows = {"dense": (networks[0], 1), "pruned": (networks[1], 1)}
    rows |= {f"pruned, multiples of {n}": (networks[1], n) for n in args.multiples}
    cells = {name: [] for name in rows}
    for what, make, batch in (
        ("two-view training", training, args.batch_size),
        ("inference", predicting, args.val_batch_size),
        ("inference", predicting, 1),
    ):
        say(f"{runtime.precision}: {what}, batch {batch}, {len(rows)} rows in turn")
        calls = [
            make(network, dataclasses.replace(runtime, multiple=n), batch)
            for network, n in rows.values()
        ]
        times = medians_ms(calls, args.seconds)
        for row, ms in zip(cells.values(), times):
            row += [f"{1e3 * batch / ms:.0f}", f"{times[0] / ms:.2f}"]
    measured = [
        f"training at {args.batch_size}",
        f"inference at {args.val_batch_size}",
        "inference at 1",
    ]
    columns = [column for what in measured for column in (f"{what}, images/s", "of dense")]
    print_heading(
        f"{runtime.precision}, XLA {'on' if runtime.compile else 'off'}", ["network"], columns
    )
    for name, row in cells.items():
        print_row([name, *row])


def report(args):
    """Prints the tables."""
    files = []
    for path in (args.trained_param, args.pruned_param):
        arrays, meta = read_parameters(path)
        check_saved_for(path, meta, "arch", args.arch)
        files.append(arrays)
    import_tensorflow()
    from distribution.machines import Alone
    from distribution.runtime import make_runtime

    networks = [build_network(args.arch, 10, args.size, arrays) for arrays in files]
    runtime, _ = make_runtime(DeviceOptions(None, None, args.compile, 1, "float32", False), Alone())
    kept = networks[1].cost()[0] / networks[0].cost()[0]
    widths = sorted({gate.size for gate in networks[1].gates})
    print(
        f"{args.arch}, pruned to {kept:.1%} of the FLOPs, widths {', '.join(map(str, widths))};"
        f" {machine()}",
        flush=True,
    )
    for precision in args.precision:
        table(args, networks, dataclasses.replace(runtime, precision=precision))


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    add_numbers(parser, NUMBERS)
    parser.add_argument(
        "--trained_param", metavar="FILE", required=True, help="parameter file of the dense network"
    )
    parser.add_argument(
        "--pruned_param", metavar="FILE", required=True, help="parameter file of the pruned network"
    )
    add_choices(parser, "precision", PRECISIONS, ["float32", "bfloat16"], OF_PRECISION)
    parser.add_argument("--compile", action="store_true", help="use XLA")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_program(lambda: report(parse())))
