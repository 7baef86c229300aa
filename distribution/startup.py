"""How TensorFlow starts: late, and without greetings."""

import contextlib
import os

LOG_ASKED_FOR = "TF_CPP_MIN_LOG_LEVEL" in os.environ  # before import_tensorflow sets it


@contextlib.contextmanager
def without_greetings():
    """stderr rests in this block, unless TF_CPP_MIN_LOG_LEVEL asks for TensorFlow's log. Gives the
    descriptor that still is it.

    TensorFlow writes some of its greetings before it reads its own log level.
    """
    if LOG_ASKED_FOR:
        yield 2
        return
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def import_tensorflow():
    """Imports TensorFlow without its greetings, which would bury the one line a user's mistake is
    answered with.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_greetings():
        import tensorflow
    if not LOG_ASKED_FOR:
        # One class makes all steps, which TensorFlow takes for one function that is traced again
        # and again.
        tensorflow.get_logger().setLevel("ERROR")
