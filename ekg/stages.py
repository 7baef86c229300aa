"""The stages of a run. Each reads what the stages before it wrote, and writes its own files whole
or not at all.

A stage whose file is there already has been done by a former start of the same command: it is read
and not done again.
"""

import contextlib
import dataclasses
import functools

import numpy as np

from dataloader.images import in_batches
from dataloader.sampling import columns
from ekg import extraction, memory_bank
from ekg.contrastive import contrastive_loss, plain_loss, taught_loss, temperature
from ekg.scores import scorer
from ekg.search import SearchState, search_line
from ekg.strategies import STRATEGIES
from ekg.sub_networks import SubNetworks
from ekg.validation import Validation
from engine.evaluation import latencies_ms
from engine.fitting import fit
from engine.report import closing_table, write_figures
from engine.run import STREAM, stage
from engine.run_folder import BANK, SIDES, STAGES
from files.bank_file import BankFile, open_bank
from files.bank_rows import row_codec
from op_utils import statistics_step


@stage("baseline")
def baseline(run):
    """The network to start from: the one given, or one trained here."""
    if run.given is not None:
        return run.network(run.given)
    if run.folder.done("baseline"):
        return run.load("baseline")
    network = run.network()
    options = run.options.baseline
    run.console.say(
        f"no trained {network.arch} is given: a baseline is trained first, {options.epochs} epochs"
    )
    fit(run, "baseline", network, options, _cross_entropy(options))
    run.save(network)
    return network


def _cross_entropy(options):
    return functools.partial(plain_loss, label_smoothing=options.label_smoothing)


@stage("warm_up")
def warm_up(run, start):
    """The supernet: the starting network after the warm-up on D_subset, no augmentation."""
    if run.folder.done("warm_up"):
        return run.load("warm_up")
    supernet = run.network(start.parameters())
    if run.options.warm_up.epochs:
        options = run.options.warm_up
        on_subset = dict(
            runtime=run.search_runtime, indices=run.subset, augmented=False, evaluate=False
        )
        fit(run, "warm_up", supernet, options, _cross_entropy(options), **on_subset)
    run.save(supernet)
    return supernet


# ------------------------------------------------------------------------- search, bank, extraction


@stage("search")
def search(run, supernet):
    """The history of interim sub-networks, a list of SubNetwork: Theta_0 first, the last one at or
    under the target.
    """
    data, options, folder, console = run.data, run.options, run.folder, run.console
    shape = len(supernet.gates), int(supernet.gate_sizes.sum()), len(run.val), data.classes
    if folder.done("search"):
        return SearchState.load(folder.file(STAGES["search"]), *shape).history
    images, labels = run.in_memory(run.val)
    run.broken.save()
    on_val = Validation(
        supernet, run.search_runtime, run.normalised, images, labels, options.subsets.batch_size
    )
    score = scorer(options.search.score, supernet, on_val.score, options.subsets.seed)
    strategy = STRATEGIES[options.search.strategy]
    search = strategy(supernet, labels, score, on_val.predict, options.search, options.subsets.seed)
    console.say(
        f"search to {options.search.target_rate:.0%} of {search.all_flops:,} FLOPs,"
        f" {len(supernet.gates)} gates"
    )
    if folder.begun("search"):
        state = SearchState.load(folder.unfinished, *shape)
        folder.goes_on(state.seconds)
        done = len(state.history) - 1
        run.check_same([done, state.history[-1].loss], folder.unfinished)
        console.say(f"  the search goes on after step {done}")
        with run.runtime.machines.together():
            folder.start_lines("search.jsonl", keep=lambda line: line["step"] <= done)
    else:
        folder.start_lines("search.jsonl")
        state, record = search.start()
        _keep_step(run, search, state, record)
    with console.bar((), "search", total=100) as bar:
        while not search.done(state):
            bar.show(FLOPs=f"{search.left(state):.1%}", loss=state.history[-1].loss)
            bar.to(min(100, round(100 * search.progress(state), 1)))
            record = search.advance(state, bar=lambda items: console.bar(items, "candidates"))
            _agree(run.runtime.machines, state)
            _keep_step(run, search, state, record)
    with folder.completes() as path:
        if folder.writes:
            state.save(path)
    return state.history


