"""The times of layers that a search in time needs: from a file, or measured here (METHOD 13)."""

import os

from ekg.extraction import extract
from ekg.filter_rule import filters_kept
from ekg.importance import first_filters
from engine.layer_times import LayerTimes, check_line
from engine.layer_timing import machine_here, measure, setting_of
from engine.run_files import STAGES, TIMES, UNFINISHED
from nets import build_network
from utils import UserError


def measured(network, runtime, batch_size, track=iter):
    """The LayerTimes of `network` on this machine.

    Their sum is checked on the network with half of each gate's filters. If it is more than 10 %
    off, as when the machine begins or ends other work, all are measured once more, and those
    whose sum is closer count. For the arguments see engine.layer_timing.measure.
    """
    sizes = network.gate_sizes
    filters = filters_kept(sizes, [0.5] * len(sizes))
    shape = network.arch, network.classes, network.input_size
    variant = dict(padding=network.padding, width_multiplier=network.width_multiplier)
    half = build_network(*shape, extract(network, first_filters(sizes, filters)), **variant)
    found: list[LayerTimes] = []
    while len(found) < 2 and all(times.is_off for times in found):
        found.append(measure(network, (filters, half), runtime, batch_size, track))
    return min(found, key=lambda times: abs(times.deviation))


def times_for(options, network, runtime, machines, console, check_folder):
    """The LayerTimes for the search of a run; None if it needs none. All machines get the chief's.

    A run that has begun keeps its times. Raises UserError if they are gone, or if a file does not
    fit.

    Args:
        options: Options.
        network: Network, the one to prune.
        runtime: Runtime.
        machines: from distribution.machines.meet.
        console: Console, for the progress.
        check_folder: function that raises UserError if the run folder cannot hold this run; called
            before the times are measured. None: they are not measured, and the result is None.
    """
    if not options.search.needs_times or options.search_from:
        return None
    described = None
    with machines.together():
        if machines.chief:
            times = _kept(options, network)
            if times is None and not _searched(options, STAGES):
                times = _given_or_measured(options, network, runtime, console, check_folder)
            described = times and times.described()
    described = machines.exchange(described)[0]
    return described and LayerTimes.of(described)


def _searched(options, files):
    """Whether the run folder holds the search's file of `files`, and it stays."""
    path = os.path.join(options.train_path, files["search"])
    return os.path.exists(path) and not options.overwrite


def _kept(options, network):
    """The LayerTimes that this run began with, None if there are none."""
    path = os.path.join(options.train_path, TIMES)
    if options.overwrite or not os.path.exists(path):
        return None
    times = _load(path, {}, network)
    if options.layer_times:
        given = _load(options.layer_times, {}, network)
        if given.described() != times.described():
            raise UserError(
                f"--layer_times {options.layer_times}: the run in {options.train_path} began with"
                " other times; leave it out, or choose another folder, or --overwrite"
            )
    return times


def _given_or_measured(options, network, runtime, console, check_folder):
    """The LayerTimes of a run that begins; None if they may not be measured."""
    batch_size = options.search.latency_batch_size
    if _searched(options, UNFINISHED):
        raise UserError(
            f"{os.path.join(options.train_path, TIMES)} is missing, with which the search there"
            " began; restore it, or --overwrite"
        )
    asked = setting_of(network, runtime, batch_size)
    if options.layer_times:
        times = _load(options.layer_times, asked, network)
        here, there = machine_here(), times.setting
        if any(there.get(name) != here[name] for name in here):
            console.say(
                f"{options.layer_times}: the search is for {there.get('hardware')}, with"
                f" {there.get('threads')} threads; this is {here['hardware']}, with"
                f" {here['threads']}"
            )
        return times
    if check_folder is None:
        return None
    check_folder()
    track = lambda kinds: console.bar(kinds, "times of layers")
    times = measured(network, runtime, batch_size, track)
    console.say(f"times of layers at batch {batch_size}: {check_line(times)}")
    return times


def _load(path, asked, network):
    times = LayerTimes.load(path, asked)
    try:
        times.ms(network)
    except KeyError as error:
        raise UserError(f"{path} holds no times of {network.arch}'s layer {error}") from error
    return times
