"""The whole method in order: baseline, warm-up, search, memory bank, extraction, fine-tuning, closing figures.

`prune` is the driver and reads top to bottom; the stages are in ekg.stages.
"""

import contextlib
import os

from dataloader import load_dataset
from dataloader.sampling import select_subsets
from distribution.machines import meet
from distribution.runtime import hardware, make_runtime
from ekg import stages
from ekg.search import check_reachable
from engine.adoption import find_search
from engine.configuration import ADOPTED, check_agreement, described, versions
from engine.console import Console
from engine.evaluation import latencies_ms
from engine.report import closing_table, write_figures
from engine.run import Run
from engine.run_folder import SIDES, STAGES, UNFINISHED, RunFolder, own_files
from engine.signals import patience
from files.guards import LARGEST
from nets import build_network, variant_of
from nets.parameters import check_saved_for, read_parameters
from utils import UserError, digest


def prune(options):
    """Runs the method as `options` (Options) say. Raises UserError before anything is written if it cannot be done.

    What a former start of the same run has done is not done again.
    """
    _open_and_do(options, _prune)


def train_baseline(options):
    """Trains the baseline that `prune` would train, and leaves it in the run folder as baseline_param.pkl. Raises as `prune`."""
    _open_and_do(options, _baseline)


def check(options):
    """Raises UserError where `prune` would for another reason than the run folder, and writes nothing."""
    with contextlib.closing(meet()) as machines:
        _checked(options, machines, Console(speaks=False))


def _open_and_do(options, work):
    with contextlib.closing(meet()) as machines:
        console = Console(speaks=machines.chief)
        run, parameters = _prepare(options, machines, console)
        with contextlib.closing(run.folder), patience():
            work(run, parameters)
        machines.exchange(None)  # none leaves while another still computes with it


def _prune(run, parameters):
    options, folder = run.options, run.folder
    if folder.finished:
        run.console.say(f"{folder.path} holds this run, finished; nothing is left to do (--overwrite starts afresh)")
        run.console.say(closing_table(folder.result, len(run.data.y_test)))
        return
    start = _baseline(run, parameters)
    with folder.stage("warm_up"):
        supernet = stages.warm_up(run, start)
    with folder.stage("search"):
        search, state = stages.search(run, supernet)
    bank = None
    if options.fine_tuning.epochs and options.finetune_teacher == "ensemble":
        with folder.stage("memory_bank"):
            bank = stages.build_bank(run, supernet, search, state)
    with folder.stage("extraction"):
        pruned = stages.extract(run, supernet, search.masks_of(state.history[-1]))
    if options.fine_tuning.epochs:
        with folder.stage("fine_tuning"):
            pruned = stages.fine_tune(run, pruned, supernet, bank)
    _finish(run, start, pruned, search.filters_of(state.history[-1]))


def _baseline(run, parameters):
    """The network to start from; parameters: its arrays where it is given."""
    run.recall_broken()
    with run.folder.stage("baseline"):
        return stages.baseline(run, parameters)


def _prepare(options, machines, console):
    """(Run, parameters of the starting network or None): every check that can fail comes before the folder is made."""
    run, parameters, described_run, source = _checked(options, machines, console)
    with machines.together():
        adopted = find_search(options, described_run) if options.search_from and machines.chief else None
    if options.search_from:
        described_run |= {ADOPTED: machines.exchange(adopted and adopted.told)[0]}
    made_with = versions() | {"hardware": hardware()}
    run.folder = folder = RunFolder(options.train_path, described_run, made_with, machines, options.overwrite, adopted)
    if folder.writes and not folder.locked and not folder.finished:
        console.say(f"{options.train_path}: this file system has no locks, so see that no other process works there")
    if source:
        console.say(f"starts from {source}")
    if options.search_from:
        console.say(f"the search is that of {options.search_from}")
    return run, parameters


def _checked(options, machines, console):
    """(Run without a folder, parameters of the starting network or None, what it computes, the file it starts from or None)."""
    # The chief alone looks into the folder before it is made: elsewhere shared storage might remember that it was not there.
    begun = machines.exchange(machines.chief and _has_baseline(options))[0]
    share = machines.index, len(machines.addresses)
    with machines.together():
        data = load_dataset(options.dataset, options.data_path, options.files, share)
        subsets = options.subsets
        sizes = subsets.val_per_class, subsets.subset_per_class
        val, subset = select_subsets(data.y_train, data.classes, *sizes, subsets.seed, data.class_names)
        _check_knowledge(len(val), data.classes)
        if data.encoded:
            data.x_test.check()
        source, parameters, variant, start = _start(options, begun)
    # What a run may go on with otherwise, machines have to do alike: it decides which exchanges of theirs meet.
    alike = {"--steps_per_call": options.feed.steps_per_call, "--resident_mib": options.feed.resident_mib}
    check_agreement(machines, described(options, start, options.device.accum) | alike, data)

    runtime, lines = make_runtime(options.device, machines)
    for line in (*data.notes, *lines):
        console.say(line)
    built = dict(origin=source, seed=options.seed, **variant)
    network = build_network(options.arch, data.classes, data.input_size, parameters, **built)
    check_reachable(network, options.search.target_rate)

    _check_batches(options, runtime, data, len(val), len(subset), baseline=not source)

    described_run = described(options, start, runtime.parts)
    if data.encoded:  # each machine trains on its own files, so their number decides which images meet in a batch
        described_run |= {"machines": len(machines.addresses), "data": data.digest()}
    run = Run(options, data, val, subset, runtime, None, console, variant)
    return run, parameters, described_run, source


