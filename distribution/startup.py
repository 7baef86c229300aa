"""Imports TensorFlow without the messages that it logs at start, and with oneDNN."""

import contextlib
import gc
import os
import sys

# Whether TensorFlow's log was asked for, before import_tensorflow sets its level: 3 means silence.
LOG_ASKED_FOR = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3").strip() not in ("", "3")


@contextlib.contextmanager
def without_greetings():
    """Silences stderr inside the block, unless TF_CPP_MIN_LOG_LEVEL asks for TensorFlow's log.

    Yields a file descriptor that still writes to stderr. The log level alone is not enough:
    TensorFlow writes some messages before it reads the level.
    """
    if LOG_ASKED_FOR:
        yield 2
        return
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed
        yield 2
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@contextlib.contextmanager
def hidden(*modules):
    """Inside the block, `import` does not find those of `modules` that are not imported yet."""
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # None: Python raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def without_collection():
    """Pauses Python's garbage collector: what a module makes while it is imported stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_tensorflow(*, whole_keras=False):
    """Imports TensorFlow silently, so that an error message of one line is not lost in its log.

    By itself it uses oneDNN only on processors with AVX-512 VNNI. With AVX2 oneDNN trains nearly
    twice as fast (docs/performance.md), and only with oneDNN do networks without their masked
    filters keep the rounding of masked ones. TF_ENABLE_ONEDNN_OPTS=0 turns it off.

    TensorFlow imports Keras, and Keras imports scikit-learn and Matplotlib if they are installed,
    for wrappers and pictures that no program here uses. That took a third of the time of all
    imports, so they are hidden from Keras.

    whole_keras: whether Keras may import them; for processes that are not programs of this project.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    unused = () if whole_keras else ("matplotlib", "sklearn")
    with without_greetings(), without_collection(), hidden(*unused):
        import tensorflow  # noqa: F401
