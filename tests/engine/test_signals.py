"""Signals stop a program at once, or at the next step if there is progress to save."""

import os
import signal

import pytest

from engine import signals
from engine.signals import Stopped, deferred, listening, pending

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def send(number):
    os.kill(os.getpid(), number)


@BOTH
def test_a_signal_stops_at_once_outside_of_a_run(number):
    with pytest.raises(Stopped) as stop, listening():
        send(number)
    assert (
        stop.value.signal is number
        and not stop.value.saved
        and isinstance(stop.value, KeyboardInterrupt)
    )


@BOTH
def test_a_signal_waits_within_a_run_and_says_so(number, capfd):
    with listening(), deferred():
        assert pending() is None
        send(number)
        assert pending() == number
    assert (
        capfd.readouterr().err
        == f"\n{number.name}: stopping at the next step; a second signal stops at once\n"
    )


def test_a_second_signal_does_not_wait(capfd):
    with pytest.raises(Stopped) as stop, listening(), deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert stop.value.signal is signal.SIGINT and "SIGTERM" in capfd.readouterr().err


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored():
    """A program in the background of a shell script is started to ignore Ctrl-C."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening():
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is signals._handle
        assert signal.getsignal(signal.SIGTERM) is not signals._handle
    finally:
        signal.signal(signal.SIGINT, former)


def test_nothing_waits_when_a_program_begins():
    with listening(), deferred():
        send(signal.SIGTERM)
    with listening():
        assert pending() is None