def _has_baseline(options):
    """Whether this run has begun a baseline of its own before, or adopts one."""
    own = [] if options.overwrite else [os.path.join(options.train_path, files["baseline"]) for files in (STAGES, UNFINISHED)]
    theirs = [os.path.join(options.search_from, STAGES["baseline"])] if options.search_from else []
    return any(map(os.path.exists, own + theirs))


def _start(options, begun):
    """(file or None, its arrays or None, variant, what tells this start from any other) of the network a run begins with.

    begun: as _has_baseline says; variant: see nets.variant_of.
    """
    source = options.trained_param or (None if begun else pretrained(options))
    if not source:
        variant = variant_of({}, None, options.width_multiplier)
        return None, None, variant, f"a baseline trained here{_told(variant)}"
    if options.overwrite and os.path.realpath(source) in map(os.path.realpath, own_files(options.train_path)):
        raise UserError(f"--overwrite would delete {source}, which the run starts from; copy it to another place first")
    parameters, meta = read_parameters(source)
    for key, ours in (("arch", options.arch), ("dataset", options.dataset)):
        check_saved_for(source, meta, key, ours)
    variant = variant_of(meta, source, options.width_multiplier)
    return source, parameters, variant, f"parameters {digest(parameters)}{_told(variant)}"


def _told(variant):
    """What of a variant is out of the ordinary, in words."""
    usual = variant_of({}, None)
    return "".join(f", {key.replace('_', ' ')} {value}" for key, value in variant.items() if value != usual[key])


def _check_knowledge(images, classes):
    """Raises UserError where the search's state, which is mostly T, would not be read again."""
    size = 4 * images * classes
    if size > 0.9 * LARGEST:
        raise UserError(
            f"--val_per_class: the ensemble knowledge of {images:,} images and {classes:,} classes takes {size / 2**30:.1f} GiB, "
            f"and {0.9 * LARGEST / 2**30:.1f} GiB are the most; ask for fewer images a class"
        )


def _check_batches(options, runtime, data, val, subset, baseline):
    """Raises UserError if a batch that the run will take does not divide; a batch larger than its set is the set."""
    train, test, machines = len(data.y_train), len(data.y_test), len(runtime.machines.addresses)
    batches = [("--val_batch_size", options.val_batch_size, images) for images in (train, test, subset)]
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
                f"{flag}: of a batch of {min(size, images)} each of {machines} machines takes its part from its own files, and "
                f"one has {data.x_train.fewest} images only"
            )


def pretrained(options):
    """pretrained/ARCH_DATASET.pkl or .npz beside the programs, of another width ARCH-WIDTH_DATASET, if there is one."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    width = "" if options.width_multiplier in (None, 1) else f"-{options.width_multiplier:g}"
    stem = os.path.join(here, "pretrained", f"{options.arch}{width}_{options.dataset}")
    return next((stem + ending for ending in (".pkl", ".npz") if os.path.exists(stem + ending)), None)


def _finish(run, start, pruned, filters):
    """result.json, figures, closing table. filters: int [G], those kept at each gate of `start`."""
    folder, entries = run.folder, {}
    times = latencies_ms([start, pruned], run.runtime)
    for name, network, latency in zip(SIDES, (start, pruned), times):
        with folder.stage(f"evaluation of {name}"):
            figures = run.evaluator(network)(lambda batches, name=name: run.bar(batches, f"evaluation of {name}"))
        flops, params = network.cost()
        entries[name] = {key: figures[key] for key in ("top1", "top5", "loss")}
        entries[name] |= {"params": params, "flops": flops, "latency_ms": round(latency, 3)}
    if run.data.encoded:
        entries["broken"] = run.broken()
    entries["flops_rate"] = entries["pruned"]["flops"] / entries["baseline"]["flops"]
    run.heed()  # for the last time: what follows is short, and then the run is finished
    figures = ""
    if folder.writes:
        lines = folder.lines("search.jsonl"), folder.lines("training.jsonl")
        layers = start.layer_filters(), start.layer_filters(filters)
        figures = write_figures(folder.file("figures"), *lines, *layers, run.options.finetune_teacher != "none")
    folder.update_result(**entries)
    run.console.say(closing_table(folder.result, len(run.data.y_test)))
    result = "trained_param.pkl" if run.options.fine_tuning.epochs else "slimmed_param.pkl"
    run.console.say(f"{folder.file(result)} is the result; {figures}")
