"""The flags of a pruning run. The published ones keep their names and defaults.

Nothing here imports TensorFlow, so that --help and a wrong flag are answered at once.
"""

import argparse

from cli.flags import PRECISIONS, add_key_flag, add_width_flag
from cli.parser import count, count_or_none, folder, not_negative, part, positive, share
from cli.time_flags import add_time_flags
from ekg.candidates import FILTERS
from ekg.scores import SCORES
from ekg.strategies import STRATEGIES
from engine.options import TEACHERS

SCHEDULES = ("steps", "cosine")


def add_training_flags(parser, architectures, arch, fine_tuning, baseline, temperature=None):
    """Adds all flags of a pruning run except those of data and devices.

    Args:
        parser: Parser.
        architectures: names to choose from.
        arch: default of --arch.
        fine_tuning: TrainOptions, the defaults of fine-tuning.
        baseline: TrainOptions, the defaults of the baseline.
        temperature: default of --temperature. If given, learning rates are scaled with the batch.
    """
    group = parser.add_argument_group("run")
    _add_network_flags(group, architectures, arch)
    add_speed_flags(group)
    rates_for = fine_tuning.batch_size if temperature else None
    add_method_flags(parser, fine_tuning, temperature, rates_for)
    group = parser.add_argument_group("baseline (used only without a trained network)")
    _add_schedule(group, "baseline_", baseline, "", rates_for)
    parser.set_defaults(rates_for=rates_for)


def add_method_flags(parser, fine_tuning, temperature=None, rates_for=None):
    """Adds the flags of search and fine-tuning.

    fine_tuning, temperature: see add_training_flags; rates_for: see _add_schedule.
    """
    group = parser.add_argument_group("search")
    _add_search_flags(group)
    _add_choice_flags(group)
    add_time_flags(group)
    group = parser.add_argument_group("fine-tuning")
    _add_teaching_flags(group, temperature)
    _add_schedule(group, "", fine_tuning, "; 0 ends the run after extraction", rates_for)


def add_run_flags(group):
    """Adds the flags of the run folder and the seed."""
    add = group.add_argument
    add(
        "--train_path",
        type=folder,
        default="../test",
        help="run folder for all output; a second start with the same folder resumes the run",
    )
    add(
        "--overwrite",
        action="store_true",
        help="delete an earlier run in this folder first, and start from the beginning",
    )
    add(
        "--seed",
        type=count_or_none,
        default=0,
        help="seed of initial values, shuffling and augmentation",
    )


def _add_network_flags(group, architectures, arch):
    add_run_flags(group)
    add = group.add_argument
    add("--arch", choices=architectures, default=arch, help="network")
    add_width_flag(group)
    add(
        "--trained_param",
        metavar="FILE",
        help="parameter file to start from, dense or pruned, ours or PyTorch's (.safetensors, .pth)"
        " (default: pretrained/ARCH_DATASET.pkl or ARCH-WIDTH_DATASET.pkl next to this program; if"
        " there is none, a baseline is trained first)",
    )
    add_key_flag(group)
    add(
        "--search_from",
        metavar="FOLDER",
        help="take baseline, search and extraction from the run in this folder and do only the"
        " rest; the options of these stages must be the same; --precision may differ: a baseline"
        " that was trained there keeps the precision it was trained in",
    )


def add_speed_flags(group):
    """Adds the flags that change how fast a run computes, and its logs."""
    add = group.add_argument
    add("--accum", type=count, default=1, help="parts per replica's batch, to save memory")
    add(
        "--steps_per_call",
        type=count,
        default=1,
        help="training steps per call of the device; results do not change; faster if steps are"
        " shorter than the overhead of a call",
    )
    add(
        "--resident_mib",
        type=count_or_none,
        metavar="MIB",
        help="MiB per device for keeping images, labels and memory bank there (default: 1024 on"
        " GPUs with XLA, else 0)",
    )
    add(
        "--do_log",
        type=count_or_none,
        nargs="?",
        default=200,
        const=200,
        metavar="STEPS",
        help="steps between TensorBoard scalars within an epoch; 0 or --no-do_log for none",
    )
    add("--no-do_log", dest="do_log", action="store_const", const=0, help=argparse.SUPPRESS)


