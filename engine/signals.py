"""SIGTERM and Ctrl-C stop a program at once, or at the next step if there is progress to save.

Imports no TensorFlow, so that a program can handle signals while TensorFlow is being loaded.
"""

import contextlib
import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal stopped the program. saved: whether all progress was saved before."""

    def __init__(self, number, saved=False):
        super().__init__(number)
        self.signal, self.saved = signal.Signals(number), saved


class _State:
    """State of the signal handler. There is one per process."""

    deferred = False  # whether a first signal waits for the next step
    pending = None  # number of the signal that waits
    begun = False  # whether the program has started work that can be resumed


@contextlib.contextmanager
def listening():
    """Inside the block SIGINT and SIGTERM raise Stopped.

    A signal that was ignored when the program started stays ignored.
    """
    # Python handles signals in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    _State.begun = False
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _State.pending = None


@contextlib.contextmanager
def deferred():
    """Inside the block a first signal becomes `pending`; a second one raises Stopped at once."""
    _State.deferred = _State.begun = True
    try:
        yield
    finally:
        _State.deferred = False


def resumable_from_here():
    """Says that from here on the program has work that can be resumed; signals act at once."""
    _State.begun = True


def begun():
    """Whether the program has started work that can be resumed."""
    return _State.begun


def pending():
    """The number of the signal that waits, None if there is none."""
    return _State.pending


def _handle(number, frame):
    if _State.deferred and _State.pending is None:
        _State.pending = number
        name = signal.Signals(number).name
        line = f"\n{name}: stopping at the next step; a second signal stops at once\n"
        with contextlib.suppress(OSError):  # the terminal may be closed
            # Not print: the signal may have interrupted another print, which is not reentrant.
            os.write(2, line.encode())
        return
    raise Stopped(number)
