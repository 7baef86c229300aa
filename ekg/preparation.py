"""What comes before the stages: every check that can fail, then the folder of the run."""

import contextlib
import dataclasses
import os

import numpy as np

from dataloader import Dataset, load_dataset
from dataloader.sampling import select_subsets
from distribution.machines import meet
from distribution.runtime import Runtime, hardware, make_runtime
from ekg.search import check_reachable
from engine.adoption import find_search
from engine.board import Board
from engine.broken import BrokenImages
from engine.configuration import ADOPTED, check_agreement, described, versions
from engine.console import Console
from engine.run import Run
from engine.run_files import STAGES, UNFINISHED, own_files
from engine.run_folder import RunFolder
from engine.signals import deferred
from files.guards import LARGEST
from nets import build_network, variant_of
from nets.parameters import check_saved_for, read_parameters
from utils import UserError, digest


@dataclasses.dataclass
class Prepared:
    """What the checks have found out; nothing is written yet."""

    data: Dataset
    val: np.ndarray  # D_val, indices into the training set
    subset: np.ndarray  # D_subset
    runtime: Runtime
    source: str | None  # the file the run starts from; None: a baseline is trained here
    given: dict | None  # its arrays by name
    variant: dict  # see nets.variant_of
    described: dict  # what the run computes, for config.json


@contextlib.contextmanager
def opened(options):
    """Gives the Run that `options` describe. Raises UserError, before anything is written, if it
    cannot be done.
    """
    with contextlib.closing(meet()) as machines:
        console = Console(prints=machines.chief)
        prepared = prepare(options, machines, console)
        folder = _open_folder(options, prepared, machines)
        with contextlib.closing(folder), deferred():
            if folder.writes and not folder.locked and not folder.finished:
                console.say(
                    f"{options.train_path}: this file system has no locks; make sure that no other"
                    " process works there"
                )
            if prepared.source:
                console.say(f"starts from {prepared.source}")
            if options.search_from:
                console.say(f"the search is that of {options.search_from}")
            p, broken = prepared, BrokenImages(prepared.data, folder, machines)
            if not folder.finished:
                broken.load()
            yield Run(
                options,
                p.data,
                p.val,
                p.subset,
                p.runtime,
                folder,
                console,
                broken,
                Board(folder),
                p.given,
                p.variant,
            )
        machines.exchange(None)  # no machine leaves while another one still computes with it


def check(options):
    """Raises UserError where `opened` would, unless because of the run folder; writes nothing."""
    with contextlib.closing(meet()) as machines:
        prepare(options, machines, Console(prints=False))


def prepare(options, machines, console):
    """The Prepared of a run: all checks that do not need its folder. Raises UserError."""
    # The chief alone looks into the folder before it is made: elsewhere shared storage might
    # remember that it was not there.
    begun = machines.exchange(machines.chief and _has_baseline(options))[0]
    share = machines.index, len(machines.addresses)
    with machines.together():
        data = load_dataset(options.dataset, options.data_path, options.files, share)
        subsets = options.subsets
        sizes = subsets.val_per_class, subsets.subset_per_class
        val, subset = select_subsets(
            data.y_train, data.classes, *sizes, subsets.seed, data.class_names
        )
        _check_knowledge(len(val), data.classes)
        if data.encoded:
            data.x_test.check()
        source, given, variant, start = _start(options, begun)
    # What a run may go on with otherwise, machines have to do alike: it decides which exchanges of
    # theirs meet.
    alike = {
        "--steps_per_call": options.feed.steps_per_call,
        "--resident_mib": options.feed.resident_mib,
    }
    check_agreement(machines, described(options, start, options.device.accum) | alike, data)

    runtime, lines = make_runtime(options.device, machines)
    for line in (*data.notes, *lines):
        console.say(line)
    built = dict(origin=source, seed=options.seed, **variant)
    network = build_network(options.arch, data.classes, data.input_size, given, **built)
    check_reachable(network, options.search.target_rate)

    _check_batches(options, runtime, data, len(val), len(subset), baseline=not source)

    described_run = described(options, start, runtime.parts)
    if (
        data.encoded
    ):  # each machine trains on its own files, so their number decides which images meet in a batch
        described_run |= {"machines": len(machines.addresses), "data": data.digest()}
    return Prepared(data, val, subset, runtime, source, given, variant, described_run)