def _keep_step(run, search, state, record):
    """Writes down a step of the search, so that a run that is killed goes on after it."""
    # The record comes first: one too many is dropped when the run goes on, one that is missing
    # would stay so.
    run.folder.add_line("search.jsonl", record)
    try:
        run.board.scalars(
            "search", {k: v for k, v in record.items() if k != "step"}, record["step"]
        )
    finally:
        if run.folder.writes:
            state.seconds = run.folder.seconds
            state.save(run.folder.unfinished)
    run.console.say(search_line(record, search.network.gates))
    run.stop_if_asked()


def _agree(machines, state):
    """Makes the chief's last step that of all machines; raises FloatingPointError where they have
    taken different ways.

    They decide from the same logits, but another kind of CPU may round a loss in float64 otherwise.
    What a step adds is one of the last two: the best so far stays last.
    """
    last = state.history[-2:]
    said = machines.exchange([[list(member.rates), member.loss, member.score] for member in last])
    if any([rates for rates, *_ in one] != [rates for rates, *_ in said[0]] for one in said):
        raise FloatingPointError(
            "the machines' roundings have led the search different ways; use machines of one kind"
        )
    agreed = zip(last, said[0])
    state.history[-2:] = [
        dataclasses.replace(member, loss=loss, score=score) for member, (_, loss, score) in agreed
    ]


@stage("memory_bank")
def build_bank(run, supernet, history):
    """M float16 [N, classes, K] of the training set, the Bank in memory_bank.npy."""
    data, options, folder, machines = run.data, run.options, run.folder, run.runtime.machines
    path = folder.file(STAGES["memory_bank"])
    teachers = memory_bank.teachers_of(history, options.num_teacher)
    shape = (len(data.y_train), data.classes, len(teachers))
    codec = row_codec(
        *shape[1:], options.bank_top or None, options.temperature or temperature(data.classes)
    )
    if folder.done("memory_bank"):
        return open_bank(path, shape, codec)
    # Teachers share little: each is a call of its own.
    predict = SubNetworks(supernet, run.search_runtime, run.normalised, 1)
    masks = np.stack([teacher.masks(supernet.gate_sizes) for teacher in teachers])
    order = memory_bank.build_order(data.y_train, [options.seed, STREAM["memory_bank"]])
    count = len(machines.addresses)
    owner = data.x_train.owner if data.encoded and count > 1 else None
    slots = memory_bank.bank_batches(order, options.val_batch_size, count, owner)
    here = np.zeros(len(slots[0][0]), bool)
    here[columns(len(here), count, machines.index)] = True
    losses = ", ".join(f"{teacher.loss:.4f}" for teacher in teachers)
    run.console.say(
        f"memory bank: {len(teachers)} teachers with losses {losses}; {len(order):,} images"
    )

    plan = memory_bank.plan_of(slots)
    bank = BankFile(
        folder.file(BANK),
        folder.unfinished,
        shape,
        len(slots),
        plan,
        codec=codec,
        machines=machines,
    )
    slots = slots[bank.batches :]
    if bank.batches:
        folder.goes_on(bank.seconds)
        run.console.say(
            f"  the memory bank goes on after {bank.batches} of {bank.batches + len(slots)} batches"
        )

    def save():
        run.broken.save()
        bank.save(folder.seconds)

    found = in_batches(data.x_train, (ids for ids, _ in slots))
    # An image that another one replaces is broken: nobody will ask for its row.
    batches = (
        (ids, own & here & (shown == ids), {"images": x})
        for (ids, own), (shown, x) in zip(slots, found)
    )
    with (
        contextlib.closing(found),
        run.console.bar((), "memory bank", bank.batches + len(slots)) as bar,
    ):

        def after_batch():
            bar.to(bank.batches)
            if bank.batches % memory_bank.SHARD == 0:
                save()
            run.stop_if_asked(save)

        memory_bank.build(bank, batches, lambda batch: predict(batch, masks), after_batch)
    run.broken.save()
    with folder.completes():
        bank.complete(path)
    return open_bank(path, shape, codec)


