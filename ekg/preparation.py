"""Prepares a run: first every check that can fail, then the folder of the run."""

import contextlib
import dataclasses
import functools
import os

import numpy as np

from dataloader import Dataset
from dataloader.sampling import select_subsets
from distribution.machines import cluster_from, meet
from distribution.runtime import Runtime, hardware, make_runtime
from ekg.budget import budget_of
from ekg.filter_rule import FilterRule
from ekg.paper_networks import PaperSubject
from ekg.predicted_time import times_for
from engine.adoption import find_search
from engine.board import Board
from engine.broken import BrokenImages
from engine.configuration import ADOPTED, DATA, check_agreement, described, versions
from engine.console import Console
from engine.layer_times import LayerTimes
from engine.networks import Networks
from engine.run import Run
from engine.run_files import STAGES, TIMES, UNFINISHED
from engine.run_folder import RunFolder, check_folder
from engine.signals import deferred
from files.guards import LARGEST
from utils import UserError


@dataclasses.dataclass
class Prepared:
    """The result of the checks; nothing is written yet."""

    data: Dataset
    val: np.ndarray  # D_val, indices into the training set
    subset: np.ndarray  # D_subset
    runtime: Runtime
    networks: Networks
    described: dict  # the settings that decide the results, for config.json
    times: LayerTimes | None  # for a search in time


@contextlib.contextmanager
def opened(options, subject=None, prints=True):
    """Yields the Run for `options`.

    subject: engine.networks.Subject, None for a network of the paper; prints: whether it prints.

    Raises UserError before it writes anything if the run is not possible.
    """
    subject = subject or PaperSubject(options)
    if subject.computes and cluster_from() is not None:
        raise UserError("a Keras model is pruned on one machine; unset TF_CONFIG")
    with contextlib.closing(meet()) as machines:
        console = Console(prints=prints and machines.chief)
        prepared = prepare(options, subject, machines, console)
        folder = _open_folder(options, prepared, machines)
        with contextlib.closing(folder), deferred():
            if prepared.times and folder.writes and not folder.has(TIMES):
                prepared.times.save(folder.file(TIMES))
            if folder.writes and not folder.locked and not folder.finished:
                console.say(
                    f"{options.train_path}: this file system has no locks; make sure that no other"
                    " process works there"
                )
            if prepared.networks.trained:
                console.say(f"starts from {prepared.networks.source}")
            if options.search_from:
                console.say(f"the search is that of {options.search_from}")
            broken = BrokenImages(prepared.data, folder, machines)
            if not folder.finished:
                broken.load()
            yield Run(
                options=options,
                data=prepared.data,
                val=prepared.val,
                subset=prepared.subset,
                runtime=prepared.runtime,
                folder=folder,
                console=console,
                broken=broken,
                board=Board(folder),
                networks=prepared.networks,
                times=prepared.times,
            )
        machines.exchange(None)  # wait: other machines may still compute with this one


def check(options):
    """Raises the UserErrors of `opened`, except those about the run folder; writes nothing."""
    with contextlib.closing(meet()) as machines:
        prepare(options, PaperSubject(options), machines, Console(prints=False), measures=False)


