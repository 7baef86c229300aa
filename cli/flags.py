"""The command line that the training programs share: flags, what they may be, and the options they
become.

Nothing here imports TensorFlow, so that --help and a wrong flag are answered at once.
"""

import argparse
import dataclasses
import math

from dataloader import FileOptions
from ekg.candidates import FILTERS
from ekg.scores import SCORES
from ekg.strategies import STRATEGIES
from engine.options import (
    TEACHERS,
    DeviceOptions,
    FeedOptions,
    Options,
    SearchOptions,
    SubsetOptions,
    TrainOptions,
)
from nets.catalogue import WIDEST
from utils import UserError


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake with one line and exit code 2, and takes no abbreviations."""

    def __init__(self, **settings):
        super().__init__(formatter_class=_Help, allow_abbrev=False, **settings)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=32, width=110)

    def _get_default_metavar_for_optional(self, action):
        return getattr(action.type, "metavar", "TEXT")

    def _get_help_string(self, action):
        unsaid = any(action.default is value for value in (None, False, argparse.SUPPRESS))
        return action.help if unsaid else super()._get_help_string(action)


def _number(kind, least, most=None, above=False):
    """An argparse type: a number of `kind` from `least` (or above it) to `most`."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        low_enough = most is None or (value is not None and value <= most)
        if (
            value is None
            or not math.isfinite(value)
            or not (value > least if above else value >= least)
            or not low_enough
        ):
            what = "a whole number" if kind is int else "a number"
            low = f"above {least}" if above else f"of at least {least}"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {what} {low}"
                + (f" and at most {most}" if most is not None else "")
            )
        return value

    convert.metavar = "N" if kind is int else "X"
    return convert


count = _number(int, 1)
count_or_none = _number(int, 0)
share = _number(float, 0, 1, above=True)
positive = _number(float, 0, above=True)
not_negative = _number(float, 0)
part = _number(float, 0, 1)
side = _number(int, 32, 2048)
width = _number(float, 0, WIDEST, above=True)


PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("steps", "cosine")


def add_device_flags(parser):
    group = parser.add_argument_group(
        "devices", "Several machines: the same command on each, with TF_CONFIG."
    )
    group.add_argument(
        "--gpu_id",
        type=count_or_none,
        nargs="+",
        metavar="ID",
        help=(
            "GPUs to use; several train together (default: the first GPU if there is one, else the"
            " CPU)"
        ),
    )
    group.add_argument(
        "--cpu_replicas",
        type=count,
        help="replicas in which the CPU works, as several GPUs would, to try that without them",
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=(
            "compile the steps with XLA (default: on for GPUs, off for CPUs, where oneDNN is"
            " faster)"
        ),
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help=(
            "what layers compute in, in trainings and evaluations; variables, statistics, losses"
            " and knowledge are float32"
        ),
    )
    group.add_argument(
        "--sync_bn",
        action="store_true",
        help=(
            "batch statistics over all replicas, not of each; the steps that use them are not"
            " compiled then"
        ),
    )


CIFAR_PATH = (
    "CIFAR's official folder (python or binary) or its .tar.gz, or an .npz with x_train, y_train,"
    " x_test, y_test (default: Keras' cache, else its download)"
)
IMAGENET_PATH = (
    "the folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG or val/*.JPEG, or TFRecord"
    " shards train-* and validation-*"
)


def add_width_flag(group):
    """Adds --width_multiplier to an argument group."""
    group.add_argument(
        "--width_multiplier",
        type=width,
        help=(
            "by which all widths of the network are scaled, before it is pruned (default: what its"
            " file says, else 1)"
        ),
    )


def add_data_flags(parser, datasets, default, path=CIFAR_PATH):
    """The argument group of the data; returns it. datasets: names to choose from; path: what
    --data_path may be.
    """
    group = parser.add_argument_group("data")
    note = "" if default else " (default: the one the file names, else what its network is for)"
    group.add_argument("--dataset", choices=datasets, default=default, help=f"the data{note}")
    group.add_argument("--data_path", metavar="PATH", help=path)
    group.add_argument(
        "--val_batch_size",
        type=count,
        default=256,
        help="images a batch in evaluation and for the memory bank",
    )
    return group


def add_file_flags(group, input_size):
    """Flags for images that lie in files, added to the data's argument group."""
    note = "" if input_size else " (default: that of the file's network, else 224)"
    group.add_argument(
        "--input_size",
        type=side,
        default=input_size,
        help=f"pixels a side that the network sees{note}",
    )
    group.add_argument(
        "--val_labels",
        metavar="FILE",
        help="the list of labels where val is a flat folder: a line an image",
    )


