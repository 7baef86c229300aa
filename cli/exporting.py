"""Carries out export.py: networks and images for what the flags ask for, then files and table."""

import functools
import json
import sys

import numpy as np
import tensorflow as tf

from cli.export_flags import is_keras
from cli.network_file import read_network_file
from dataloader import load_dataset
from dataloader.arrays import SCALINGS
from dataloader.images import in_batches
from dataloader.own import load_own
from distribution.runtime import hardware
from engine.console import Console
from exports import exportable as made
from exports.exporting import export
from exports.formats import OPSET, TFLITE
from exports.table import cells, table
from exports.targets import size_of, target
from nets.catalogue import PIXELS
from utils import UserError, cores

CHECKED = 64  # images that each file is compared on
REPRESENTATIVE = 200  # training images, for the ranges of int8


def run(args):
    """Writes and checks files, prints the table. args: as from cli.export_flags.parse."""
    tf.config.set_visible_devices([], "GPU")  # exported files run on the CPU here
    paths = {"pruned": args.trained_param}
    if args.against:
        paths = {"dense": args.against, **paths}
    keras_model = is_keras(args.trained_param)
    files = {} if keras_model else network_files(args, paths)
    data = _data(args, files.get("pruned"))
    read = functools.partial(_keras_model, args, data) if keras_model else _network
    exportables = {key: read(files.get(key, path)) for key, path in paths.items()}
    network = exportables["pruned"]
    images = _samples(data, network.image_shape)
    if args.formats:
        dataset = f" for {files['pruned'].dataset}" if files else ""
        write_files(args, network, dataset, images)
    if args.against:
        print_table(args, exportables, data, images)


def write_files(args, network, dataset, images):
    """Exports to args.formats and says what was found; with --json, does not say it.

    network: Exportable; dataset: text behind its name; images: as from _samples.
    """
    say = (lambda line: None) if args.json else print
    sizes, classes = network.image_shape, network.inference.output_shape[-1]
    shape = ", ".join(map(str, sizes))
    say(f"{network.name}{dataset}: uint8 images [B, {shape}], {classes} classes")
    for wanted in args.formats:
        path = target(args.out, args.stem, wanted)
        result = export(network, wanted, path, *images)
        opset = f" opset {OPSET}" if wanted.opener == "onnx" else ""
        say(f"  {path}  ({wanted.name}{opset}, {size_of(path):,} bytes)")
        say(f"    {result.line}")


def print_table(args, exportables, data, images):
    """Prints the four cells, or with --json one object."""
    threads = args.threads or cores()
    console = Console(prints=not args.json)
    found = cells(
        exportables,
        data,
        images,
        threads=threads,
        seconds=args.seconds or 2.0,
        batch_size=args.val_batch_size,
        track=console.bar,
    )
    if args.json:
        print(json.dumps({"hardware": hardware(), "threads": threads, "cells": found}))
        return
    print(
        f"{exportables['pruned'].name} on {data.name}, {len(data.y_test):,} test images; one image"
        f" per call, {threads} threads, {hardware()}"
    )
    print(table(found))


# ----------------------------------------------------------------------------- networks and images


def _data(args, file):
    """The Dataset that is needed, or that costs nothing; None for none.

    file: NetworkFile, None for a Keras model.
    """
    if file is None:
        if args.data_path is None:
            _check_none_needed(args)
            return None
        return load_own(args.data_path, made.image_shape(args.trained_param, args.trust))
    if args.data_path or file.dataset == "DIGITS" or _needs_images(args):
        return load_dataset(file.dataset, args.data_path, file.files)
    return None


def _needs_images(args):
    return args.against or TFLITE["int8"] in args.formats


def _check_none_needed(args):
    if args.against:
        raise UserError("--against needs the test images: give --data_path")
    if _needs_images(args):
        raise UserError("TFLite int8 needs training images: give --data_path, or other --types")


def network_files(args, paths):
    """dict name -> NetworkFile. --trained_key is for the file of --trained_param."""
    keys = {"pruned": args.trained_key}
    files = {name: read_network_file(at, args, keys.get(name)) for name, at in paths.items()}
    for file in files.values():
        if file.note:
            print(file.note, file=sys.stderr)
    return files


def _network(file):
    """The Exportable of a NetworkFile."""
    return made.of_network(file.build_alone(), *PIXELS[file.dataset])


def _keras_model(args, data, path):
    """The Exportable of the Keras model at `path`."""
    from ekg.keras_pixels import expected_pixels, tried_images

    name = args.pixels
    if name is None:
        predict = made.logits_of_file(path, args.trust)
        name, _ = expected_pixels(path, predict, *tried_images(data))
    return made.of_model(path, *SCALINGS[name], args.trust)


def _samples(data, shape):
    """(images to check with, representative images), uint8 [N, *shape].

    Without data: pixels at random, and None.
    """
    rng = np.random.default_rng(0)
    if data is None:
        return rng.integers(0, 256, (CHECKED, *shape), np.uint8), None
    found = [
        _sample(images, count, rng)
        for images, count in ((data.x_test, CHECKED), (data.x_train, REPRESENTATIVE))
    ]
    for images in found:
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UserError(
                f"the images are {images.dtype} {list(images.shape[1:])}, but the network takes"
                f" uint8 {list(shape)}; give other --data_path"
            )
    return found


def _sample(images, count, rng):
    """So many images of an array or of EncodedImages, at random."""
    chosen = rng.permutation(len(images))[:count]
    ((_, pixels),) = in_batches(images, [chosen])
    return pixels
