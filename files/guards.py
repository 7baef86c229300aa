"""What reading files that nobody has to trust has in common: limits, and errors of one line."""

import contextlib
import os

from files.pickle_reader import UnsafePickle

NUMBERS = "biuf"  # dtype kinds that are plain numbers: bool, int, unsigned, float
# Bytes of a file and of its arrays. VGG-16 in float64, the largest file asked for here, has 1.1 GB.
LARGEST = 4 << 30
DEEPEST = 64  # containers in containers, axes of an array


def checked_sizes(sizes):
    """`sizes`, a tuple of a shape or of strides, if it is one of at most DEEPEST plain lengths;
    raises ValueError.
    """
    if type(sizes) is not tuple or len(sizes) > DEEPEST:
        raise ValueError("a shape that is none")
    for n in sizes:
        if type(n) is not int or not 0 <= n < 2**63:
            raise ValueError("a shape that holds no length")
    return sizes


def one_line(error):
    """What an exception says, on one line of printable characters."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return "".join(
        c if c.isprintable() else "?" for c in line
    )  # no colours, no cursor movements out of a file


@contextlib.contextmanager
def refusals():
    """Whatever reading a damaged file raises in this block, but for OSError and UnsafePickle, is a
    ValueError of one line.
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
    """The bytes of a file. Raises OSError, or ValueError for one that is larger than any file of
    arrays.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes, more than {LARGEST}")
        return file.read(size)  # what says that it has no size, /dev/zero, is not read to its end
