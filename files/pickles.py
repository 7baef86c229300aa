"""Reads arrays from untrusted pickles.

Parameter files and the CIFAR batches use only a few global names. This module has its own functions
for them, which collect (dtype, shape, bytes) and build the array. Every other name is refused
before anything is called. A shape or length in the file is compared with the bytes that are present
before it is used.
"""

import io
import math
import re

import numpy as np

from files import pickle_reader
from files.guards import DEEPEST, checked_sizes, refusals
from files.inert import is_inert
from files.pickle_reader import Built, Name, UnsafePickle

DTYPE = re.compile("b1|[iu][1248]|f[248]")


class _Dtype(Built):
    """Replaces numpy.dtype: accepts types of numbers and their byte order only."""

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
        raise UnsafePickle(f"a dtype given as {type(value).__name__}")
    return value


class Array(Built):
    """Placeholder for an array while the pickle is read.

    `value` is the array, or None before `set_state` was called.
    """

    __slots__ = ("value",)

    def __init__(self, value=None):
        self.value = value

    def set_state(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data, dtype, shape, order="C"):
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise UnsafePickle("an array whose data are not plain bytes")
    if math.prod(checked_sizes(shape)) * dtype.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None):
    """An array of protocol 5. Order "K" means permuted axes: `shape` is the permuted shape, and the
    bytes are in its C order.
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
for _core in ("numpy.core", "numpy._core"):  # the names in NumPy 1 and NumPy 2
    _FUNCTIONS[_core + ".multiarray", "_reconstruct"] = lambda *_: Array()
    _FUNCTIONS[_core + ".multiarray", "scalar"] = _scalar
    _FUNCTIONS[_core + ".numeric", "_frombuffer"] = _from_buffer
# ndarray is an argument of _reconstruct and must not be called: it would allocate any shape.
_NAMES = {
    key: Name(".".join(key), function)
    for key, function in {**_FUNCTIONS, ("numpy", "ndarray"): None}.items()
}


def _arrays(value, done, depth=0):
    """`value` with every Array replaced by its ndarray, in containers too.

    done: {id of a container: its result, or None while it is being converted}.
    """
    if isinstance(value, Array):
        if (array := value.value) is None:
            raise ValueError("an array without data")
        return array
    if type(value) not in (dict, list, tuple):
        return value
    # Convert each container once: n nested containers can have 2^n paths to the innermost one.
    if id(value) not in done:
        if depth == DEEPEST:
            raise ValueError(f"containers nested deeper than {DEEPEST}")
        done[id(value)] = None
        if isinstance(value, dict):
            done[id(value)] = {key: _arrays(item, done, depth + 1) for key, item in value.items()}
        else:
            done[id(value)] = type(value)(_arrays(item, done, depth + 1) for item in value)
    if done[id(value)] is None:
        raise ValueError("a container that contains itself")
    return done[id(value)]


def load_pickle(data, encoding="ASCII", inert=False):
    """The object in a pickle of plain containers, plain values and NumPy arrays of numbers.

    data: bytes. encoding: "bytes" reads Python 2 pickles such as the CIFAR batches. inert: whether
    values of the kinds in files.inert become pickle_reader.Inert; else they are refused. Arrays are
    ndarrays that share memory with `data`. Dict keys are str, bytes or int. An object that the
    pickle refers to twice is returned as one object. Raises UnsafePickle for anything else (the
    message names it), ValueError if the pickle cannot be read.
    """
    stream = io.BytesIO(data)
    value = load_pickle_from(stream, encoding, inert=inert)
    if stream.read(1):
        raise ValueError("more data follows the pickle")
    return value


def load_pickle_from(stream, encoding="ASCII", names=None, persistent=None, inert=False):
    """Like load_pickle, for one pickle at the position of an io.BytesIO.

    names, persistent: additional global names and persistent ids, see pickle_reader.run.
    """
    with refusals():
        known = {**_NAMES, **(names or {})}
        rule = is_inert if inert else None
        return _arrays(pickle_reader.run(stream, known, encoding, persistent, rule), {})
