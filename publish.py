"""Writes a network of a run for others: half the bytes, and a model card beside it.

    python publish.py ../test
    python publish.py ../test --network baseline --out pretrained

The arrays become float16. The top-1 on the card is that of the file, measured here, and test.py
prints it again. A baseline gets the name under which later runs look for it in pretrained/.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import hashlib
import os
import sys
import tempfile

import train_cifar
import train_imagenet
from cli.flags import CIFAR_PATH, add_device_flags
from cli.options import device_options
from cli.parser import Parser, count
from cli.program import run_program
from dataloader import FileOptions
from engine.configuration import described
from engine.run_files import SIDES, STAGES
from reports.model_card import card, command_of, name_of
from reports.reader import read_run
from utils import FULL, UserError, whole_file

FILES = {"baseline": ("baseline",), "pruned": ("fine_tuning", "extraction")}  # the first there is


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run folder, the --train_path of a training")
    add = parser.add_argument
    add("--network", choices=SIDES, default="pruned", help="which network of the run")
    add("--out", metavar="FOLDER", default="pretrained", help="folder of the file and its card")
    add("--overwrite", action="store_true", help="replace a file and a card of the same name")
    add("--licence", metavar="TEXT", default="MIT", help="licence of the file, for its card")
    add(
        "--command",
        metavar="TEXT",
        help="the run's command, for the card (default: from the options of the run)",
    )
    add(
        "--data_path",
        metavar="PATH",
        help=f"the run's data: {CIFAR_PATH}; or ImageNet's folder (default: that of the run)",
    )
    add("--val_batch_size", type=count, default=256, help="images per batch of the evaluation")
    add_device_flags(parser, precision=False, machines=False)
    return parser.parse_args(argv)


def main():
    args = parse()
    run = read_run(args.run, os.path.basename(os.path.abspath(args.run)))
    source = source_of(run, args.network)
    path = os.path.join(args.out, f"{name_of(run, args.network)}.pkl")
    check_out(args.out, path, args.overwrite)
    publish(run, source, path, args)


def source_of(run, side):
    """The parameter file of the run that holds the network. Raises UserError without one."""
    if run.options["start"].startswith("model"):
        raise UserError(
            f"{run.path} has pruned a Keras model; its pruned.keras is the file to give"
        )
    found = next(filter(None, map(run.parameter_file, FILES[side])), None)
    if found is None or (side == "pruned" and not run.finished):
        name = STAGES[FILES[side][0]]
        why = "the run is not finished"
        if side == "baseline":
            why = "none was trained there, or it is not finished"
        raise UserError(f"{run.path} has no {name} to publish: {why}; choose another --network")
    return found


def check_out(folder, path, overwrite):
    if not os.path.isdir(folder):
        raise UserError(f"--out {folder} is no folder; make it, or choose another")
    if not overwrite and (there := [p for p in (path, card_path(path)) if os.path.exists(p)]):
        raise UserError(f"{there[0]} exists; choose another --out, or --overwrite")


def card_path(path):
    return f"{path.removesuffix('.pkl')}.md"


def publish(run, source, path, args):
    """Measures the network as float16, and writes file and card."""
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from nets.parameters import half, read_parameters, write_parameters

    arrays, meta = read_parameters(source)
    arrays = half(arrays, source)
    meta = {"arch": run.options["arch"], "dataset": run.options["dataset"]} | meta
    measured, images = measure(run, arrays, meta, source, args)
    program = train_cifar if run.options.get("files") is None else train_imagenet
    defaults = described(program.parse([]), "", 1)
    command = args.command or command_of(run, program.__name__, defaults)
    try:
        with tempfile.TemporaryDirectory(prefix=".publish", dir=args.out) as folder:
            new = os.path.join(folder, os.path.basename(path))
            write_parameters(new, arrays, meta, dtype="float16")
            with open(new, "rb") as content:
                sha256 = hashlib.sha256(content.read()).hexdigest()
            file = {"path": path, "bytes": os.path.getsize(new), "sha256": sha256}
            text = card(run, args.network, file, measured, images, command, args.licence)
            with whole_file(card_path(new), "w") as out:
                out.write(text)
            for written in (new, card_path(new)):
                os.replace(written, os.path.join(args.out, os.path.basename(written)))
    except OSError as error:
        if error.errno in FULL:
            raise  # a full disk is not a mistake in the command
        raise UserError(f"--out {args.out}: {error.strerror}; choose another folder") from error
    print(text, end="")


def measure(run, arrays, meta, source, args):
    """(dict of figures, (training images, test images)) of the network with these arrays."""
    from dataloader import load_dataset
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from engine.console import Console
    from engine.evaluation import Evaluator
    from nets import build_network, unpruned_cost, variant_of

    options = run.options
    files = options.get("files") and FileOptions(**options["files"])
    data = load_dataset(options["dataset"], args.data_path or options["data_path"], files)
    runtime, lines = make_runtime(device_options(args), Alone())
    size = min(args.val_batch_size, len(data.y_test))
    runtime.check_batch("--val_batch_size", size)
    shape, variant = (
        (options["arch"], data.classes, data.input_size),
        variant_of(meta, source, None),
    )
    with runtime.strategy.scope():
        network = build_network(*shape, arrays, origin=source, **variant)
    evaluator = Evaluator(network, runtime, data.augmentation, data.x_test, data.y_test, size)
    print("".join(f"{line}\n" for line in (*data.notes, *lines)), end="", file=sys.stderr)
    console = Console()
    figures = evaluator(lambda batches: console.bar(batches, "evaluation"))
    flops, params = network.cost()
    whole, _ = unpruned_cost(*shape, network.width_multiplier)
    figures |= {"flops": flops, "params": params, "flops_rate": flops / whole}
    return figures, (len(data.y_train), len(data.y_test))


if __name__ == "__main__":
    sys.exit(run_program(main))
