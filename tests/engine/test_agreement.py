"""Machines hear of signals about once a second, and all stop after the same step."""

import threading
import types

import pytest

from distribution.machines import Alone
from engine import signals
from engine.agreement import MOST, SECONDS, Agreement
from engine.run import Run


class Clock:
    """A machine's own clock: `now` seconds."""

    now = 0.0

    def __call__(self):
        return self.now


class Together(Alone):
    """One of several machines in one process: threads that meet at a barrier."""

    def __init__(self, index, table):
        self.index, self.table = index, table
        self.addresses = ("machine",) * len(table.values)
        self.chief = index == 0

    def exchange(self, value):
        self.table.values[self.index] = value
        self.table.barrier.wait(30)
        values = list(self.table.values)
        self.table.count += self.index == 0
        self.table.barrier.wait(30)
        return values


def all_machines(count, work):
    """Runs work(machines, index) on `count` threads; returns (their results, exchanges)."""
    table = types.SimpleNamespace(values=[None] * count, barrier=threading.Barrier(count), count=0)
    results = [None] * count

    def run(index):
        try:
            results[index] = work(Together(index, table), index)
        except BaseException as error:
            table.barrier.abort()
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    return results, table.count


def loop_of(steps, step_seconds, signal_at=(None, None)):
    """work for `all_machines`: calls of one loop; returns after how many a signal was heard.

    signal_at: (machine, call) that gets a signal.
    """

    def work(machines, index):
        clock = Clock()
        agreement = Agreement(machines, clock)
        for call in range(1, steps + 1):
            clock.now += step_seconds(call) * (1 + 0.2 * index)  # no two clocks are alike
            pending = 15 if signal_at[0] == index and call >= signal_at[1] else None
            values = agreement.exchange(pending, "loop")
            if values is not None and any(value is not None for value in values):
                return call
        return None

    return work


@pytest.mark.parametrize("machine, call", [(0, 1), (1, 2), (0, 700), (2, 1999), (1, 2000)])
def test_all_machines_stop_after_the_same_step(machine, call):
    heard, _ = all_machines(3, loop_of(4000, lambda _: 0.004, (machine, call)))
    assert len(set(heard)) == 1 and call <= heard[0] <= call + SECONDS / 0.004


def test_exchanges_are_one_a_second_after_the_first_few():
    seconds, step = 30, 0.01
    _, exchanges = all_machines(2, loop_of(int(seconds / step), lambda _: step))
    assert seconds / 1.5 <= exchanges <= seconds + 4


def test_slow_steps_exchange_every_time():
    _, exchanges = all_machines(2, loop_of(20, lambda _: 3.0))
    assert exchanges == 20


def test_steps_that_become_slow_are_not_waited_for_long():
    """The number of steps to wait for was found while they were fast."""
    slow_from, heard_at = 3000, 3001
    pace = lambda call: 0.0001 if call < slow_from else 0.5
    heard, _ = all_machines(2, loop_of(6000, pace, (1, heard_at)))
    assert heard[0] == heard[1] <= heard_at + MOST
    _, exchanges = all_machines(2, loop_of(6000, pace))
    assert exchanges >= 0.9 * (6000 - slow_from - MOST) / (SECONDS / 0.5)


def test_loops_are_timed_apart():
    """A loop of short steps between slow ones does not make the slow ones wait."""

    def work(machines, index):
        clock = Clock()
        agreement, slow = Agreement(machines, clock), 0
        for _ in range(30):
            for _ in range(50):
                clock.now += 0.001
                agreement.exchange(None, "fast")
            clock.now += 20
            slow += agreement.exchange(None, "slow") is not None
        return slow

    assert all_machines(2, work)[0] == [30, 30]


def test_a_question_without_a_loop_is_asked_at_once():
    work = lambda machines, index: Agreement(machines).exchange(index)
    assert all_machines(2, work)[0] == [[0, 1], [0, 1]]


def test_one_machine_hears_its_signal_at_every_step():
    agreement = Agreement(Alone())
    assert [agreement.exchange(n, "loop") for n in range(5)] == [[n] for n in range(5)]


def test_a_run_stops_where_all_machines_do(monkeypatch):
    """What is saved is the state after the same step on every machine."""
    pending = threading.local()
    monkeypatch.setattr(signals, "pending", lambda: getattr(pending, "number", None))

    def work(machines, index):
        run = object.__new__(Run)
        run.runtime = types.SimpleNamespace(machines=machines)
        saved = []
        for step in range(3000):
            if (index, step) == (1, 500):
                pending.number = 15
            try:
                run.stop_if_asked(lambda step=step: saved.append(step), loop="training")
            except signals.Stopped as stop:
                assert stop.saved and stop.signal == 15
                return saved
        return None

    (first, second), _ = all_machines(2, work)
    assert first == second and len(first) == 1
