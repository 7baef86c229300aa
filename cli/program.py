"""What the programs share around what they do: exit codes, and the one line that says why a run
ended.
"""

import os
import signal
import sys

from distribution.machines import PeerLost
from engine.signals import begun, listening
from utils import FULL, UserError

# What TensorFlow raises in the middle of a step when a peer is lost.
MACHINE_GONE = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
)


NO_MEMORY = (
    "resource_exhausted",
    "out of memory",
    "alloc_failed",
    "failed to allocate",
)  # XLA and CUDA, in other errors


def run_program(main, goes_on=False):
    """Exit code of main(): 2 and one line on stderr for a user's mistake, 1 for a failed run, 128 +
    its number for a signal.

    goes_on: whether the program's command, started again, goes on with what it has saved.
    """
    name, smaller = os.path.basename(sys.argv[0]), "a smaller --val_batch_size"
    if goes_on:
        # Both change what is computed, so that the run cannot go on with them.
        smaller = (
            "--accum 2 or more, or a smaller --batch_size or batch size of the stage; with"
            " --overwrite or another folder"
        )

    def then():
        if not (goes_on and begun()):
            return ""
        return (
            f"; the same command{' without --overwrite' if '--overwrite' in sys.argv else ''} goes"
            " on from there"
        )

    with listening():
        try:
            return main() or 0
        except UserError as error:
            said, code = f"error: {error}", 2
        except KeyboardInterrupt as stop:
            number = getattr(stop, "signal", signal.SIGINT)
            saved = ", all is saved" if getattr(stop, "saved", False) else ""
            said, code = f"stopped by {number.name}{saved}{then()}", 128 + number
        except Exception as error:
            reason = _failure(error, then(), smaller)
            if reason is None:
                raise
            said, code = f"stopped: {reason}", 1
    print(f"{name}: {said}", file=sys.stderr)
    return code


def _failure(error, then, smaller):
    """What to say of a run that failed for a reason outside of this program; None for a reason
    within.

    then: how it goes on; smaller: what to do about memory.
    """
    # TensorFlow's own classes are not imported here, so that --help need not wait for it.
    kind, text = type(error).__name__, str(error)
    if isinstance(error, OSError):
        if error.errno in FULL:
            return (
                f"{error.filename or 'a file'}: {error.strerror}; what was written before is whole:"
                f" make room{then}"
            )
        return text + then * isinstance(error, PeerLost)
    if isinstance(error, FloatingPointError):
        return text
    if (
        isinstance(error, MemoryError)
        or kind == "ResourceExhaustedError"
        or any(words in text.lower() for words in NO_MEMORY)
    ):
        return f"out of memory; try {smaller}"
    if kind in MACHINE_GONE and os.environ.get("TF_CONFIG"):
        return f"another machine of TF_CONFIG has stopped or is out of reach ({kind}){then}"
    return None


def prune_as_told(parse):
    """The whole of a training program: parses the command line, then runs the pipeline."""
    options = parse()
    from distribution.startup import (
        import_tensorflow,
    )  # after the options, so that these are answered at once

    import_tensorflow()
    from ekg.pipeline import prune

    prune(options)
