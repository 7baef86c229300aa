"""The whole method in order: baseline, warm-up, search, memory bank, extraction, fine-tuning, closing figures.

`prune` is the driver and reads top to bottom; the stages are in ekg.stages.
"""

import os

from dataloader import load_dataset
from dataloader.sampling import select_subsets
from ekg import stages
from ekg.evaluation import latencies_ms
from ekg.importance import filters_kept
from ekg.progress import Console
from ekg.report import closing_table, write_figures
from ekg.run_folder import RunFolder, versions
from ekg.search import check_reachable
from nets import build_network
from op_utils import make_runtime
from utils import UserError, read_parameters


def prune(options):
    """Runs the method as `options` (Options) say. Raises UserError before anything is written if it cannot be done."""
    console = Console()
    run, parameters = _prepare(options, console)
    folder = run.folder
    if "pruned" in folder.result:
        console.say(f"{folder.path} holds this run, finished; nothing is left to do")
        console.say(closing_table(folder.result, len(run.data.y_test)))
        return
    with folder.stage("baseline"):
        start = stages.baseline(run, parameters)
    with folder.stage("warm_up"):
        supernet = stages.warm_up(run, start)
    with folder.stage("search"):
        search, state = stages.search(run, supernet)
    bank = None
    if options.fine_tuning.epochs:
        with folder.stage("memory_bank"):
            bank = stages.build_bank(run, supernet, search, state)
    with folder.stage("extraction"):
        pruned = stages.extract(run, supernet, search.masks_of(state.history[-1]))
    if options.fine_tuning.epochs:
        with folder.stage("fine_tuning"):
            pruned = stages.fine_tune(run, pruned, bank)
    _finish(run, start, pruned)


def _prepare(options, console):
    """(Run, parameters of the starting network or None): every check that can fail comes before the folder is made."""
    data = load_dataset(options.dataset, options.data_path)
    runtime, said = make_runtime(options.device.gpu_id, options.device.compile, options.device.accum)
    if said:
        console.say(said)
    subsets = options.subsets
    val, subset = select_subsets(data.y_train, data.classes, subsets.val_per_class, subsets.subset_per_class, subsets.seed)
    source = options.trained_param or _pretrained(options)
    parameters = None
    if source:
        parameters, meta = read_parameters(source)
        for key, ours in (("arch", options.arch), ("dataset", options.dataset)):
            if meta.get(key, ours) != ours:
                raise UserError(f"{source} was saved for --{key} {meta[key]}, not {ours}")
    network = build_network(options.arch, data.classes, data.input_size, parameters, origin=source, seed=options.seed)
    check_reachable(network, options.search.target_rate)

    _check_batches(options, runtime, len(data.y_train), len(data.y_test), len(val), len(subset), baseline=not source)

    folder = RunFolder(options.train_path, options, versions())
    if source:
        console.say(f"starts from {source}")
    return stages.Run(options, data, val, subset, runtime, folder, console), parameters


def _check_batches(options, runtime, train, test, val, subset, baseline):
    """Raises UserError if a batch that the run will take does not divide; a batch larger than its set is the set."""
    batches = [("--val_batch_size", options.val_batch_size, images) for images in (train, test, subset)]
    batches.append(("--search_batch_size", options.subsets.batch_size, val))
    if baseline:
        batches.append(("--baseline_batch_size", options.baseline.batch_size, train))
    if options.warm_up.epochs:
        batches.append(("--search_warmup_epoch", options.warm_up.batch_size, subset))
    if options.fine_tuning.epochs:
        batches.append(("--batch_size", options.fine_tuning.batch_size, train))
    for flag, size, images in batches:
        runtime.check_batch(flag, min(size, images))


def _pretrained(options):
    """pretrained/ARCH_DATASET.pkl beside the programs, if there is one."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(here, "pretrained", f"{options.arch}_{options.dataset}.pkl")
    return path if os.path.exists(path) else None


def _finish(run, start, pruned):
    """result.json, figures, closing table."""
    folder, entries = run.folder, {}
    times = latencies_ms([start, pruned], run.runtime.compile)
    for name, network, latency in zip(("baseline", "pruned"), (start, pruned), times):
        figures = run.evaluator(network)(lambda batches, name=name: run.console.bar(batches, f"evaluation of {name}"))
        flops, params = network.cost()
        entries[name] = {key: figures[key] for key in ("top1", "top5", "loss")}
        entries[name] |= {"params": params, "flops": flops, "latency_ms": round(latency, 3)}
    entries["flops_rate"] = entries["pruned"]["flops"] / entries["baseline"]["flops"]
    search = folder.lines("search.jsonl")
    sizes = start.gate_sizes
    kept = filters_kept(sizes, search[-1]["widths"])
    figures = write_figures(
        folder.file("figures"), search, [gate.name for gate in start.gates], sizes, kept, folder.lines("training.jsonl")
    )
    folder.update_result(**entries)
    run.console.say(closing_table(folder.result, len(run.data.y_test)))
    result = "trained_param.pkl" if run.options.fine_tuning.epochs else "slimmed_param.pkl"
    run.console.say(f"{folder.file(result)} is the result; {figures}")
