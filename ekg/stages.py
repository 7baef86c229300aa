"""The stages of a run. Each reads what the stages before it wrote, and writes its own files whole or not at all.

A stage whose file is there already has been done by a former start of the same command: it is read and not done again.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dataloader.augment import augment
from dataloader.sampling import padded_batches
from ekg import extraction, memory_bank
from ekg.contrastive import contrastive_loss, plain_loss
from ekg.feed import Feed
from ekg.progress import duration
from ekg.report import search_line
from ekg.run_folder import WARM
from ekg.search import Search, SearchState
from ekg.sub_networks import SubNetworks
from ekg.training import train
from ekg.validation import Validation
from op_utils import Optimizer, statistics_step, training_step

# Streams of random numbers, so that stages do not share their shuffles.
STREAM = {"baseline": 1, "warm_up": 2, "fine_tuning": 3, "memory_bank": 4}


# -------------------------------------------------------------------------------------------------------------- training


def _fit(run, name, network, options, *, indices=None, views=1, augmented=True, bank=None, evaluate=True):
    """Trains `network` as stage `name`: the one loop of baseline, warm-up and fine-tuning."""
    data, console, folder = run.data, run.console, run.folder
    loss = plain_loss if bank is None else contrastive_loss
    prepare = lambda batch: augment(batch["images"], batch["draws"], data.augmentation, colour=views > 1)
    optimizer = Optimizer(network.trainable, run.runtime)
    arrays = {"images": data.x_train, "labels": data.y_train} | ({} if bank is None else {"bank": bank})
    feed = Feed(arrays, run.runtime, run.options.feed.resident_mib, indices)
    step = training_step(network, optimizer, run.runtime, prepare, loss, feed.tables)
    evaluator = run.evaluator(network) if evaluate else None
    folder.start_lines("training.jsonl", keep=lambda line: line["stage"] != name)

    def on_step(number, figures):
        if run.options.log_every and number % run.options.log_every == 0:
            _scalars(run, f"{name}/step", figures, number)

    def on_epoch(record):
        if evaluator:
            figures = evaluator(lambda batches: console.bar(batches, f"{name} test"))
            record |= {f"test_{key}": value for key, value in figures.items() if key != "images"}
        folder.add_line("training.jsonl", {"stage": name, **record})
        _scalars(run, name, record, record["epoch"])
        test = f", test loss {record['test_loss']:.4f} top-1 {record['test_top1']:.2%}" if evaluator else ""
        console.say(
            f"  {name} epoch {record['epoch']}/{options.epochs}: loss {record['loss']:.4f}, accuracy {record['accuracy']:.2%}"
            f"{test}, {duration(record['seconds'])}"
        )

    settings = dict(seed=[run.options.seed, STREAM[name]], views=views, augmented=augmented)
    settings |= dict(steps_per_call=run.options.feed.steps_per_call)
    hooks = dict(bar=lambda items, label: console.bar(items, f"{name} {label}"), on_step=on_step, on_epoch=on_epoch)
    train(step, feed, options, **settings, **hooks)
    feed.tables.clear()  # the step, which refers to itself, would keep them on the device until it is collected


def _scalars(run, prefix, figures, step):
    with run.board.as_default():
        for key, value in figures.items():
            if isinstance(value, (int, float)):
                tf.summary.scalar(f"{prefix}/{key}", value, step=step)


def baseline(run, parameters):
    """The network to start from: the one given, or one trained here."""
    if parameters is not None:
        return run.network(parameters)
    name = "baseline_param.pkl"
    if run.folder.done(name):
        return run.load(name)
    network = run.network()
    options = run.options.baseline
    run.console.say(f"no trained {network.arch} is given: a baseline is trained first, {options.epochs} epochs")
    _fit(run, "baseline", network, options)
    run.save(name, network)
    run.console.say(f"  kept as {run.folder.file(name)}")
    return network


def warm_up(run, start):
    """The supernet: the starting network after the warm-up on D_subset, no augmentation."""
    if run.folder.done(WARM):
        return run.load(WARM)
    supernet = run.network(start.parameters())
    if run.options.warm_up.epochs:
        _fit(run, "warm_up", supernet, run.options.warm_up, indices=run.subset, augmented=False, evaluate=False)
    run.save(WARM, supernet)
    return supernet


# ---------------------------------------------------------------------------------------------- search, bank, extraction


def search(run, supernet):
    """(Search, SearchState): the history of interim sub-networks, the last one at or under the target."""
    data, options, folder, console = run.data, run.options, run.folder, run.console
    images, labels = data.x_train[run.val], data.y_train[run.val]
    on_val = Validation(supernet, run.runtime, run.normalised, images, labels, options.subsets.batch_size)
    search = Search(supernet, labels, on_val.score, on_val.predict, options.search)
    if folder.done("search_state.npz"):
        shape = len(supernet.gates), int(supernet.gate_sizes.sum()), len(labels)
        return search, SearchState.load(folder.file("search_state.npz"), *shape)
    console.say(f"search to {options.search.target_rate:.0%} of {search.all_flops:,} FLOPs, {len(supernet.gates)} gates")
    folder.start_lines("search.jsonl")
    state, record = search.start()
    goes = 1 - options.search.target_rate
    with console.bar((), "search", total=100) as bar:
        while True:
            folder.add_line("search.jsonl", record)
            _scalars(run, "search", {k: v for k, v in record.items() if k != "step"}, record["step"])
            console.say(search_line(record, supernet.gates))
            if search.done(state):
                break
            bar.show(FLOPs=f"{record['flops_rate']:.1%}", loss=record["loss"], accuracy=f"{record['accuracy']:.1%}")
            bar.to(min(100, round(100 * (1 - record["flops_rate"]) / goes, 1)))
            record = search.advance(state, bar=lambda items: console.bar(items, "candidates"))
            _agree(run.runtime.machines, state)
    if folder.writes:
        state.save(folder.file("search_state.npz"))
    return search, state


def _agree(machines, state):
    """Makes the chief's last step that of all machines; raises FloatingPointError where they have taken different ways.

    They decide from the same logits, but another kind of CPU may round a loss in float64 otherwise.
    """
    last = state.history[-1]
    said = machines.exchange([list(last.rates), last.loss])
    if any(rates != said[0][0] for rates, _ in said):
        raise FloatingPointError("the machines' roundings have led the search different ways; use machines of one kind")
    state.history[-1] = dataclasses.replace(last, loss=said[0][1])


def build_bank(run, supernet, search, state):
    """M float16 [N, classes, K] of the training set, mapped from memory_bank.npy."""
    data, options = run.data, run.options
    path = run.folder.file("memory_bank.npy")
    teachers = memory_bank.teachers_of(state.history, options.num_teacher)
    shape = (len(data.y_train), data.classes, len(teachers))
    if run.folder.done("memory_bank.npy"):
        return memory_bank.open_bank(path, shape)
    # Teachers share little: each is a call of its own.
    predict = SubNetworks(supernet, run.runtime, run.normalised, 1)
    masks = np.stack([search.masks_of(teacher) for teacher in teachers])
    order = memory_bank.build_order(data.y_train, [options.seed, STREAM["memory_bank"]])
    slots = padded_batches(len(order), options.val_batch_size)
    batches = ((order[slot[:real]], {"images": data.x_train[order[slot]]}) for slot, real in slots)
    losses = ", ".join(f"{teacher.loss:.4f}" for teacher in teachers)
    run.console.say(f"memory bank: {len(teachers)} teachers with losses {losses}; {len(order):,} images")
    memory_bank.build(
        path if run.folder.writes else None,
        run.console.bar(batches, "memory bank", len(slots)),
        shape,
        lambda batch: predict(batch, masks),
    )
    run.runtime.machines.exchange(None)  # the other machines wait until the chief has written it
    return memory_bank.open_bank(path, shape)


def extract(run, supernet, masks):
    """The pruned network, its moving averages re-estimated on D_subset."""
    if run.folder.done("slimmed_param.pkl"):
        return run.load("slimmed_param.pkl")
    pruned = run.network(extraction.extract(supernet, masks))
    step = statistics_step(pruned, run.runtime, run.normalised)
    size = min(run.options.val_batch_size, len(run.subset))
    whole = len(run.subset) // size * size  # whole batches only: a small one would weigh as much as the others
    images = run.data.x_train[run.subset[:whole]]
    batches = [{"images": part} for part in np.split(images, whole // size)]
    extraction.reestimate(pruned, step, batches, lambda batches: run.console.bar(batches, "moving averages"))
    run.save("slimmed_param.pkl", pruned)
    flops, params = pruned.cost()
    old_flops, old_params = supernet.cost()
    run.console.say(f"extracted: FLOPs {old_flops:,} -> {flops:,}, parameters {old_params:,} -> {params:,}")
    return pruned


def fine_tune(run, pruned, bank):
    if run.folder.done("trained_param.pkl"):
        return run.load("trained_param.pkl")
    _fit(run, "fine_tuning", pruned, run.options.fine_tuning, views=2, bank=bank)
    run.save("trained_param.pkl", pruned)
    return pruned