@stage("extraction")
def extract(run, supernet, chosen):
    """The pruned network, physically smaller: the SubNetwork `chosen`, its moving averages
    re-estimated on D_subset.
    """
    if run.folder.done("extraction"):
        return run.load("extraction")
    pruned = run.network(extraction.extract(supernet, chosen.masks(supernet.gate_sizes)))
    step = statistics_step(pruned, run.search_runtime, run.normalised)
    size = min(run.options.val_batch_size, len(run.subset))
    # whole batches only: a small one would weigh as much as the others
    whole = len(run.subset) // size
    found = in_batches(run.data.x_train, run.subset[: whole * size].reshape(whole, size))
    with contextlib.closing(found):
        batches = ({"images": images} for _, images in found)
        extraction.reestimate(pruned, step, run.bar(batches, "moving averages", whole))
    run.save(pruned)
    flops, params = pruned.cost()
    old_flops, old_params = supernet.cost()
    run.console.say(
        f"extracted: FLOPs {old_flops:,} -> {flops:,}, parameters {old_params:,} -> {params:,}"
    )
    return pruned


@stage("fine_tuning")
def fine_tune(run, pruned, supernet, bank):
    """The result. The bank teaches where there is one, else the unpruned network or nothing, as
    --finetune_teacher says.
    """
    if run.folder.done("fine_tuning"):
        return run.load("fine_tuning")
    options = run.options.fine_tuning
    knows = dict(t=run.options.temperature, label_smoothing=options.label_smoothing)
    if bank is not None:
        fit(
            run,
            "fine_tuning",
            pruned,
            options,
            functools.partial(contrastive_loss, **knows),
            views=2,
            bank=bank,
        )
    elif run.options.finetune_teacher == "single":
        fit(
            run,
            "fine_tuning",
            pruned,
            options,
            functools.partial(taught_loss, **knows),
            views=2,
            teacher=supernet,
        )
    else:
        fit(run, "fine_tuning", pruned, options, _cross_entropy(options))
    run.save(pruned)
    return pruned


# ------------------------------------------------------------------------------------------ figures


def compare(run, start, pruned, chosen):
    """Evaluates the network before and after; writes result.json and the plots, and prints the
    closing table.

    chosen: the SubNetwork that was extracted.
    """
    folder, entries = run.folder, {}
    times = latencies_ms([start, pruned], run.runtime)
    for name, network, latency in zip(SIDES, (start, pruned), times):
        with folder.stage(f"evaluation of {name}"):
            figures = run.evaluator(network)(
                lambda batches, name=name: run.bar(batches, f"evaluation of {name}")
            )
        flops, params = network.cost()
        entries[name] = {key: figures[key] for key in ("top1", "top5", "loss")}
        entries[name] |= {"params": params, "flops": flops, "latency_ms": round(latency, 3)}
    if run.data.encoded:
        entries["broken"] = run.broken.count()
    entries["flops_rate"] = entries["pruned"]["flops"] / entries["baseline"]["flops"]
    run.stop_if_asked()  # for the last time: what follows is short, and then the run is finished
    figures = ""
    if folder.writes:
        lines = folder.lines("search.jsonl"), folder.lines("training.jsonl")
        layers = start.layer_filters(), start.layer_filters(chosen.filters(start.gate_sizes))
        figures = write_figures(
            folder.file("figures"), *lines, *layers, run.options.finetune_teacher != "none"
        )
    folder.update_result(**entries)
    run.console.say(closing_table(folder.result, len(run.data.y_test)))
    result = "trained_param.pkl" if run.options.fine_tuning.epochs else "slimmed_param.pkl"
    run.console.say(f"{folder.file(result)} is the result; {figures}")


def say_finished(run):
    """What a start says of a run that has nothing left to do."""
    run.console.say(
        f"{run.folder.path} holds this run, finished; nothing is left to do (--overwrite starts"
        " afresh)"
    )
    run.console.say(closing_table(run.folder.result, len(run.data.y_test)))
