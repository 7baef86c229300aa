"""What a program does first, before imports that take time. Imports only what Python itself has
imported at its start.
"""

import os
import sys


def ready():
    """Prepares the process of a program; nothing of this is undone.

    Until cli.program listens to signals, Ctrl-C ends the process without a traceback. Standard
    streams that are closed lead nowhere: otherwise the next files that are opened would take their
    place and get what is printed. Text that a terminal cannot show is escaped.
    """
    import _signal  # built in; the module signal takes milliseconds to import

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_stdout():
    """Gives up a stdout that nobody reads, so that Python does not complain of it at its end."""
    if sys.stdout is sys.__stdout__:
        try:
            sys.stdout.close()  # tries to write what is left
        except OSError:
            pass
        sys.stdout = open(os.devnull, "w")