def _open_folder(options, prepared, machines):
    """The RunFolder, with the search that is taken over already in it."""
    with machines.together():
        adopted = (
            find_search(options, prepared.described)
            if options.search_from and machines.chief
            else None
        )
    described_run = prepared.described
    if options.search_from:
        described_run |= {ADOPTED: machines.exchange(adopted and adopted.identity)[0]}
    made_with = versions() | {"hardware": hardware()}
    return RunFolder(
        options.train_path, described_run, made_with, machines, options.overwrite, adopted
    )


def _has_baseline(options):
    """Whether this run has begun a baseline of its own before, or adopts one."""
    own = (
        []
        if options.overwrite
        else [os.path.join(options.train_path, files["baseline"]) for files in (STAGES, UNFINISHED)]
    )
    theirs = [os.path.join(options.search_from, STAGES["baseline"])] if options.search_from else []
    return any(map(os.path.exists, own + theirs))


def _start(options, begun):
    """(file or None, its arrays or None, variant, what tells this start from any other) of the
    network a run begins with.

    begun: as _has_baseline says; variant: see nets.variant_of.
    """
    source = options.trained_param or (None if begun else pretrained(options))
    if not source:
        variant = variant_of({}, None, options.width_multiplier)
        return None, None, variant, f"a baseline trained here{_unusual(variant)}"
    if options.overwrite and os.path.realpath(source) in map(
        os.path.realpath, own_files(options.train_path)
    ):
        raise UserError(
            f"--overwrite would delete {source}, which the run starts from; copy it to another"
            " place first"
        )
    parameters, meta = read_parameters(source)
    for key, ours in (("arch", options.arch), ("dataset", options.dataset)):
        check_saved_for(source, meta, key, ours)
    variant = variant_of(meta, source, options.width_multiplier)
    return source, parameters, variant, f"parameters {digest(parameters)}{_unusual(variant)}"


def _unusual(variant):
    """What of a variant is out of the ordinary, in words."""
    usual = variant_of({}, None)
    return "".join(
        f", {key.replace('_', ' ')} {value}"
        for key, value in variant.items()
        if value != usual[key]
    )


def _check_knowledge(images, classes):
    """Raises UserError where the search's state, which is mostly T, would not be read again."""
    size = 4 * images * classes
    if size > 0.9 * LARGEST:
        raise UserError(
            f"--val_per_class: the ensemble knowledge of {images:,} images and {classes:,} classes"
            f" takes {size / 2**30:.1f} GiB, and {0.9 * LARGEST / 2**30:.1f} GiB are the most; ask"
            " for fewer images a class"
        )


def _check_batches(options, runtime, data, val, subset, baseline):
    """Raises UserError if a batch that the run will take does not divide; a batch larger than its
    set is the set.
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
                f"{flag}: of a batch of {min(size, images)} each of {machines} machines takes its"
                f" part from its own files, and one has {data.x_train.fewest} images only"
            )


def pretrained(options):
    """pretrained/ARCH_DATASET.pkl or .npz beside the programs, of another width ARCH-WIDTH_DATASET,
    if there is one.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    width = "" if options.width_multiplier in (None, 1) else f"-{options.width_multiplier:g}"
    stem = os.path.join(here, "pretrained", f"{options.arch}{width}_{options.dataset}")
    return next(
        (stem + ending for ending in (".pkl", ".npz") if os.path.exists(stem + ending)), None
    )
