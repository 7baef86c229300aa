"""Evaluates a parameter file, dense or pruned: top-1, top-5, loss, parameters, FLOPs; or times it.
Evaluates files of export.py as well.

    python test.py --gpu_id 0 --arch ResNet-56 --dataset CIFAR10 \
        --trained_param ../test/trained_param.pkl
    python test.py --latency --trained_param ../test/trained_param.pkl \
        --against ../test/baseline_param.pkl --batch_sizes 1 32
    python test.py --dataset CIFAR10 --trained_param ../test/trained_param.int8.tflite

The shapes come from the file. Batch norm uses moving averages, as in deployment; see --batch_stats.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import contextlib
import json
import sys

from cli.exported_file import evaluate_exported, print_quality
from cli.flags import add_any_data_flags, add_device_flags, add_key_flag, add_width_flag
from cli.latency import add_latency_flags, check_latency_flags, report_latency
from cli.network_file import read_network_file
from cli.options import device_options
from cli.parser import Parser
from cli.program import run_program
from dataloader.arrays import SCALINGS
from exports.formats import exported_format
from nets.catalogue import BUILDERS
from utils import UserError


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    group = parser.add_argument_group("network")
    group.add_argument(
        "--trained_param",
        metavar="FILE",
        required=True,
        help="parameter file, dense or pruned; or a file of export.py",
    )
    group.add_argument(
        "--arch",
        choices=list(BUILDERS),
        help="network (default: that of the file, else ResNet-56)",
    )
    add_key_flag(group)
    add_width_flag(group)
    group.add_argument(
        "--pixels",
        choices=SCALINGS,
        help="what a Keras file expects pixels 0..255 to be made into (default: 0..255)",
    )
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--batch_stats",
        action="store_true",
        help="batch norm uses the statistics of each batch, as in the published code",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_any_data_flags(parser)
    add_latency_flags(parser)
    add_device_flags(parser)
    return parser.parse_args(argv)


def main():
    args = parse()
    check_latency_flags(args)
    exported = exported_format(args.trained_param)
    if exported:
        evaluate_exported(args, exported)
        return
    if args.pixels:
        raise UserError("--pixels is for Keras files; leave it out")
    if args.latency:
        report_latency(args)
        return
    from distribution.machines import meet

    with contextlib.closing(meet(say=lambda line: print(line, file=sys.stderr))) as machines:
        evaluate(args, machines)
        machines.exchange(None)  # wait: no machine may leave while others still need it


def evaluate(args, machines):
    """Evaluates on all machines; the chief prints the result."""
    # After parsing, so that --help and a wrong flag are answered at once.
    from distribution.startup import import_tensorflow
    from utils import digest

    with machines.together():
        if args.sync_bn and not args.batch_stats:
            raise UserError(
                "--sync_bn goes with --batch_stats: moving averages are the same on all replicas"
            )
        file = read_network_file(args.trained_param, args, args.trained_key)
    import_tensorflow()
    from dataloader import load_test_set
    from engine.configuration import check_agreement

    with machines.together():
        share = machines.index, len(machines.addresses)
        data = load_test_set(file.dataset, args.data_path, file.files, share, file.classes)
    facts = {**vars(args), "parameters": digest(file.parameters), "variant": file.variant}
    check_agreement(machines, facts, data)
    network, metrics = measure(args, machines, data, file)
    if machines.chief:
        report(args, network, f"{file.arch} on {file.dataset}", metrics)


def measure(args, machines, data, file):
    """(Network, dict of metrics). file: NetworkFile."""
    from distribution.runtime import make_runtime
    from engine.console import Console
    from engine.evaluation import Evaluator

    runtime, lines = make_runtime(device_options(args), machines)
    batch_size = min(args.val_batch_size, len(data.y_test))
    runtime.check_batch("--val_batch_size", batch_size)
    with runtime.strategy.scope():
        network = file.build(data)
    statistics = "batch" if args.batch_stats else "moving"
    evaluator = Evaluator(
        network, runtime, data.augmentation, data.x_test, data.y_test, batch_size, statistics
    )
    if machines.chief:
        notes = (file.note,) if file.note else ()
        notes += *data.notes, *lines
        print("".join(f"{line}\n" for line in notes), end="", file=sys.stderr)
    if args.json:
        return network, evaluator()
    console = Console(prints=machines.chief)
    return network, evaluator(lambda batches: console.bar(batches, "evaluation"))


def report(args, network, what, metrics):
    """Prints the metrics of an evaluation (engine.evaluation.Evaluator) and the network's costs."""
    from nets import unpruned_cost

    flops, params = network.cost()
    shape = network.classes, network.input_size, network.width_multiplier
    whole_flops, whole_params = unpruned_cost(network.arch, *shape)
    averages = network.moving_averages()
    metrics |= {
        "params": params,
        "flops": flops,
        "flops_rate": flops / whole_flops,
        "moving_averages": averages,
    }
    if args.json:
        print(json.dumps(metrics))
        return
    images = metrics["images"]
    print(
        f"{what}, {images:,} test images,"
        f" {'batch statistics' if args.batch_stats else 'moving averages'}"
    )
    print_quality(metrics)
    share = f"{params / whole_params:.1%} of the unpruned {network.arch}"
    print(f"  {'parameters':10}  {params:,}  ({share}; {averages:,} are moving averages)")
    print(f"  {'FLOPs':10}  {flops:,}  ({flops / whole_flops:.1%})")


if __name__ == "__main__":
    sys.exit(run_program(main))
