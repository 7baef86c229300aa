"""The flags of prune_keras.py."""

import os

from cli.flags import add_device_flags
from cli.options import options_from
from cli.parser import Parser, count
from cli.training_flags import add_method_flags, add_run_flags, add_speed_flags
from dataloader.arrays import SCALINGS, VIEWS
from ekg.keras_settings import FINE_TUNING
from utils import UserError

# What a run on a Keras model has no flags for.
FIXED = {
    "width_multiplier": None,
    "search_from": None,
    "baseline_epoch": 1,
    "baseline_learning_rate": 0.1,
    "baseline_schedule": "steps",
    "baseline_warmup_epoch": 0.0,
    "baseline_decay_points": [],
    "baseline_decay_rate": 1.0,
    "baseline_weight_decay": 0.0,
    "baseline_batch_size": 1,
    "baseline_label_smoothing": 0.0,
    "rates_for": None,
}
# Flags of the paper's networks, with the only value that a Keras model has.
ONLY = {
    "least_filters": 1,
    "search_precision": "float32",
    "search_target": "flops",
    "latency_batch_size": 32,
    "slice_by": "share",
    "layer_times": None,
}


def parse(doc, argv=None):
    """(parsed flags, Options of a run; None if the model is only looked at)."""
    parser = Parser(description=doc.splitlines()[0], epilog="See README.md.")
    parser.add_argument("model", metavar="MODEL", help="file: .keras, .h5 or .hdf5")
    _add_looking_flags(parser.add_argument_group("looking at the model"))
    _add_data_flags(parser.add_argument_group("data"))
    group = parser.add_argument_group("run")
    add_run_flags(group)
    add_speed_flags(group)
    add_method_flags(parser, FINE_TUNING)
    add_device_flags(parser, precision=False, machines=False)
    parser.hide(ONLY)
    parser.set_defaults(**FIXED)
    args = parser.parse_args(argv)
    if args.gates:
        return args, None
    if args.json:
        raise UserError("--json goes with --gates")
    if not args.data_path:
        raise UserError("--data_path is needed to prune the model; --gates only looks at it")
    for name, only in ONLY.items():
        if getattr(args, name) != only:
            raise UserError(f"--{name} is for the networks of the paper; leave it out")
    if "none" in args.views and len(args.views) > 1:
        raise UserError("--views: none goes alone")
    if not os.path.exists(args.data_path):  # before TensorFlow starts
        raise UserError(f"--data_path {args.data_path}: there is no such file or folder")
    args.arch, args.dataset, args.trained_param = "Keras", args.data_path, args.model
    return args, options_from(args)


def _add_looking_flags(group):
    add = group.add_argument
    add(
        "--gates",
        action="store_true",
        help="print gates, filters that must stay and why, FLOPs by layer; prune nothing",
    )
    add("--json", action="store_true", help="with --gates: print one JSON object")
    add(
        "--input_size",
        type=count,
        help="height and width where the model leaves them open, for --gates and for image files"
        " (default: 224)",
    )
    add(
        "--trust",
        action="store_true",
        help="run code that the file brings along: Lambda layers, classes of other modules",
    )


def _add_data_flags(group):
    add = group.add_argument
    add(
        "--data_path",
        metavar="PATH",
        help="an .npz with x_train, y_train, x_test, y_test; or a folder with train/CLASS/* and"
        " test/CLASS/*, or with CLASS/* alone",
    )
    add(
        "--pixels",
        choices=SCALINGS,
        help="what the model expects pixels 0..255 to be made into (default: what it is most"
        " accurate with, as measured on training images)",
    )
    add(
        "--views",
        choices=("none", *VIEWS),
        nargs="+",
        default=["crop", "colour"],
        help="how the views of an image differ in the fine-tuning; flip only what may be mirrored",
    )
    add(
        "--val_batch_size",
        type=count,
        default=256,
        help="images per batch in evaluation and for the memory bank",
    )
