"""The flags of export.py."""

import os

from cli.flags import add_any_data_flags, add_key_flag, add_width_flag
from cli.parser import Parser, count, positive
from dataloader.arrays import SCALINGS
from exports.formats import CHOICES, TFLITE, TFLITE_TYPES, check_installed, formats
from exports.targets import check_targets
from nets.catalogue import BUILDERS
from utils import UserError

KERAS_ENDINGS = (".keras", ".h5", ".hdf5")
OF_PARAMETER_FILES = (
    "trained_key",
    "arch",
    "width_multiplier",
    "dataset",
    "input_size",
    "val_labels",
)


def parse(doc, argv=None):
    """The parsed flags, with `formats`, list of Format, and `stem`, of the files' names.

    Raises UserError for flags that contradict each other, missing packages, and places where files
    cannot be written.
    """
    parser = Parser(description=doc.splitlines()[0], epilog="docs/export.md says what to do next.")
    _add_network_flags(parser.add_argument_group("network"))
    _add_file_flags(parser.add_argument_group("files"))
    add_any_data_flags(parser)
    group = parser.add_argument_group("table", "With --against: TFLite files, one image per call.")
    _add_table_flags(group.add_argument)
    args = parser.parse_args(argv)
    if not args.to and not args.against:
        raise UserError(
            "--to or --against is needed: which files to write, or what to compare with"
        )
    if args.types and "tflite" not in (args.to or ()):
        raise UserError("--types goes with --to tflite")
    for flag in ("threads", "seconds", "json"):
        if getattr(args, flag) and not args.against:
            raise UserError(f"--{flag} goes with --against")
    _check_network_flags(args)
    name = os.path.basename(os.path.normpath(args.trained_param))
    args.stem = os.path.splitext(name)[0]
    args.out = os.path.dirname(args.trained_param) if args.out is None else args.out
    args.formats = formats(args.to or (), args.types or TFLITE_TYPES)
    check_installed([*args.formats, *([TFLITE["int8"]] if args.against else ())])
    if args.formats:
        check_targets(args.out, args.stem, args.formats, args.trained_param)
    return args


def _add_network_flags(group):
    add = group.add_argument
    add(
        "--trained_param",
        metavar="FILE",
        required=True,
        help="parameter file, dense or pruned, or a Keras model such as the pruned.keras of"
        " prune_keras.py",
    )
    add_key_flag(group)
    add(
        "--arch",
        choices=list(BUILDERS),
        help="network (default: that of the file, else ResNet-56)",
    )
    add_width_flag(group)
    add(
        "--pixels",
        choices=SCALINGS,
        help="of a Keras model: what it expects pixels 0..255 to be made into (default: what it is"
        " most accurate with, as measured on training images)",
    )
    add(
        "--trust",
        action="store_true",
        help="of a Keras model: run code that the file brings along",
    )


def _add_file_flags(group):
    add = group.add_argument
    add("--to", choices=CHOICES, nargs="+", help="formats to write")
    add(
        "--types",
        choices=TFLITE_TYPES,
        nargs="+",
        help="with --to tflite: types of numbers (default: all three); int8 needs training images",
    )
    add("--out", metavar="FOLDER", help="where to write (default: the folder of the network)")


def _add_table_flags(add):
    add(
        "--against",
        metavar="FILE",
        help="the dense network: print top-1, bytes and time of both, in float32 and int8",
    )
    add("--threads", type=count, help="of the interpreter (default: as many as there are cores)")
    add("--seconds", type=positive, help="timed seconds per file (default: 2)")
    add("--json", action="store_true", help="print the cells as one JSON object, and nothing else")


def is_keras(path):
    """Whether a file is a Keras model, by its name."""
    return path.endswith(KERAS_ENDINGS)


def _check_network_flags(args):
    paths = [args.trained_param, *([args.against] if args.against else ())]
    kinds = {is_keras(path) for path in paths}
    if len(kinds) > 1:
        raise UserError("--against: give two parameter files, or two Keras models")
    keras_only, others_only = ("pixels", "trust"), OF_PARAMETER_FILES
    whose, wrong = (
        ("parameter files", others_only) if True in kinds else ("Keras models", keras_only)
    )
    for flag in wrong:
        if getattr(args, flag):
            raise UserError(f"--{flag} is for {whose}; leave it out")
    if True in kinds and not args.pixels and not args.data_path:
        raise UserError(
            "--pixels is needed to export a Keras model, or --data_path to measure what pixels it"
            " expects"
        )
