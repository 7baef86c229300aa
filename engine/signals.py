"""SIGTERM and Ctrl-C: heard at once where nothing would be lost, at the next step where there is
something to save.

Imports no TensorFlow, so that a program can listen before it is up.
"""

import contextlib
import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The program was asked to stop. signal: by which; saved: whether everything done so far was
    saved before.
    """

    def __init__(self, number, saved=False):
        super().__init__(number)
        self.signal, self.saved = signal.Signals(number), saved


class _Heard:
    """What the handler, of which a process has one, has to know."""

    deferred = False  # whether a first signal waits for the next step
    asked = None  # the signal that waits
    begun = False  # whether the program has begun what can go on another time


@contextlib.contextmanager
def listening():
    """In this block SIGINT and SIGTERM raise Stopped. A signal that the program was started to
    ignore stays ignored.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python hears signals in the main thread only
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    _Heard.begun = False
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _Heard.asked = None


@contextlib.contextmanager
def deferred():
    """In this block a first signal waits until `asked` is asked; a second one raises Stopped at
    once.
    """
    _Heard.deferred = _Heard.begun = True
    try:
        yield
    finally:
        _Heard.deferred = False


def begun():
    """Whether the program has begun what can go on another time."""
    return _Heard.begun


def asked():
    """The number of the signal that waits, None if there is none."""
    return _Heard.asked


def _handle(number, frame):
    if _Heard.deferred and _Heard.asked is None:
        _Heard.asked = number
        line = (
            f"\n{signal.Signals(number).name}: stopping at the next step; once more stops at once\n"
        )
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(
                2, line.encode()
            )  # not by print: the signal may have come in the middle of one
        return
    raise Stopped(number)