def add_training_flags(parser, architectures, arch, fine_tuning, baseline, temperature=None):
    """The flags of a pruning run; the published ones keep their names and defaults.

    arch: the default of architectures; fine_tuning, baseline: TrainOptions, their defaults;
    temperature: that of --temperature.
    """
    _add_run_flags(parser, architectures, arch)
    _add_search_flags(parser)
    group = _add_teaching_flags(parser, temperature)
    scaled = fine_tuning.batch_size if temperature else None
    _add_schedule(group, "", fine_tuning, "; 0 ends the run after extraction", scaled)
    group = parser.add_argument_group("baseline (only where no trained network is given)")
    _add_schedule(group, "baseline_", baseline, "", scaled)
    parser.set_defaults(rates_for=scaled)


def _add_run_flags(parser, architectures, arch):
    group = parser.add_argument_group("run")
    group.add_argument(
        "--train_path",
        metavar="FOLDER",
        default="../test",
        help="the run's folder: everything written goes here, a second start goes on",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="delete what a former run wrote into this folder, start afresh",
    )
    group.add_argument("--arch", choices=architectures, default=arch, help="the network")
    add_width_flag(group)
    group.add_argument(
        "--trained_param",
        metavar="FILE",
        help=(
            "parameter file to start from, dense or pruned, ours or PyTorch's (.safetensors, .pth)"
            " (default: pretrained/ARCH_DATASET.pkl, or ARCH-WIDTH_DATASET.pkl, beside this program"
            " if there is one, else a baseline is trained first)"
        ),
    )
    group.add_argument(
        "--search_from",
        metavar="FOLDER",
        help=(
            "take baseline, search and extraction from the run in this folder, whose options up to"
            " there are the same, and do the rest only"
        ),
    )
    group.add_argument(
        "--seed",
        type=count_or_none,
        default=0,
        help="seed of initial values, shuffling and augmentation",
    )
    group.add_argument(
        "--accum",
        type=count,
        default=1,
        help="parts in which a replica takes its batch, to need less memory",
    )
    group.add_argument(
        "--steps_per_call",
        type=count,
        default=1,
        help=(
            "training steps in one call of the device, to the same result: for steps that are"
            " shorter than the way to a GPU"
        ),
    )
    group.add_argument(
        "--resident_mib",
        type=count_or_none,
        metavar="MIB",
        help=(
            "images, labels and memory bank are kept on each device while they fit in so many MiB"
            " in all (default: 1024 on GPUs with XLA, else 0)"
        ),
    )
    group.add_argument(
        "--do_log",
        type=count_or_none,
        nargs="?",
        default=200,
        const=200,
        metavar="STEPS",
        help="steps between TensorBoard scalars within an epoch; 0 or --no-do_log for none",
    )
    group.add_argument(
        "--no-do_log", dest="do_log", action="store_const", const=0, help=argparse.SUPPRESS
    )


def _add_search_flags(parser):
    group = parser.add_argument_group("search")
    group.add_argument(
        "--search_target_rate", type=share, default=0.45, help="share of the FLOPs that remains"
    )
    group.add_argument(
        "--search_step", type=share, default=0.2, help="share of a gate's filters that goes at once"
    )
    group.add_argument(
        "--search_batch_size", type=count, default=256, help="images of D_val a batch"
    )
    group.add_argument(
        "--search_seed",
        type=count_or_none,
        default=0,
        help="seed that shuffles D_val and D_subset, and draws",
    )
    group.add_argument(
        "--search_warmup_epoch",
        type=count_or_none,
        default=1,
        help="epochs on D_subset before the search; 0 skips them",
    )
    group.add_argument(
        "--search_warmup_batch_size", type=count, default=256, help="images a batch in these epochs"
    )
    group.add_argument(
        "--subset_per_class",
        type=count,
        default=256,
        help="images a class in D_subset, or as many as D_val leaves",
    )
    group.add_argument("--val_per_class", type=count, default=32, help="images a class in D_val")
    group.add_argument(
        "--search",
        choices=STRATEGIES,
        default="greedy",
        help=(
            "the paper's search, or what it is compared with: the same rate at every gate, or the"
            " best of random widths"
        ),
    )
    group.add_argument(
        "--search_precision",
        choices=PRECISIONS,
        default="float32",
        help=(
            "what layers compute in from the warm-up to the memory bank; half precision chooses"
            " other filters"
        ),
    )
    group.add_argument(
        "--search_samples", type=count, default=50, help="width vectors that --search random draws"
    )
    group.add_argument(
        "--search_teacher",
        choices=TEACHERS,
        default="ensemble",
        help=(
            "what candidates should agree with besides labels: all sub-networks so far, the"
            " unpruned one, nothing"
        ),
    )
    group.add_argument(
        "--score",
        choices=SCORES,
        default="ekg",
        help=(
            "what filters are ranked by: gradients of the loss with knowledge (ekg) or without"
            " (gbn), weights, chance"
        ),
    )
    group.add_argument(
        "--candidate_filter",
        choices=FILTERS,
        default="published",
        help=(
            "which gates are evaluated: by the importance of a whole gate, of the slice that would"
            " go, of that for every MAC or every use of the gate, or all"
        ),
    )


