"""Measures what the accuracy of a network does not show: curvature, landscape, potential.

    python analyze.py hessian ../test/slimmed_param.pkl --data_path CIFAR
    python analyze.py landscape RUN_1 RUN_2 --data_path CIFAR
    python analyze.py potential --trained_param FILE --train_path ../potential --data_path CIFAR

hessian: the extreme eigenvalues of the Hessian of the loss, and their condition number. landscape:
the loss along two random directions. potential: how well loss and condition number of random
sub-networks predict their test loss after fine-tuning; its flags are those of train_cifar.py, or
of train_imagenet.py after the word imagenet. See docs/analysis.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import os
import shlex
import sys

import train_cifar
import train_imagenet
from analysis import flags
from cli.options import options_from
from cli.parser import Parser, count, count_or_none
from cli.program import RUN_LESS_MEMORY, run_program
from utils import UserError

COMMANDS = {
    "hessian": "extreme eigenvalues, condition number and spectral density of the Hessian",
    "landscape": "the loss along two random directions around one or several networks",
    "potential": "what loss and condition number of random sub-networks say of their fine-tuned"
    " loss",
}
PROGRAMS = {"cifar": train_cifar, "imagenet": train_imagenet}
# Flags of a run that a study of potential performance sets, and why the user may not.
SET = {
    "--search": "the sub-networks are random",
    "--search_samples": "use --sub_networks instead",
    "--search_target": "all sub-networks have the same FLOPs",
    "--slice_by": "the sub-networks are random",
    "--finetune_teacher": "all sub-networks are fine-tuned on the labels alone",
    "--search_from": "the search is part of the study",
}


def parse(argv=None):
    """(command, parsed flags) of a command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = argv[0] if argv and argv[0] in COMMANDS else None
    if command == "potential":
        return command, _parse_potential(argv[1:])
    if command is not None:
        return command, _network_parser(command).parse_args(argv[1:])
    parser = Parser(
        description=__doc__.splitlines()[0],
        epilog="COMMAND --help lists the options of a command. See docs/analysis.md.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser.parse_args(argv)  # ends the program


def _sentence(text):
    return f"{text[0].upper()}{text[1:]}."


def _network_parser(command):
    """The Parser of `hessian` or `landscape`."""
    parser = Parser(prog=f"analyze.py {command}", description=_sentence(COMMANDS[command]))
    flags.add_network_flags(parser, parser.add_argument_group("networks"))
    if command == "hessian":
        group = parser.add_argument_group("eigenvalues")
        flags.add_hessian_flags(group)
        flags.add_spectrum_flags(group)
    else:
        flags.add_landscape_flags(parser.add_argument_group("landscape"))
    return parser


def _parse_potential(argv):
    named = argv[:1] if argv and argv[0] in PROGRAMS else []
    name, argv = (*named, "cifar")[0], argv[len(named) :]
    parser = Parser(
        prog=" ".join(["analyze.py potential", *named]),
        description=_sentence(COMMANDS["potential"]),
        epilog="All other flags are those of a pruning run. See docs/analysis.md.",
    )
    group = parser.add_argument_group("potential")
    group.add_argument("--sub_networks", type=count, default=50, help="number of sub-networks")
    group.add_argument(
        "--tuning_images",
        type=count_or_none,
        default=0,
        help="images of the fine-tuning, the same number per class; 0: all",
    )
    flags.add_image_flags(parser.add_argument_group("images of the Hessian"))
    flags.add_hessian_flags(parser.add_argument_group("eigenvalues"))
    PROGRAMS[name].add_flags(parser)
    parser.set_defaults(train_path="../potential", train_epoch=1, finetune_teacher="none")
    args = parser.parse_args(argv)
    given = {flag.partition("=")[0] for flag in argv}
    for flag, instead in SET.items():
        if flag in given:
            raise UserError(f"{flag}: {instead}; leave it out")
    if not args.train_epoch:
        raise UserError("--train_epoch 0: potential performance needs a fine-tuning")
    args.search, args.search_samples = "random", args.sub_networks
    return args


def main():
    command, args = parse()
    # After parsing, so that --help and a wrong flag are answered at once.
    from distribution.startup import import_tensorflow

    options = options_from(args) if command == "potential" else None
    import_tensorflow()
    if command != "potential":
        from analysis import commands

        getattr(commands, command)(args)
        return
    from analysis.potential import PotentialOptions, measure_potential

    asked = PotentialOptions(flags.curvature_options(args), args.tuning_images)
    words = ["python", os.path.basename(sys.argv[0]), *sys.argv[1:]]
    measure_potential(options, asked, shlex.join(words))


def less_memory():
    """Advice for a command that ran out of memory."""
    own = "a smaller --image_batch_size, which changes no result"
    return f"{own}; or {RUN_LESS_MEMORY}" if sys.argv[1:2] == ["potential"] else own


if __name__ == "__main__":
    sys.exit(run_program(main, resumable=True, less_memory=less_memory))
