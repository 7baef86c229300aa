"""The search as a stage of a run: it is saved after every step and goes on where it was stopped."""

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
    """The history of interim sub-networks, a list of SubNetwork: Theta_0 first, the last one at or
    under the target (Algorithm 1, steps 3 and 4).
    """
    folder, console = run.folder, run.console
    shape = len(supernet.gates), int(supernet.gate_sizes.sum()), len(run.val), run.data.classes
    if folder.done("search"):
        return SearchState.load(folder.file(STAGES["search"]), *shape).history
    search = _strategy(run, supernet)
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


def _strategy(run, supernet):
    """The Search that the options ask for, on D_val."""
    options = run.options
    images, labels = run.in_memory(run.val)
    run.broken.save()
    on_val = Validation(
        supernet, run.search_runtime, run.normalised, images, labels, options.subsets.batch_size
    )
    seed = options.subsets.seed
    importance = importance_by(options.search.score, supernet, on_val.importance, seed)
    strategy = STRATEGIES[options.search.strategy]
    search = strategy(supernet, labels, importance, on_val.predict, options.search, seed)
    run.console.say(
        f"search to {options.search.target_rate:.0%} of {search.all_flops:,} FLOPs,"
        f" {len(supernet.gates)} gates"
    )
    return search


def _keep_step(run, search, state, record):
    """Saves a step of the search, so that a run that is killed goes on after it."""
    # The record is written before the state: a start that goes on drops a record too many, but
    # could not make up for a missing one.
    run.folder.add_line("search.jsonl", record)
    try:
        scalars = {key: value for key, value in record.items() if key != "step"}
        run.board.scalars("search", scalars, record["step"])
    finally:
        if run.folder.writes:
            state.seconds = run.folder.seconds
            state.save(run.folder.unfinished)
    run.console.say(search_line(record, search.network.gates))
    run.stop_if_asked()


def _agree(machines, state):
    """Makes the last step of all machines that of the chief.

    All decide from the same logits, but CPUs of another kind may round a float64 loss another way.
    Raises FloatingPointError if they have chosen different sub-networks.
    """
    last = state.history[-2:]  # a step adds one of these: the best so far stays last
    reached = [[list(member.rates), member.loss, member.objective] for member in last]
    by_machine = machines.exchange(reached)
    rates_of = lambda members: [rates for rates, *_ in members]
    if any(rates_of(members) != rates_of(by_machine[0]) for members in by_machine):
        raise FloatingPointError(
            "the machines' roundings have led the search different ways; use machines of one kind"
        )
    state.history[-2:] = [
        dataclasses.replace(member, loss=loss, objective=objective)
        for member, (_, loss, objective) in zip(last, by_machine[0])
    ]
