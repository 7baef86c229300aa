"""Evaluates a parameter file, dense or pruned: top-1, top-5, loss, parameters and FLOPs.

    python test.py --gpu_id 0 --arch ResNet-56 --dataset CIFAR10 --trained_param ../test/trained_param.pkl

The shapes come from the file. Answers are those of deployment, on moving averages; see --batch_stats.
"""

import json
import sys

from dataloader import CLASSES
from ekg.cli import Parser, add_data_flags, add_device_flags, run_program
from nets import BUILDERS
from utils import UserError, check_saved_for


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    group = parser.add_argument_group("network")
    group.add_argument("--trained_param", metavar="FILE", required=True, help="the parameter file, dense or pruned")
    group.add_argument("--arch", choices=list(BUILDERS), help="the network (default: the one the file names, else ResNet-56)")
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--batch_stats",
        action="store_true",
        help="batch norm by the statistics of each batch, as published figures had it",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_data_flags(parser, list(CLASSES), None)
    add_device_flags(parser)
    return parser.parse_args(argv)


def settle(asked, meta, key, known, fallback, path):
    """The value of --arch or --dataset: the one asked for, which must not contradict the file, else the file's."""
    written = meta.get(key)
    if asked:
        check_saved_for(path, meta, key, asked)
    if not asked and written and written not in known:
        raise UserError(f"{path} was saved for {key} {written}, which this program does not know")
    return asked or written or fallback


def main():
    args = parse()
    from utils import import_tensorflow, read_parameters  # after the options, so that these are answered at once

    parameters, meta = read_parameters(args.trained_param)
    arch = settle(args.arch, meta, "arch", BUILDERS, "ResNet-56", args.trained_param)
    dataset = settle(args.dataset, meta, "dataset", CLASSES, "CIFAR10", args.trained_param)
    import_tensorflow()
    from dataloader import load_dataset
    from ekg.evaluation import Evaluator
    from ekg.progress import Console
    from nets import build_network, unpruned_cost
    from op_utils import make_runtime

    data = load_dataset(dataset, args.data_path)
    runtime, said = make_runtime(args.gpu_id, args.compile, accum=1)
    batch_size = min(args.val_batch_size, len(data.y_test))
    runtime.check_batch("--val_batch_size", batch_size)
    with runtime.strategy.scope():
        network = build_network(arch, data.classes, data.input_size, parameters, origin=args.trained_param)
    statistics = "batch" if args.batch_stats else "moving"
    evaluator = Evaluator(network, runtime, data.augmentation, data.x_test, data.y_test, batch_size, statistics)
    if said:
        print(said, file=sys.stderr)
    console = Console()
    figures = evaluator() if args.json else evaluator(lambda batches: console.bar(batches, "evaluation"))
    flops, params = network.cost()
    whole_flops, whole_params = unpruned_cost(arch, data.classes, data.input_size)
    figures |= {"params": params, "flops": flops, "flops_rate": flops / whole_flops}
    if args.json:
        print(json.dumps(figures))
        return
    images = figures["images"]
    print(f"{arch} on {dataset}, {images:,} test images, {statistics} {'statistics' if args.batch_stats else 'averages'}")
    for label, key in (("top-1", "top1"), ("top-5", "top5")):
        print(f"  {label:10}  {figures[key]:.2%}  ({round(figures[key] * images):,})")
    print(f"  {'loss':10}  {figures['loss']:.4f}")
    print(f"  {'parameters':10}  {params:,}  ({params / whole_params:.1%} of the unpruned {arch})")
    print(f"  {'FLOPs':10}  {flops:,}  ({flops / whole_flops:.1%})")


if __name__ == "__main__":
    sys.exit(run_program(main))
