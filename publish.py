"""Writes a network of a run for others: half the bytes, and a model card beside it.

    python publish.py ../test
    python publish.py ../test --network baseline

The arrays become float16. The top-1 on the card is that of the file, measured here, and test.py
prints it again. A baseline gets the name under which later runs look for it in pretrained/.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import os
import sys

import train_cifar
import train_imagenet
from cli.flags import CIFAR_PATH, add_device_flags
from cli.parser import Parser, count
from cli.program import run_program
from engine.configuration import described
from engine.run_files import SIDES
from reports.publishing import publish
from reports.reader import read_run
from reports.settings import command_line

PRETRAINED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pretrained")


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="run folder, the --train_path of a training")
    add = parser.add_argument
    add("--network", choices=SIDES, default="pruned", help="which network of the run")
    add(
        "--out",
        metavar="FOLDER",
        help="folder of the file and its card (default: pretrained/ next to this program)",
    )
    add("--overwrite", action="store_true", help="replace a file and a card of the same name")
    add("--licence", metavar="TEXT", help="licence of the file, for its card")
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
    add("--val_labels", metavar="FILE", help="list of labels of val/ (default: that of the run)")
    add("--val_batch_size", type=count, default=256, help="images per batch of the evaluation")
    add_device_flags(parser, precision=False, machines=False)
    return parser.parse_args(argv)


def main():
    args = parse()
    run = read_run(args.run, os.path.basename(os.path.abspath(args.run)))
    if args.out is None:
        args.out = PRETRAINED
        os.makedirs(args.out, exist_ok=True)
    program = train_cifar if run.options.get("files") is None else train_imagenet
    defaults = described(program.parse([]), "", 1)
    command = args.command or command_line(program.__name__, run.options, defaults)
    print(publish(run, args, command), end="")


if __name__ == "__main__":
    sys.exit(run_program(main))
