"""Reads arrays from pickles that nobody has to trust.

Parameter files and the CIFAR batches need a handful of names only. Those are answered by stand-ins
written here, which collect (dtype, shape, bytes) and build the array themselves, and every other
name is refused before anything is called. No header is believed before the bytes it announces are
there.
"""

import io
import math
import re

import numpy as np

from files import pickle_reader
from files.guards import DEEPEST, checked_sizes, refusals
from files.pickle_reader import Built, Name, UnsafePickle

DTYPE = re.compile("b1|[iu][1248]|f[248]")


class _Dtype(Built):
    """Stands in for numpy.dtype: keeps a number's type and its byte order, refuses the rest."""

    __slots__ = ("dtype",)

    def __init__(self, spec, align=False, copy=False):
        spec = _text(spec)
        if not DTYPE.fullmatch(spec.lstrip("<>=|")):
            raise UnsafePickle(f"an array of dtype {spec[:50]!r}")
        self.dtype = np.dtype(spec)

    def set_state(self, state):
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise UnsafePickle(f"a dtype of byte order {order[:50]!r}")
        self.dtype = self.dtype.newbyteorder(order)


def _text(value):
    value = value.decode("ascii") if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise UnsafePickle(f"an array of a dtype that is a {type(value).__name__}")
    return value


class Array(Built):
    """Stands in for an array while the pickle is read; `value` is the array, None until its state
    has come.
    """

    __slots__ = ("value",)

    def __init__(self, value=None):
        self.value = value

    def set_state(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data, dtype, shape, order="C"):
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise UnsafePickle("an array whose contents are not plain bytes")
    if math.prod(checked_sizes(shape)) * dtype.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None):
    """Protocol 5. Order "K" is that of an array with permuted axes: its bytes lie in C order of the
    permuted shape.
    """
    if order == "K" and axes is not None:
        return Array(_build(data, dtype, shape).transpose(checked_sizes(axes)))
    return Array(_build(data, dtype, shape, order))


def _scalar(dtype, data):
    return _build(data, dtype, ())[()].item()


def _encode(text, encoding):
    return text.encode("latin1")  # how protocol 2 writes bytes


def _ordered_dict(items=()):
    return {pickle_reader.plain_key(key): value for key, value in items}


_FUNCTIONS = {
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered_dict,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2 spell it differently
    _FUNCTIONS[_core + ".multiarray", "_reconstruct"] = lambda *_: Array()
    _FUNCTIONS[_core + ".multiarray", "scalar"] = _scalar
    _FUNCTIONS[_core + ".numeric", "_frombuffer"] = _from_buffer
# ndarray is only ever handed on to _reconstruct: called with a shape, it would take memory for it
_NAMES = {
    key: Name(".".join(key), function)
    for key, function in {**_FUNCTIONS, ("numpy", "ndarray"): None}.items()
}


def _arrays(value, done, depth=0):
    """The same containers with every stand-in replaced by its array. done: {id of a container: what
    became of it}.
    """
    if isinstance(value, Array):
        if (array := value.value) is None:
            raise ValueError("an array without contents")
        return array
    if type(value) not in (dict, list, tuple):
        return value
    if (
        id(value) not in done
    ):  # a container that is met again is not gone through again: there may be 2^n ways to it
        if depth == DEEPEST:
            raise ValueError(f"containers that are nested deeper than {DEEPEST}")
        done[id(value)] = None
        if isinstance(value, dict):
            done[id(value)] = {key: _arrays(item, done, depth + 1) for key, item in value.items()}
        else:
            done[id(value)] = type(value)(_arrays(item, done, depth + 1) for item in value)
    if done[id(value)] is None:
        raise ValueError("a container that holds itself")
    return done[id(value)]


def load_pickle(data, encoding="ASCII"):
    """The object a pickle holds, if it is made of plain containers, plain values and NumPy arrays
    of numbers.

    data: bytes. `encoding="bytes"` reads Python 2 pickles such as the CIFAR batches. An array comes
    back as an ndarray that shares memory with `data`, a dict with keys that are text, bytes or
    numbers; an object met twice comes back as one. Raises UnsafePickle naming what is not admitted,
    ValueError for anything that is no readable pickle.
    """
    stream = io.BytesIO(data)
    value = load_pickle_from(stream, encoding)
    if stream.read(1):
        raise ValueError("something follows the pickle")
    return value


def load_pickle_from(stream, encoding="ASCII", names=None, persistent=None):
    """load_pickle of one pickle of an io.BytesIO, with more `names` and with persistent ids: see
    pickle_reader.run.
    """
    with refusals():
        return _arrays(
            pickle_reader.run(stream, {**_NAMES, **(names or {})}, encoding, persistent), {}
        )