def _add_teaching_flags(parser, temperature):
    """The flags of fine-tuning but for its schedule; returns their group."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--finetune_teacher",
        choices=TEACHERS,
        default="ensemble",
        help=(
            "what teaches two views of an image: the memory bank of sub-networks, the unpruned"
            " network; none: one view, labels"
        ),
    )
    group.add_argument(
        "--num_teacher", type=count, default=5, help="interim sub-networks in the memory bank"
    )
    group.add_argument(
        "--bank_top",
        type=count_or_none,
        default=0,
        help=(
            "logits that a row of the memory bank keeps of each teacher, the others share what is"
            " left; 0 for all"
        ),
    )
    note = "" if temperature else " (default: 4 under 1,000 classes, else 10)"
    group.add_argument(
        "--temperature", type=positive, default=temperature, help=f"of the distillation{note}"
    )
    return group


def _add_schedule(group, prefix, default, note, scaled):
    """scaled: the batch that the learning rate is for, where it is scaled with the batch; else
    None.
    """
    add = lambda name, **settings: group.add_argument(f"--{prefix}{name}", **settings)
    name = f"--{prefix}epoch" if prefix else "--train_epoch"
    group.add_argument(
        name, type=count_or_none if note else count, default=default.epochs, help=f"epochs{note}"
    )
    rate = "learning rate at the start" + (
        f", for a batch of {scaled} and scaled with it" if scaled else ""
    )
    add("learning_rate", type=positive, default=default.learning_rate, help=rate)
    add(
        "schedule",
        choices=SCHEDULES,
        default=default.schedule,
        help="how it falls: in steps, or along half a cosine",
    )
    add(
        "warmup_epoch",
        type=not_negative,
        default=default.warm_up,
        help="epochs in which it rises from 0 first",
    )
    points = "shares of the epochs after which it falls in steps"
    add(
        "decay_points",
        type=share,
        nargs="+",
        default=list(default.decay_points),
        metavar="POINT",
        help=points,
    )
    add(
        "decay_rate",
        type=positive,
        default=default.decay_rate,
        help="by which it is multiplied then",
    )
    add(
        "weight_decay",
        type=not_negative,
        default=default.weight_decay,
        help="L2 gradient on every trainable variable",
    )
    add(
        "batch_size",
        type=count,
        default=default.batch_size,
        help="images a batch, over all replicas",
    )
    smoothing = "share of each label that is spread evenly over the classes"
    add("label_smoothing", type=part, default=default.label_smoothing, help=smoothing)


def device_options(args, accum=1):
    """The DeviceOptions of a parsed command line."""
    found = DeviceOptions(
        args.gpu_id, args.cpu_replicas, args.compile, accum, args.precision, args.sync_bn
    )
    searches = getattr(args, "search_precision", None)  # not every program does
    return dataclasses.replace(found, search_precision=searches) if searches else found


def options_from(args):
    """The Options of a parsed command line."""

    def schedule(prefix):
        value = lambda name: getattr(args, f"{prefix}{name}")
        epochs, rate = args.baseline_epoch if prefix else args.train_epoch, value("learning_rate")
        if 0 < epochs <= value("warmup_epoch"):
            raise UserError(
                f"--{prefix}warmup_epoch {value('warmup_epoch'):g}: the training has {epochs}"
                " epochs in all"
            )
        if args.rates_for:
            rate *= value("batch_size") / args.rates_for
        same = {
            name: value(name)
            for name in ("decay_rate", "weight_decay", "batch_size", "schedule", "label_smoothing")
        }
        return TrainOptions(
            epochs, rate, tuple(value("decay_points")), warm_up=value("warmup_epoch"), **same
        )

    files = (
        FileOptions(args.input_size, args.val_labels, args.shuffle_buffer)
        if hasattr(args, "input_size")
        else None
    )
    return Options(
        train_path=args.train_path,
        overwrite=args.overwrite,
        data_path=args.data_path,
        arch=args.arch,
        width_multiplier=args.width_multiplier,
        dataset=args.dataset,
        trained_param=args.trained_param,
        search_from=args.search_from,
        files=files,
        finetune_teacher=args.finetune_teacher,
        num_teacher=args.num_teacher,
        bank_top=args.bank_top,
        temperature=args.temperature,
        val_batch_size=args.val_batch_size,
        seed=args.seed,
        log_every=args.do_log,
        device=device_options(args, args.accum),
        feed=FeedOptions(args.steps_per_call, args.resident_mib),
        subsets=SubsetOptions(
            args.val_per_class, args.subset_per_class, args.search_seed, args.search_batch_size
        ),
        search=SearchOptions(
            args.search_target_rate,
            args.search_step,
            args.candidate_filter,
            score=args.score,
            teacher=args.search_teacher,
            strategy=args.search,
            samples=args.search_samples,
        ),
        baseline=schedule("baseline_"),
        # One epoch on D_subset; the published sums over 256 images divided by 128 are these on the
        # mean.
        warm_up=TrainOptions(
            args.search_warmup_epoch, 2e-3, (), 1.0, 2.5e-4, args.search_warmup_batch_size
        ),
        fine_tuning=schedule(""),
    )
