"""Reads arrays from files that nobody has to trust: pickles and .npz.

A pickle is a program: it names any callable and calls it. Parameter files and the CIFAR batches need a handful of names
only, so those are answered by stand-ins written here, which collect (dtype, shape, bytes) and build the array themselves,
and every other name is refused before anything is called. An .npz is read member by member, and no header is believed
before the bytes it announces are there.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict

import numpy as np

NUMBERS = "biuf"  # dtype kinds that are plain numbers: bool, int, unsigned, float


class UnsafePickle(Exception):
    """The file names something that is neither a NumPy array of numbers nor a plain container."""


class _Dtype:
    """Stands in for numpy.dtype: keeps a number's type and its byte order, refuses the rest."""

    def __init__(self, spec, align=False, copy=False):
        spec = spec.decode("ascii") if isinstance(spec, bytes) else spec
        dtype = np.dtype(spec) if isinstance(spec, str) else None
        if dtype is None or dtype.kind not in NUMBERS:
            raise UnsafePickle(f"an array of dtype {spec!r}")
        self.dtype = dtype

    def __setstate__(self, state):
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise UnsafePickle(f"a dtype of byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray while the pickle is read; `value` is the array once its state has come."""

    def __init__(self):
        self.value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _build(data, dtype, shape, order="C"):
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise UnsafePickle("an array whose contents are not plain bytes")
    if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {tuple(shape)} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None):
    """Protocol 5. Order "K" is that of an array with permuted axes: its bytes lie in C order of the permuted shape."""
    array = _Array()
    if order == "K" and axes is not None:
        array.value = _build(data, dtype, shape).transpose(axes)
    else:
        array.value = _build(data, dtype, shape, order)
    return array


def _scalar(dtype, data):
    return _build(data, dtype, ())[()].item()


def _encode(text, encoding):
    return text.encode("latin1")  # how protocol 2 writes bytes


_NDARRAY = object()  # only ever handed on to _reconstruct; being no callable, it cannot be called with a shape
_ADMITTED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2 spell it differently
    _ADMITTED[_core + ".multiarray", "_reconstruct"] = lambda *_: _Array()
    _ADMITTED[_core + ".multiarray", "scalar"] = _scalar
    _ADMITTED[_core + ".numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise UnsafePickle(f"{module}.{name}")
        return _ADMITTED[module, name]


def _arrays(value):
    """The same containers with every stand-in replaced by its array."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without contents")
        return value.value
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(item) for item in value)
    return value


def one_line(error):
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def load_pickle(data: bytes, encoding="ASCII"):
    """The object a pickle holds, if it is made of plain containers, plain values and NumPy arrays of numbers.

    `encoding="bytes"` reads Python 2 pickles such as the CIFAR batches. Raises UnsafePickle naming what is not admitted,
    ValueError for anything that is no readable pickle.
    """
    try:
        return _arrays(_Unpickler(io.BytesIO(data), encoding=encoding).load())
    except UnsafePickle as error:
        raise UnsafePickle(one_line(error)) from error
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise ValueError(f"not a readable pickle ({type(error).__name__}: {one_line(error)})") from error


def load_npz(path, names=None):
    """dict name -> array of an .npz: all its arrays, or those of `names`.

    Raises OSError where the file cannot be read, ValueError where it is no .npz of plain arrays or lacks one of `names`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in names or () if name not in members]
            if missing:
                raise ValueError(f"there is no {missing[0]} in it")
            return {name: _npy(archive, members[name]) for name in names or members}
    except OSError:
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise ValueError(one_line(error)) from error


def _npy(archive, member):
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{member.filename} is of format {version}, which holds no plain array")
        shape, fortran, dtype = read_header[version](file)
        if dtype.kind not in NUMBERS + "U":
            raise ValueError(f"{member.filename} is an array of dtype {dtype}, not of numbers")
        data = file.read()
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{member.filename} has {len(data)} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
