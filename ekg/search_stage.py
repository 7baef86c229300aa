"""The search as a stage of a run. It is saved after every step and resumes after the last one."""

import dataclasses

from ekg.history import SearchState
from ekg.scores import importance_by
from ekg.search import search_line
from ekg.strategies import STRATEGIES
from ekg.validation import Validation
from engine.run import stage
from engine.run_files import STAGES


@stage("search")
def search(run, supernet):
    """Searches down to the target (Algorithm 1, steps 3 and 4); returns the history.

    The history is a list of SubNetwork: Theta_0 first, the last one at or under the target.
    """
    folder, console = run.folder, run.console
    shape = supernet.gate_sizes, len(run.val), supernet.classes
    if folder.done("search"):
        return SearchState.load(folder.file(STAGES["search"]), *shape).history
    strategy = _strategy(run, supernet)
    if folder.begun("search"):
        state = SearchState.load(folder.unfinished, *shape)
        folder.resumed_after(state.seconds)
        done = len(state.history) - 1
        run.check_same([done, state.history[-1].loss], folder.unfinished)
        console.say(f"  the search resumes after step {done}")
        with run.runtime.machines.together():
            folder.start_lines("search.jsonl", keep=lambda line: line["step"] <= done)
    else:
        folder.start_lines("search.jsonl")
        state, record = strategy.start()
        _keep_step(run, strategy, state, record)
    with console.bar((), "search", total=100) as bar:
        while not strategy.done(state):
            share = {strategy.budget.name: f"{strategy.share(state):.1%}"}
            bar.show(**share, loss=state.history[-1].loss)
            bar.to(min(100, round(100 * strategy.progress(state), 1)))
            record = strategy.advance(state, bar=lambda items: console.bar(items, "candidates"))
            _agree(run.runtime.machines, state)
            _keep_step(run, strategy, state, record)
    with folder.completes() as path:
        if folder.writes:
            state.save(path)
    return state.history


def _strategy(run, supernet):
    """The Search that the options select, on D_val."""
    options = run.options
    images, labels = run.in_memory(run.val)
    run.broken.save()
    size, seed = options.subsets.batch_size, options.subsets.seed
    task = run.networks.task
    parts = run.normalised, images, labels, size, task.reward
    on_val = Validation(supernet, run.search_runtime, *parts)
    weights = run.networks.filter_weights
    importance = importance_by(options.search.score, supernet, on_val.importance, seed, weights)
    strategy = STRATEGIES[options.search.strategy]
    judged = run.times, task.judgement
    search = strategy(supernet, labels, importance, on_val.predict, options.search, seed, *judged)
    whole = f"{search.all_flops:,} FLOPs"
    if options.search.target == "latency":
        ms, batch = search.budget.whole, options.search.latency_batch_size
        whole = f"{ms:.2f} ms (predicted, batch {batch}, {run.runtime.precision})"
    run.console.say(
        f"search to {options.search.target_rate:.0%} of {whole}, {len(supernet.gates)} gates"
    )
    return search


def _keep_step(run, search, state, record):
    """Saves a step of the search, so that a killed run resumes after it."""
    # The record is written before the state: a resumed run can drop an extra record, but it cannot
    # restore a missing one.
    run.folder.add_line("search.jsonl", record)
    try:
        scalars = {key: value for key, value in record.items() if key != "step"}
        run.board.scalars("search", scalars, record["step"])
    finally:
        if run.folder.writes:
            state.seconds = run.folder.seconds
            state.save(run.folder.unfinished)
    run.console.say(search_line(record, search.network.gates))
    run.stop_if_asked(loop="search")


def _agree(machines, state):
    """Gives all machines the losses and objectives of the chief's last step.

    All machines decide from the same logits, but CPUs of different kinds may round a float64 loss
    differently. Raises FloatingPointError if they have chosen different sub-networks.
    """
    # The new sub-network is one of the last two: RandomWidths inserts it below the best so far.
    last = state.history[-2:]
    own = [[list(member.rates), member.loss, member.objective] for member in last]
    by_machine = machines.exchange(own)
    rates_of = lambda members: [rates for rates, *_ in members]
    if any(rates_of(members) != rates_of(by_machine[0]) for members in by_machine):
        raise FloatingPointError(
            "the machines round differently and have chosen different sub-networks; use machines"
            " of one kind"
        )
    state.history[-2:] = [
        dataclasses.replace(member, loss=loss, objective=objective)
        for member, (_, loss, objective) in zip(last, by_machine[0])
    ]
