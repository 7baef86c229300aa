"""What all programs share: exit codes, and one line that says why a program ended."""

import contextlib
import os
import signal
import sys

from cli.start import leave_stdout
from distribution.machines import PeerLost
from engine.signals import begun, listening
from utils import FULL, UserError

# The errors that TensorFlow raises during a step when another machine is lost.
MACHINE_GONE = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
)
# How XLA and CUDA report full memory inside other errors, in lower case.
NO_MEMORY = ("resource_exhausted", "out of memory", "alloc_failed", "failed to allocate")
# Advice for a run that ran out of memory. These options change what is computed, so a run cannot be
# resumed with them.
RUN_LESS_MEMORY = (
    "--accum 2 or more, or a smaller --batch_size or batch size of the stage; with --overwrite or"
    " another folder"
)


def run_program(main, resumable=False, less_memory=None):
    """Runs main() and returns the exit code of the program.

    0: success; 1: the run failed; 2: the user made a mistake; 128 + n: signal n stopped it. For
    every code but 0 it prints one line on stderr. A bug is raised, with its traceback.

    resumable: whether the same command, started again, resumes from what was saved; less_memory:
    function that returns the advice for a program that ran out of memory, if it is not the usual.
    """
    with listening():
        try:
            return _finished(main)
        except UserError as error:
            message, code = f"error: {error}", 2
        except KeyboardInterrupt as stop:
            number = getattr(stop, "signal", signal.SIGINT)
            saved = ", everything is saved" if getattr(stop, "saved", False) else ""
            message, code = f"stopped by {number.name}{saved}{_resume(resumable)}", 128 + number
        except Exception as error:
            usual = RUN_LESS_MEMORY if resumable else "a smaller --val_batch_size"
            advice = less_memory() if less_memory else usual
            reason = _failure(error, _resume(resumable), advice)
            if reason is None:
                raise
            message, code = f"stopped: {reason}", 1
    with contextlib.suppress(OSError):  # nobody may read it
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr, flush=True)
    return code


def _finished(main):
    """main(), with all that it printed on its way; raises BrokenPipeError if nobody reads it."""
    try:
        code = main() or 0
    except SystemExit:  # --help
        print(end="", flush=True)
        raise
    print(end="", flush=True)
    return code


def _resume(resumable):
    """Text that says how to resume; "" if there is nothing to resume."""
    if not (resumable and begun()):
        return ""
    command = "the same command" + " without --overwrite" * ("--overwrite" in sys.argv)
    return f"; {command} resumes the run"


def _failure(error, resume, less_memory):
    """Message for an error with a cause outside this program; None for a bug in this program.

    resume: text that says how to resume; less_memory: advice to need less memory.
    """
    # TensorFlow's error classes are compared by name: importing them would slow down --help.
    kind, text = type(error).__name__, str(error)
    if isinstance(error, OSError):
        if error.errno in FULL:
            return (
                f"{error.filename or 'a file'}: {error.strerror}; files written before are"
                f" complete; free some space{resume}"
            )
        if isinstance(error, BrokenPipeError) and error.filename is None:
            leave_stdout()
            return f"nobody reads its output any more (broken pipe){resume}"
        return text + (resume if isinstance(error, PeerLost) else "")
    if isinstance(error, FloatingPointError):
        return text
    if (
        isinstance(error, MemoryError)
        or kind == "ResourceExhaustedError"
        or any(words in text.lower() for words in NO_MEMORY)
    ):
        return f"out of memory; try {less_memory}"
    if kind in MACHINE_GONE and os.environ.get("TF_CONFIG"):
        return f"another machine of TF_CONFIG has stopped or is out of reach ({kind}){resume}"
    return None


def prune_from(parse):
    """Runs a training program. parse: parses the command line, returns Options."""
    options = parse()
    # After parsing, so that --help and a wrong flag are answered at once.
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from ekg.pipeline import prune

    prune(options)
