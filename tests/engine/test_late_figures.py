"""The host builds the next batch while the device computes, and fetches figures late; what follows
from figures keeps its promises: names of bad steps, records, interruption.
"""

import dataclasses

import numpy as np
import pytest
from trainings import OPTIONS

from engine.training import Progress, train

STEPS = 12  # per epoch
ONE = dataclasses.replace(OPTIONS, epochs=1)


class Clock:
    """Seconds that pass only where somebody works or waits: a busy machine changes nothing."""

    now = 0.0


class Device:
    """Computes steps one after another in `seconds` each; a call returns at once, as on a GPU.

    It is a step for `train`, whose figures can be waited for. nan_at: number of a step whose loss
    is NaN, from 1.
    """

    def __init__(self, seconds=0.0, nan_at=None, clock=None):
        self.seconds, self.nan_at, self.clock = seconds, nan_at, clock or Clock()
        self.free_at, self.count = 0.0, 0

    def __call__(self, batch, learning_rate, weight_decay):
        self.count += 1
        self.free_at = max(self.free_at, self.clock.now) + self.seconds
        loss = np.nan if self.count == self.nan_at else float(batch["rows"].sum())
        figures = {"loss": loss, "accuracy": 0.5, "sum_of_statistics": 1.0}
        return {name: Figure(value, self) for name, value in figures.items()}, {}


class Figure:
    """A number that is there once its step is done."""

    def __init__(self, value, device):
        self.value, self.clock, self.at = value, device.clock, device.free_at

    def __float__(self):
        self.clock.now = max(self.clock.now, self.at)
        return float(self.value)


class Feed:
    """STEPS batches per epoch, each built in `seconds`; or in those of `uneven`, in turn."""

    draws = 3

    def __init__(self, *uneven, clock=None):
        self.uneven, self.clock, self.built = uneven or (0.0,), clock or Clock(), 0

    def order(self, batch_size, rng):
        return rng.permutation(STEPS * batch_size).reshape(STEPS, batch_size)

    def batches(self, groups, drawn, augmented):
        for rows, _ in zip(groups, drawn):
            self.clock.now += self.uneven[self.built % len(self.uneven)]
            self.built += 1
            yield {"rows": rows}


def seconds_of(device_seconds, *feed_seconds, late):
    clock = Clock()
    device, feed = Device(device_seconds, clock=clock), Feed(*feed_seconds, clock=clock)
    train(device, feed, ONE, seed=[0], late=late)
    return clock.now


@pytest.mark.parametrize("late", [1, 4])
def test_host_and_device_work_at_the_same_time(late):
    """One after the other they would take 2 x STEPS seconds."""
    assert seconds_of(1.0, 1.0, late=late) == pytest.approx(STEPS + 1)


def test_late_figures_hide_batches_of_uneven_cost():
    """A device that may run ahead works while a slow batch is built."""
    at_once, late = (seconds_of(1.0, 0.0, 0.0, 0.0, 4.0, late=late) for late in (1, 4))
    assert late < at_once - 3


def test_figures_come_after_so_many_calls():
    steps = []
    hooks = dict(after_call=lambda progress: steps.append(progress.step))
    train(Device(), Feed(), ONE, seed=[0], late=4, **hooks)
    assert steps == [4 * (call // 4) for call in range(1, STEPS + 1)]


def results_of(late, **how):
    """(on_step's calls, record) of an epoch."""
    steps, records = [], []
    train(
        Device(),
        Feed(),
        ONE,
        seed=[3],
        late=late,
        on_step=lambda *at: steps.append(at),
        on_epoch=lambda record, _: records.append({**record, "seconds": None}),
        **how,
    )
    return steps, records


@pytest.mark.parametrize("late", [2, 5, 12, 100])
def test_records_are_the_same_however_late_figures_come(late):
    assert results_of(late) == results_of(1)
    assert [number for number, _ in results_of(late)[0]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("bad", [1, 5, 12])
@pytest.mark.parametrize("late", [1, 4, 10])
def test_a_nan_is_named_with_its_step_a_few_calls_late_and_before_any_checkpoint(late, bad):
    device, epochs = Device(nan_at=bad), []
    with pytest.raises(FloatingPointError, match=f"the loss is nan in epoch 1, step {bad};"):
        train(device, Feed(), ONE, seed=[0], late=late, on_epoch=lambda *_: epochs.append(1))
    assert not epochs and bad <= device.count < bad + late


def test_what_stops_at_a_call_is_settled_before_it_is_saved():
    """A checkpoint has the figures of exactly the steps that the variables have had."""
    saved = []

    class Stop(Exception):
        pass

    device = Device()

    def after_call(progress):
        if device.count == 6:
            assert progress.step == 4  # the last two are under way
            progress.settle()
            saved.append(dataclasses.asdict(progress))
            raise Stop

    with pytest.raises(Stop):
        train(device, Feed(), ONE, seed=[3], late=4, after_call=after_call)
    (state,) = saved
    assert state["step"] == 6 and "settle" not in state
    rest = []
    hooks = dict(on_step=lambda *at: rest.append(at))
    train(Device(), Feed(), ONE, seed=[3], late=4, progress=Progress(**state), **hooks)
    assert rest == results_of(1)[0][6:]


def test_nothing_is_saved_after_a_nan_that_was_not_seen_yet():
    device = Device(nan_at=5)

    def after_call(progress):
        if device.count == 6:
            progress.settle()
            raise AssertionError("it would have been saved")

    with pytest.raises(FloatingPointError, match="step 5"):
        train(device, Feed(), ONE, seed=[0], late=4, after_call=after_call)


def test_one_batch_is_built_ahead_and_no_more():
    feed, seen = Feed(), []
    device = Device()
    train(device, feed, ONE, seed=[0], after_call=lambda _: seen.append(feed.built - device.count))
    assert seen == [1] * (STEPS - 1) + [0] and feed.built == STEPS


def test_a_progress_by_itself_is_settled():
    Progress().settle()
    assert dataclasses.asdict(Progress()) == dataclasses.asdict(Progress(0, 0))