def _add_search_flags(group):
    """The flags of the search that are numbers."""

    def add(name, kind, default, text):
        group.add_argument(name, type=kind, default=default, help=text)

    add("--search_target_rate", share, 0.45, "share of the FLOPs, or of the time, that may remain")
    add("--search_step", share, 0.2, "largest share of a gate's filters removed in one step")
    add("--search_batch_size", count, 256, "images of D_val per batch")
    add(
        "--search_seed",
        count_or_none,
        0,
        "seed of the shuffling of D_val and D_subset, and of random strategies and scores",
    )
    add("--search_warmup_epoch", count_or_none, 1, "epochs on D_subset before the search; 0: none")
    add("--search_warmup_batch_size", count, 256, "images per batch in these epochs")
    add(
        "--subset_per_class",
        count,
        256,
        "images per class in D_subset; fewer if D_val leaves fewer",
    )
    add("--val_per_class", count, 32, "images per class in D_val")
    add("--search_samples", count, 50, "number of width vectors that --search random draws")
    add(
        "--least_filters",
        count_or_none,
        1,
        "filters that a gate inside a residual block keeps at least; 0: whole blocks may go, and"
        " leave a constant",
    )
    add(
        "--round_to",
        count,
        1,
        "the number of filters of every gate is a multiple of this, or all of them",
    )


def _add_choice_flags(group):
    """The flags of the search that choose between methods."""

    def add(name, choices, default, text):
        group.add_argument(name, choices=choices, default=default, help=text)

    add(
        "--search",
        STRATEGIES,
        "greedy",
        "the paper's search (greedy), or a method to compare it with: the same rate at every gate,"
        " or the best of random widths",
    )
    add(
        "--search_precision",
        PRECISIONS,
        "float32",
        "type in which layers compute from the warm-up to the extraction; half precision selects"
        " other filters",
    )
    add(
        "--search_teacher",
        TEACHERS,
        "ensemble",
        "what candidates should agree with besides labels: all sub-networks so far (ensemble), the"
        " unpruned network (single), nothing (none)",
    )
    add(
        "--score",
        SCORES,
        "ekg",
        "ranking of filters: by gradients of the loss with knowledge (ekg) or without (gbn), by"
        " weights (l1, fpgm), or random",
    )
    add(
        "--candidate_filter",
        FILTERS,
        "published",
        "which gates are evaluated, selected by the importance of: the whole gate (published), the"
        " slice to remove (slice), that slice per MAC (per_mac) or per use of the gate (per_use);"
        " none: all gates",
    )


def _add_teaching_flags(group, temperature):
    """The flags of fine-tuning other than its schedule."""
    add = group.add_argument
    add(
        "--finetune_teacher",
        choices=TEACHERS,
        default="ensemble",
        help="what teaches two views of each image: the memory bank of sub-networks (ensemble), the"
        " unpruned network (single); none: one view, labels only",
    )
    add(
        "--num_teacher",
        type=count,
        default=5,
        help="number of interim sub-networks in the memory bank",
    )
    add(
        "--bank_top",
        type=count_or_none,
        default=0,
        help="largest logits per teacher that a row of the memory bank keeps; the other classes"
        " share the remaining probability; 0: all logits",
    )
    note = "" if temperature else " (default: 4 for fewer than 1,000 classes, else 10)"
    add(
        "--temperature",
        type=positive,
        default=temperature,
        help=f"temperature of the distillation{note}",
    )


def _add_schedule(group, prefix, default, note, rates_for):
    """Adds the flags of one training.

    Args:
        group: argument group.
        prefix: of the flags, "" or "baseline_".
        default: TrainOptions.
        note: added to the help of the epochs; with a note, 0 epochs are allowed.
        rates_for: batch size that learning rates are for, None if they are not scaled.
    """

    def add(name, kind, value, text, **settings):
        name = f"--{prefix or ('train_' if name == 'epoch' else '')}{name}"
        group.add_argument(name, type=kind, default=value, help=text, **settings)

    add("epoch", count_or_none if note else count, default.epochs, f"epochs{note}")
    scaled = f", for a batch of {rates_for} and scaled with the batch" if rates_for else ""
    add("learning_rate", positive, default.learning_rate, f"learning rate at the start{scaled}")
    add(
        "schedule",
        None,
        default.schedule,
        "decay of the learning rate: in steps, or half a cosine",
        choices=SCHEDULES,
    )
    add(
        "warmup_epoch",
        not_negative,
        default.warm_up,
        "epochs at the start in which the learning rate rises from 0",
    )
    add(
        "decay_points",
        share,
        list(default.decay_points),
        "shares of all epochs after which the learning rate falls",
        nargs="+",
        metavar="POINT",
    )
    add("decay_rate", positive, default.decay_rate, "factor of the learning rate at these points")
    add("weight_decay", not_negative, default.weight_decay, "L2 factor for all trainable variables")
    add("batch_size", count, default.batch_size, "images per batch, over all replicas")
    add(
        "label_smoothing",
        part,
        default.label_smoothing,
        "share of each label that is spread evenly over the classes",
    )
