"""The stages around the search: baseline, warm-up, extraction, fine-tuning, comparison.

A stage reads the files of the stages before it, and writes its own file whole or not at all. If
that file already exists, an earlier start of the same run finished the stage: the file is read.
"""

import contextlib
import functools

from dataloader.images import whole_batches
from ekg import extraction
from ekg.contrastive import contrastive_loss, taught_loss
from engine.fitting import fit
from engine.latency import latencies_ms
from engine.plots import write_plots
from engine.report import closing_table
from engine.run import stage
from engine.run_files import SIDES
from op_utils import statistics_step

CALLS = 100  # timed calls per network, of one image each
CALLS_FOR_TARGET = 30  # timed calls per network, at the batch size of a target in time


@stage("baseline")
def baseline(run):
    """The network to start from: the given one, or one trained here."""
    if run.networks.trained:
        return run.networks.start()
    if run.folder.done("baseline"):
        return run.load("baseline")
    network = run.networks.new()
    options = run.options.baseline
    run.console.say(
        f"no trained {network.arch} is given: a baseline is trained first, {options.epochs} epochs"
    )
    fit(run, "baseline", network, options, _plain(run, options))
    run.save(network)
    return network


def _plain(run, options):
    """The loss of the labels alone."""
    return functools.partial(run.networks.task.plain, label_smoothing=options.label_smoothing)


@stage("warm_up")
def warm_up(run, start):
    """The supernet: the starting network after the warm-up on D_subset (METHOD 0, step 2)."""
    if run.folder.done("warm_up"):
        return run.load("warm_up")
    supernet = run.networks.copy(start)
    if run.options.warm_up.epochs:
        options = run.options.warm_up
        fit(
            run,
            "warm_up",
            supernet,
            options,
            _plain(run, options),
            runtime=run.search_runtime,
            indices=run.subset,
            augmented=False,
            evaluate=False,
        )
    run.save(supernet)
    return supernet


# --------------------------------------------------------------------------------- after the search


@stage("extraction")
def extract(run, supernet, chosen):
    """The sub-network `chosen` as a physically smaller network (METHOD 6).

    Masked batch norm does not change the moving averages, so they are re-estimated on D_subset.
    """
    if run.folder.done("extraction"):
        return run.load("extraction")
    pruned = extracted(run, supernet, chosen)
    run.save(pruned)
    flops, params = pruned.cost()
    old_flops, old_params = supernet.cost()
    run.console.say(
        f"extracted: FLOPs {old_flops:,} -> {flops:,}, parameters {old_params:,} -> {params:,}"
    )
    return pruned


def extracted(run, supernet, chosen):
    """The sub-network `chosen` as a Network, with moving averages re-estimated on D_subset."""
    pruned = run.networks.sub_network(supernet, chosen.masks(supernet.gate_sizes))
    step = statistics_step(pruned, run.search_runtime, run.normalised)
    size = min(run.options.val_batch_size, len(run.subset))
    count, batches = whole_batches(run.data.x_train, run.subset, size)
    with contextlib.closing(batches):
        extraction.reestimate(pruned, step, run.bar(batches, "moving averages", count))
    return pruned


@stage("fine_tuning")
def fine_tune(run, pruned, supernet, bank):
    """The fine-tuned network (METHOD 7).

    --finetune_teacher: `ensemble` learns from the bank, `single` from the supernet, `none` from
    the labels alone.
    """
    if run.folder.done("fine_tuning"):
        return run.load("fine_tuning")
    options = run.options.fine_tuning
    task = run.networks.task
    settings = dict(t=run.options.temperature, label_smoothing=options.label_smoothing)
    settings |= dict(plain=task.plain, divergence=task.divergence)
    if bank is not None:
        loss = functools.partial(contrastive_loss, **settings)
        fit(run, "fine_tuning", pruned, options, loss, views=2, bank=bank)
    elif run.options.finetune_teacher == "single":
        loss = functools.partial(taught_loss, **settings)
        fit(run, "fine_tuning", pruned, options, loss, views=2, teacher=supernet)
    else:
        fit(run, "fine_tuning", pruned, options, _plain(run, options))
    run.save(pruned)
    return pruned


# --------------------------------------------------------------------------------------- comparison


def compare(run, start, pruned, chosen):
    """Evaluates both networks; writes result.json and the plots, and prints the closing table.

    start: the network before pruning. pruned: the result. chosen: the extracted SubNetwork.
    """
    folder, entries = run.folder, {}
    times = latencies_ms([start, pruned], run.runtime, 1, CALLS)
    for name, network, latency in zip(SIDES, (start, pruned), times):
        with folder.stage(f"evaluation of {name}"):
            with_bar = lambda batches, name=name: run.bar(batches, f"evaluation of {name}")
            metrics = run.evaluator(network)(with_bar)
        flops, params = network.cost()
        entries[name] = {key: metrics[key] for key in ("top1", "top5", "loss")}
        entries[name] |= {"params": params, "flops": flops, "latency_ms": round(latency, 3)}
    if run.options.search.target == "latency":
        entries["latency"] = _latency(run, start, pruned)
    if run.networks.task.accuracy_name != "top-1":
        entries["accuracy_name"] = run.networks.task.accuracy_name
    if run.data.encoded:
        entries["broken"] = run.broken.count()
    entries["flops_rate"] = entries["pruned"]["flops"] / entries["baseline"]["flops"]
    run.stop_if_asked()  # for the last time: the rest is short, and then the run is finished
    plots = ""
    if folder.writes:
        lines = folder.lines("search.jsonl"), folder.lines("training.jsonl")
        layers = start.layer_filters(), start.layer_filters(chosen.filters)
        has_teacher = run.options.finetune_teacher != "none"
        plots = write_plots(folder.file("figures"), *lines, *layers, has_teacher)
    result = "trained_param.pkl" if run.options.fine_tuning.epochs else "slimmed_param.pkl"
    if folder.writes:
        result = run.networks.deliver(folder.path, result, pruned)
    folder.update_result(**entries)
    run.console.say(closing_table(folder.result, len(run.data.y_test)))
    if result is not None:
        run.console.say(f"{result} is the result; {plots}")


def _latency(run, start, pruned):
    """dict (JSON): the target of a search in time, and the times measured at its batch size."""
    search = run.options.search
    batch = search.latency_batch_size
    times = latencies_ms([start, pruned], run.runtime, batch, CALLS_FOR_TARGET)
    by_side = {side: round(ms, 3) for side, ms in zip(SIDES, times)}
    return {"batch_size": batch, "target_rate": search.target_rate, "ms": by_side}


def say_finished(run):
    """Prints that the run is already finished, and its closing table."""
    run.console.say(
        f"{run.folder.path} holds this run, finished; nothing is left to do (--overwrite starts"
        " afresh)"
    )
    run.console.say(closing_table(run.folder.result, len(run.data.y_test)))
