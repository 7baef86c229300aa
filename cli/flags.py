"""The flags that several programs share: devices, data, image files, width.

Nothing here imports TensorFlow, so that --help and a wrong flag are answered at once.
"""

import argparse

from cli.parser import count, count_or_none, side, width
from dataloader import DATASETS

PRECISIONS = ("float32", "bfloat16", "float16")  # of the search
ALL_PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
CIFAR_PATH = (
    "CIFAR's official folder (python or binary) or its .tar.gz, or an .npz with x_train, y_train,"
    " x_test, y_test (default: Keras' cache, else a download)"
)
IMAGENET_PATH = (
    "folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG or val/*.JPEG, or with TFRecord shards"
    " train-* and validation-*"
)


def add_device_flags(parser, precision=True, machines=True):
    """Adds the argument group of the devices.

    precision: whether the program may compute in other types than float32, and with batch
    statistics; machines: whether it may run on several machines.
    """
    several = "On several machines: run the same command on each, with TF_CONFIG set."
    add = parser.add_argument_group("devices", several if machines else None).add_argument
    add(
        "--gpu_id",
        type=count_or_none,
        nargs="+",
        metavar="ID",
        help="GPUs to use, several train together (default: the first GPU, or the CPU without one)",
    )
    add(
        "--cpu_replicas",
        type=count,
        help="number of replicas on the CPU, to try what several GPUs do without having them",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compile steps with XLA (default: on for GPUs; off for CPUs, oneDNN is faster there)",
    )
    if not precision:
        parser.set_defaults(precision="float32", sync_bn=False)
        return
    add(
        "--precision",
        choices=ALL_PRECISIONS,
        default="float32",
        help="type in which layers compute in trainings and evaluations; variables, statistics,"
        " losses and knowledge stay float32. tf32: products of float32 are rounded to 10 bits, on"
        " GPUs of 2020 and later",
    )
    add(
        "--sync_bn",
        action="store_true",
        help="batch statistics over all replicas, not per replica; steps that use them are then"
        " not compiled",
    )


def add_key_flag(group):
    """Adds --trained_key to an argument group."""
    group.add_argument(
        "--trained_key",
        metavar="NAME",
        help="the network that is meant if a parameter file holds several, e.g. averaged weights:"
        " state_dict_ema (default: the first)",
    )


def add_width_flag(group):
    """Adds --width_multiplier to an argument group."""
    group.add_argument(
        "--width_multiplier",
        type=width,
        help="factor for all widths of the network before pruning (default: that of its file,"
        " else 1)",
    )


def add_data_flags(parser, datasets, default, path=CIFAR_PATH):
    """Adds the argument group of the data; returns it.

    datasets: names to choose from; default: one of them, or None; path: help of --data_path.
    """
    group = parser.add_argument_group("data")
    note = "" if default else " (default: that of the file, else the usual one of the network)"
    group.add_argument("--dataset", choices=datasets, default=default, help=f"data set{note}")
    group.add_argument("--data_path", metavar="PATH", help=path)
    group.add_argument(
        "--val_batch_size",
        type=count,
        default=256,
        help="images per batch in evaluation and for the memory bank",
    )
    return group


def add_any_data_flags(parser):
    """Adds the flags of any data set to a program that reads parameter files: the default is the
    data set of the file.
    """
    paths = f"{CIFAR_PATH}; or {IMAGENET_PATH}"
    add_file_flags(add_data_flags(parser, list(DATASETS), None, paths), None)


def add_file_flags(group, input_size):
    """Adds the flags of images in files to the group of the data.

    input_size: default of --input_size in pixels, or None.
    """
    note = "" if input_size else " (default: that of the file's network, else 224)"
    group.add_argument(
        "--input_size",
        type=side,
        default=input_size,
        help=f"height and width of the network's input in pixels{note}",
    )
    group.add_argument(
        "--val_labels",
        metavar="FILE",
        help="list of labels, one line per image, if val is a flat folder",
    )
