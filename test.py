"""Evaluates a parameter file, dense or pruned: top-1, top-5, loss, parameters and FLOPs.

    python test.py --gpu_id 0 --arch ResNet-56 --dataset CIFAR10 --trained_param
    ../test/trained_param.pkl

The shapes come from the file. Answers are those of deployment, on moving averages; see
--batch_stats.
"""

import contextlib
import json
import sys

from cli.flags import (
    CIFAR_PATH,
    IMAGENET_PATH,
    Parser,
    add_data_flags,
    add_device_flags,
    add_file_flags,
    add_width_flag,
    device_options,
)
from cli.program import run_program
from dataloader import DATASETS, IN_FILES, FileOptions
from nets import variant_of
from nets.catalogue import BUILDERS, IMAGENET
from nets.parameters import check_saved_for
from utils import UserError


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    group = parser.add_argument_group("network")
    group.add_argument(
        "--trained_param", metavar="FILE", required=True, help="the parameter file, dense or pruned"
    )
    group.add_argument(
        "--arch",
        choices=list(BUILDERS),
        help="the network (default: the one the file names, else ResNet-56)",
    )
    add_width_flag(group)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--batch_stats",
        action="store_true",
        help="batch norm by the statistics of each batch, as published figures had it",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_file_flags(
        add_data_flags(parser, list(DATASETS), None, f"{CIFAR_PATH}; or {IMAGENET_PATH}"), None
    )
    add_device_flags(parser)
    return parser.parse_args(argv)


def settle(asked, meta, key, known, fallback, path):
    """The value of --arch or --dataset: the one asked for, which must not contradict the file, else
    the file's.
    """
    written = meta.get(key)
    if asked:
        check_saved_for(path, meta, key, asked)
    if not asked and written and written not in known:
        raise UserError(f"{path} was saved for {key} {written}, which this program does not know")
    return asked or written or fallback


def file_options(args, dataset, meta):
    """FileOptions where `dataset` is one of images in files, else None. Its size: the one asked
    for, the file's, 224.
    """
    if dataset not in IN_FILES:
        given = {"--input_size": args.input_size, "--val_labels": args.val_labels}
        wrong = next((flag for flag, value in given.items() if value is not None), None)
        if wrong:
            raise UserError(f"{wrong} is for images in files, {dataset} has none; leave it out")
        return None
    written = meta.get("input_size")
    written = written if type(written) is int and 32 <= written <= 2048 else FileOptions.input_size
    return FileOptions(args.input_size or written, args.val_labels)


def classes_of(parameters):
    """How many classes the network of these arrays knows, None if they do not say."""
    biases = parameters.get("fc/biases:0")
    return biases.shape[-1] if biases is not None and biases.ndim else None


def main():
    args = parse()
    from distribution.machines import meet

    with contextlib.closing(meet(say=lambda line: print(line, file=sys.stderr))) as machines:
        evaluate(args, machines)
        machines.exchange(None)  # none leaves while another still computes with it


def evaluate(args, machines):
    from distribution.startup import (
        import_tensorflow,
    )  # after the options, so that these are answered at once
    from nets.parameters import (
        read_parameters,
    )  # after the options, so that these are answered at once
    from utils import digest  # after the options, so that these are answered at once

    with machines.together():
        if args.sync_bn and not args.batch_stats:
            raise UserError(
                "--sync_bn goes with --batch_stats: moving averages are the same on all replicas"
            )
        parameters, meta = read_parameters(args.trained_param)
        arch = settle(args.arch, meta, "arch", BUILDERS, "ResNet-56", args.trained_param)
        fallback = "ImageNet" if arch in IMAGENET else "CIFAR10"
        dataset = settle(args.dataset, meta, "dataset", DATASETS, fallback, args.trained_param)
        files = file_options(args, dataset, meta)
        variant = variant_of(meta, args.trained_param, args.width_multiplier)
    import_tensorflow()
    from dataloader import load_test_set
    from distribution.runtime import make_runtime
    from engine.configuration import check_agreement
    from engine.console import Console
    from engine.evaluation import Evaluator
    from nets import build_network

    with machines.together():
        share = machines.index, len(machines.addresses)
        data = load_test_set(dataset, args.data_path, files, share, classes_of(parameters))
    check_agreement(
        machines, {**vars(args), "parameters": digest(parameters), "variant": variant}, data
    )
    runtime, lines = make_runtime(device_options(args), machines)
    batch_size = min(args.val_batch_size, len(data.y_test))
    runtime.check_batch("--val_batch_size", batch_size)
    with runtime.strategy.scope():
        built = dict(origin=args.trained_param, **variant)
        network = build_network(arch, data.classes, data.input_size, parameters, **built)
    statistics = "batch" if args.batch_stats else "moving"
    evaluator = Evaluator(
        network, runtime, data.augmentation, data.x_test, data.y_test, batch_size, statistics
    )
    if machines.chief:
        print("".join(f"{line}\n" for line in (*data.notes, *lines)), end="", file=sys.stderr)
    console = Console(speaks=machines.chief)
    figures = (
        evaluator() if args.json else evaluator(lambda batches: console.bar(batches, "evaluation"))
    )
    if machines.chief:
        report(args, network, f"{arch} on {dataset}", figures)


def report(args, network, what, figures):
    """Prints the metrics of an evaluation (engine.evaluation.Evaluator) and the network's costs."""
    from nets import unpruned_cost

    flops, params = network.cost()
    shape = network.classes, network.input_size, network.width_multiplier
    whole_flops, whole_params = unpruned_cost(network.arch, *shape)
    averages = network.moving_averages()
    figures |= {
        "params": params,
        "flops": flops,
        "flops_rate": flops / whole_flops,
        "moving_averages": averages,
    }
    if args.json:
        print(json.dumps(figures))
        return
    images = figures["images"]
    print(
        f"{what}, {images:,} test images,"
        f" {'batch statistics' if args.batch_stats else 'moving averages'}"
    )
    for label, key in (("top-1", "top1"), ("top-5", "top5")):
        print(f"  {label:10}  {figures[key]:.2%}  ({round(figures[key] * images):,})")
    print(f"  {'loss':10}  {figures['loss']:.4f}")
    share = f"{params / whole_params:.1%} of the unpruned {network.arch}"
    print(f"  {'parameters':10}  {params:,}  ({share}; {averages:,} are moving averages)")
    print(f"  {'FLOPs':10}  {flops:,}  ({flops / whole_flops:.1%})")


if __name__ == "__main__":
    sys.exit(run_program(main))
