"""Shared by all readers of untrusted files: size limits, and errors of one line."""

import contextlib
import os

from files.pickle_reader import UnsafePickle

NUMBERS = "biuf"  # dtype kinds of plain numbers: bool, int, unsigned, float
# Bytes per file, and of all its arrays. The largest expected file, VGG-16 in float64, has 1.1 GB.
LARGEST = 4 << 30
DEEPEST = 64  # nested containers; axes of an array


def checked_sizes(sizes):
    """Returns `sizes` if it is a valid shape or tuple of strides: at most DEEPEST ints >= 0.

    Raises ValueError otherwise.
    """
    if type(sizes) is not tuple or len(sizes) > DEEPEST:
        raise ValueError(f"a shape is not a tuple of at most {DEEPEST} sizes")
    for n in sizes:
        if type(n) is not int or not 0 <= n < 2**63:
            raise ValueError("a shape contains an invalid size")
    return sizes


def one_line(error):
    """The message of an exception as one line of at most 300 printable characters."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    # A file must not be able to send colours or cursor movements to the terminal.
    return "".join(c if c.isprintable() else "?" for c in line)


@contextlib.contextmanager
def refusals():
    """Turns every exception in the block into a ValueError of one line.

    OSError and UnsafePickle keep their type. A damaged file can raise almost anything.
    """
    try:
        yield
    except OSError:
        raise
    except UnsafePickle as error:
        raise UnsafePickle(one_line(error)) from error
    except Exception as error:
        reason = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(reason + one_line(error)) from error


def read_file(path):
    """The bytes of a file. Raises OSError, or ValueError if it is larger than LARGEST."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes, more than {LARGEST}")
        # Read `size` bytes at most: /dev/zero reports size 0 but never ends.
        return file.read(size)