def prepare(options, subject, machines, console, measures=True):
    """Runs all checks that do not need the run folder; returns Prepared. Raises UserError.

    subject: engine.networks.Subject.
    measures: whether it measures times of layers, if the search needs them and there is no file.
    """
    # Only the chief looks into the folder before it exists: on the other machines, shared storage
    # may cache that it is missing.
    begun = machines.exchange(machines.chief and _has_baseline(options))[0]
    share = machines.index, len(machines.addresses)
    devices = functools.cache(lambda: make_runtime(options.device, machines))
    with machines.together():
        if subject.computes:
            devices()
        data = subject.data(share)
        subsets = options.subsets
        sizes = subsets.val_per_class, subsets.subset_per_class
        labels, count = data.strata
        val, subset = select_subsets(labels, count, *sizes, subsets.seed, data.class_names)
        _check_knowledge(len(val), data.classes)
        if data.encoded:
            data.x_test.check()
        start = subject.find(begun)
    # A resumed run may change these settings, but all machines need the same ones: they decide when
    # machines exchange values.
    alike = {
        "--steps_per_call": options.feed.steps_per_call,
        "--resident_mib": options.feed.resident_mib,
    }
    check_agreement(machines, described(options, start, options.device.accum) | alike, data)

    runtime, lines = devices()
    runtime = subject.runtime(runtime)
    for line in (*data.notes, *lines):
        console.say(line)
    networks = subject.networks(data, runtime.strategy)
    network = networks.start() if networks.trained else networks.new()
    _check_batches(options, runtime, data, len(val), len(subset), baseline=not networks.trained)

    described_run = described(options, start, runtime.parts) | {DATA: data.digest}
    if data.encoded:
        # Each machine trains on its own files, so the number of machines decides which images are
        # in a batch together.
        described_run["machines"] = len(machines.addresses)
    # Last, because it may take a minute.
    free = lambda: check_folder(options.train_path, described_run, options.overwrite)
    times = times_for(options, network, runtime, machines, console, free if measures else None)
    if times or options.search.target == "flops":
        rule = FilterRule.of(network, options.search)
        budget_of(network, options.search, times).check_reachable(rule, network.arch)
    return Prepared(data, val, subset, runtime, networks, described_run, times)


def _open_folder(options, prepared, machines):
    """The RunFolder. It already holds the search of --search_from."""
    adopted = None
    with machines.together():
        if options.search_from and machines.chief:
            adopted = find_search(options, prepared.described)
    described_run = dict(prepared.described)
    if options.search_from:
        described_run[ADOPTED] = machines.exchange(adopted and adopted.identity)[0]
    made_with = versions() | {"hardware": hardware()}
    return RunFolder(
        options.train_path, described_run, made_with, machines, options.overwrite, adopted
    )


def _has_baseline(options):
    """Whether this run has started to train a baseline before, or takes one from --search_from."""
    paths = []
    if not options.overwrite:
        names = STAGES["baseline"], UNFINISHED["baseline"]
        paths += [os.path.join(options.train_path, name) for name in names]
    if options.search_from:
        paths.append(os.path.join(options.search_from, STAGES["baseline"]))
    return any(map(os.path.exists, paths))


def _check_knowledge(images, classes):
    """Raises UserError if T would make the search's state file too large to be read."""
    size = 4 * images * classes
    if size > 0.9 * LARGEST:
        raise UserError(
            f"--val_per_class: the ensemble knowledge of {images:,} images and {classes:,} classes"
            f" takes {size / 2**30:.1f} GiB, more than the {0.9 * LARGEST / 2**30:.1f} GiB that are"
            " allowed; ask for fewer images per class"
        )


def _check_batches(options, runtime, data, val, subset, baseline):
    """Raises UserError if a batch does not divide into replicas and parts.

    A batch size larger than its set is the set.

    Args:
        options: Options.
        runtime: Runtime.
        data: Dataset.
        val: number of images in D_val.
        subset: number of images in D_subset.
        baseline: whether the run trains a baseline.
    """
    train, test, machines = len(data.y_train), len(data.y_test), len(runtime.machines.addresses)
    batches = [
        ("--val_batch_size", options.val_batch_size, images) for images in (train, test, subset)
    ]
    batches.append(("--search_batch_size", options.subsets.batch_size, val))
    if baseline:
        batches.append(("--baseline_batch_size", options.baseline.batch_size, train))
    if options.warm_up.epochs:
        batches.append(("--search_warmup_batch_size", options.warm_up.batch_size, subset))
    if options.fine_tuning.epochs:
        batches.append(("--batch_size", options.fine_tuning.batch_size, train))
    for flag, size, images in batches:
        runtime.check_batch(flag, min(size, images))
        trains = flag in ("--batch_size", "--baseline_batch_size")
        if trains and data.encoded and not data.x_train.steps(size):
            raise UserError(
                f"{flag}: each of {machines} machines takes its part of a batch of"
                f" {min(size, images)} from its own files, but one has only"
                f" {data.x_train.fewest} images"
            )
