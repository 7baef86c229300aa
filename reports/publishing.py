"""A network of a run as a file for others, float16, with its model card."""

import argparse
import dataclasses
import hashlib
import os
import sys
import tempfile

from cli.network_file import read_network_file
from cli.options import device_options
from dataloader import DATASETS, load_dataset
from engine.run_files import SIDES
from nets.catalogue import BUILDERS, file_stem
from nets.parameters import half, write_parameters
from reports.model_card import card
from reports.reader import written_by_a_run
from utils import UserError, rename, whole_file, writing_to


def publish(run, args, command):
    """Measures the network as float16 and writes file and card; returns the card's text.

    Args:
        run: Run.
        args: parsed flags of publish.py.
        command: of the run, for the card.

    Raises UserError if the run has no such network, its data are others, or `args.out` cannot be
    written.
    """
    source = source_of(run, args.network)
    given = read_source(run, source, args)
    from distribution.startup import import_tensorflow

    import_tensorflow()
    network = given.build_alone()
    path = os.path.join(args.out, name_of(network, given, args.network, run) + ".pkl")
    check_out(args.out, path, args.overwrite)
    figures, images = measure(run, given, args)
    with writing_to("--out", args.out):
        return write(run, given, args, (path, figures, images, command))


def source_of(run, side):
    """The parameter file of the run that holds the network. Raises UserError without one."""
    if run.options["start"].startswith("model"):
        raise UserError(f"{run.path} has pruned a Keras model; share its pruned.keras instead")
    if side == "pruned" and not run.finished:
        raise UserError(f"{run.path} is not finished; start its command again to finish it")
    stage = "baseline"
    if side == "pruned":
        stage = "fine_tuning" if run.fine_tunes else "extraction"
    path = run.parameter_file(stage)
    if path is None and side == "baseline":
        raise UserError(f"{run.path} has trained no baseline, or has not finished it")
    if path is None:
        raise UserError(f"{run.path} has lost its pruned network; start its command again")
    return path


def read_source(run, source, args):
    """The NetworkFile of the network, with the values that float16 can hold."""
    options = run.options
    config = os.path.join(run.path, "config.json")
    if options["arch"] not in BUILDERS or options["dataset"] not in DATASETS:
        what = f"{options['arch']} on {options['dataset']}"
        raise UserError(f"{config} is of {what}, which this program does not know")
    flags = argparse.Namespace(arch=options["arch"], dataset=options["dataset"])
    flags.width_multiplier, flags.input_size, flags.val_labels = None, None, args.val_labels
    with written_by_a_run(config):
        if options.get("files") is not None:
            flags.input_size = options["files"]["input_size"]
            flags.val_labels = args.val_labels or options["files"]["val_labels"]
    given = read_network_file(source, flags)
    return dataclasses.replace(given, parameters=half(given.parameters, source))


def name_of(network, given, side, run):
    """The name of the network's file, without its ending: see nets.catalogue.file_stem.

    The name of a pruned network also has the share of the FLOPs that is left, in percent.
    """
    name = file_stem(given.arch, given.dataset, network.width_multiplier)
    if side == "baseline":
        return name
    before, after = (run.sides[each]["flops"] for each in SIDES)
    return f"{name}-{round(100 * after / before)}"


def check_out(folder, path, overwrite):
    """Raises UserError if file and card cannot be written, or would replace others."""
    if not os.path.isdir(folder):
        raise UserError(f"--out {folder} is no folder; make it, or choose another")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder} may not be written; choose another folder")
    for there in filter(os.path.exists, (path, card_path(path))):
        if not overwrite or os.path.isdir(there):
            raise UserError(f"{there} exists; choose another --out, or --overwrite")


def card_path(path):
    return f"{path.removesuffix('.pkl')}.md"


def measure(run, given, args):
    """(dict of figures, (training images, test images)) of the network."""
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from engine.console import Console
    from engine.evaluation import Evaluator
    from nets import unpruned_cost

    data = load_dataset(given.dataset, args.data_path or run.options["data_path"], given.files)
    if run.options.get("data") not in (None, data.digest):
        raise UserError("--data_path holds other data than the run's; choose another")
    runtime, lines = make_runtime(device_options(args), Alone())
    size = min(args.val_batch_size, len(data.y_test))
    runtime.check_batch("--val_batch_size", size)
    with runtime.strategy.scope():
        network = given.build(data)
    evaluator = Evaluator(network, runtime, data.augmentation, data.x_test, data.y_test, size)
    print("".join(f"{line}\n" for line in (*data.notes, *lines)), end="", file=sys.stderr)
    console = Console()
    figures = evaluator(lambda batches: console.bar(batches, "evaluation"))
    flops, params = network.cost()
    shape = network.arch, network.classes, network.input_size, network.width_multiplier
    figures |= {"flops": flops, "params": params, "flops_rate": flops / unpruned_cost(*shape)[0]}
    return figures, (len(data.y_train), len(data.y_test))


def write(run, given, args, facts):
    """Writes file and card, whole or not at all, and returns the card's text.

    facts: path, figures, images and command, as for the card.
    """
    path, figures, images, command = facts
    meta = {"arch": given.arch, "dataset": given.dataset, **given.variant}
    if given.files:
        meta["input_size"] = given.files.input_size
    with tempfile.TemporaryDirectory(prefix=".publish", dir=args.out) as folder:
        new = os.path.join(folder, os.path.basename(path))
        write_parameters(new, given.parameters, meta, dtype="float16")
        with open(new, "rb") as content:
            sha256 = hashlib.sha256(content.read()).hexdigest()
        file = {"path": path, "bytes": os.path.getsize(new), "sha256": sha256}
        text = card(run, args.network, file, figures, images, command, args.licence)
        with whole_file(card_path(new)) as out:
            out.write(text.encode("utf-8", "replace"))  # names of files may be of no encoding
        rename(new, path)
        rename(card_path(new), card_path(path))
    return text
