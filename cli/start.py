"""What a program does first, before imports that take time. Imports next to nothing itself."""

import contextlib
import os
import signal
import sys


def ready():
    """Prepares the process of a program; nothing of this is undone.

    Until cli.program listens to signals, Ctrl-C ends the process without a traceback. Standard
    streams that are closed lead nowhere: otherwise the next files that are opened would take their
    place and get what is printed. Text that a terminal cannot show is escaped.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    with contextlib.suppress(AttributeError, ValueError):  # another kind of stream
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_stdout():
    """Gives up a stdout that nobody reads, so that Python does not complain of it at its end."""
    if sys.stdout is sys.__stdout__:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # tries to write what is left
        sys.stdout = open(os.devnull, "w")
