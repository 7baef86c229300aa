"""Reads arrays from files that nobody has to trust: pickles and .npz.

Parameter files and the CIFAR batches need a handful of names only. Those are answered by stand-ins written here, which
collect (dtype, shape, bytes) and build the array themselves, and every other name is refused before anything is called. An
.npz is read member by member. No header is believed before the bytes it announces are there.
"""

import contextlib
import io
import math
import os
import re
import zipfile

import numpy as np

import pickle_reader
from pickle_reader import Built, Name, UnsafePickle

NUMBERS = "biuf"  # dtype kinds that are plain numbers: bool, int, unsigned, float
LARGEST = 4 << 30  # bytes of a file and of its arrays; VGG-16 in float64 has 1.1 GB, the largest file that is asked for here
SHRINKING = 100  # how much smaller than its contents a file may be: deflate reaches 1,000, but on zeros, not on weights
SMALL = 64 << 20  # bytes; contents below are read however much they shrank
DEEPEST = 64  # containers in containers, axes of an array
DIRECTORY = 16 << 20  # bytes of an archive's list of members, 100 or so a member; ten times that when it is read
HEADER = 1024  # bytes of an .npy header; that of 64 axes has 800
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
    """Stands in for an array while the pickle is read; `value` is the array, None until its state has come."""

    __slots__ = ("value",)

    def __init__(self, value=None):
        self.value = value

    def set_state(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def checked_sizes(sizes):
    """`sizes`, a tuple of a shape or of strides, if it is one of at most DEEPEST plain lengths; raises ValueError."""
    if type(sizes) is not tuple or len(sizes) > DEEPEST:
        raise ValueError("a shape that is none")
    for n in sizes:
        if type(n) is not int or not 0 <= n < 2**63:
            raise ValueError("a shape that holds no length")
    return sizes


def _build(data, dtype, shape, order="C"):
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise UnsafePickle("an array whose contents are not plain bytes")
    if math.prod(checked_sizes(shape)) * dtype.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _from_buffer(data, dtype, shape, order, axes=None):
    """Protocol 5. Order "K" is that of an array with permuted axes: its bytes lie in C order of the permuted shape."""
    if order == "K" and axes is not None:
        return Array(_build(data, dtype, shape).transpose(checked_sizes(axes)))
    return Array(_build(data, dtype, shape, order))


def _scalar(dtype, data):
    return _build(data, dtype, ())[()].item()


def _encode(text, encoding):
    return text.encode("latin1")  # how protocol 2 writes bytes


def _ordered_dict(items=()):
    return {pickle_reader.plain_key(key): value for key, value in items}


_FUNCTIONS = {("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode, ("collections", "OrderedDict"): _ordered_dict}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2 spell it differently
    _FUNCTIONS[_core + ".multiarray", "_reconstruct"] = lambda *_: Array()
    _FUNCTIONS[_core + ".multiarray", "scalar"] = _scalar
    _FUNCTIONS[_core + ".numeric", "_frombuffer"] = _from_buffer
# ndarray is only ever handed on to _reconstruct: called with a shape, it would take memory for it
_NAMES = {key: Name(".".join(key), function) for key, function in {**_FUNCTIONS, ("numpy", "ndarray"): None}.items()}


def _arrays(value, done, depth=0):
    """The same containers with every stand-in replaced by its array. done: {id of a container: what became of it}."""
    if isinstance(value, Array):
        if (array := value.value) is None:
            raise ValueError("an array without contents")
        return array
    if type(value) not in (dict, list, tuple):
        return value
    if id(value) not in done:  # a container that is met again is not gone through again: there may be 2^n ways to it
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


def one_line(error):
    """What an exception says, on one line of printable characters."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in line)  # no colours, no cursor movements out of a file


@contextlib.contextmanager
def refusals():
    """Whatever reading a damaged file raises in this block, but for OSError and UnsafePickle, is a ValueError of one line."""
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
    """The bytes of a file. Raises OSError, or ValueError for one that is larger than any file of arrays."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes, more than {LARGEST}")
        return file.read(size)  # what says that it has no size, /dev/zero, is not read to its end


def load_pickle(data, encoding="ASCII"):
    """The object a pickle holds, if it is made of plain containers, plain values and NumPy arrays of numbers.

    data: bytes. `encoding="bytes"` reads Python 2 pickles such as the CIFAR batches. An array comes back as an ndarray that
    shares memory with `data`, a dict with keys that are text, bytes or numbers; an object met twice comes back as one.
    Raises UnsafePickle naming what is not admitted, ValueError for anything that is no readable pickle.
    """
    stream = io.BytesIO(data)
    value = load_pickle_from(stream, encoding)
    if stream.read(1):
        raise ValueError("something follows the pickle")
    return value


def load_pickle_from(stream, encoding="ASCII", names=None, persistent=None):
    """load_pickle of one pickle of an io.BytesIO, with more `names` and with persistent ids: see pickle_reader.run."""
    with refusals():
        return _arrays(pickle_reader.run(stream, {**_NAMES, **(names or {})}, encoding, persistent), {})


class _ZipSource(io.FileIO):
    """A file that is not read in pieces larger than `most`: those of the directory until that has been read."""

    most = DIRECTORY

    def read(self, size=-1):
        if size > self.most:
            raise ValueError(f"a directory of {size} bytes")
        return super().read(size)


@contextlib.contextmanager
def opened_zip(path):
    """Opens a .zip of arrays. Gives {name: function that reads the member, bytes}.

    Raises OSError where the file cannot be read, ValueError where it is damaged or announces more than such a file holds.
    """
    with refusals(), _ZipSource(path) as source, zipfile.ZipFile(source) as archive:
        source.most = LARGEST
        members = archive.infolist()
        names = [info.filename for info in members]
        if len(set(names)) < len(names):
            raise ValueError("two members of one name")
        total = sum(info.file_size for info in members)
        # A bomb tells the truth here, or lies: then no more than it said is unpacked, and the check sum is wrong.
        if total > min(LARGEST, max(SMALL, SHRINKING * os.fstat(source.fileno()).st_size)):
            raise ValueError(f"it announces {total} bytes, more than arrays of its size have")
        yield {info.filename: lambda info=info: _member(archive, info) for info in members}


def _member(archive, info):
    # The other methods unpack as much as there is, however little was asked for.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted or compressed in an odd way")
    with archive.open(info) as file:
        data = file.read(info.file_size)
        if len(data) < info.file_size or file.read(1):
            raise ValueError(f"{info.filename} has not the size it announces")
    return data


def load_npz(path, names=None):
    """dict name -> array of an .npz: all its arrays, or those of `names`.

    Raises OSError where the file cannot be read, ValueError where it is no .npz of plain arrays or lacks one of `names`.
    """
    with opened_zip(path) as files:
        members = {file.removesuffix(".npy"): read for file, read in files.items()}
        missing = [name for name in names or () if name not in members]
        if missing:
            raise ValueError(f"there is no {missing[0]} in it")
        return {name: _npy(name, members[name]()) for name in names or members}


def _npy(name, data):
    file = io.BytesIO(data[:HEADER])
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"{name} is of format {version}, which holds no plain array")
    shape, fortran, dtype = read_header[version](file, max_header_size=HEADER)
    if dtype.kind not in NUMBERS + "U" or dtype.itemsize == 0:
        raise ValueError(f"{name} is an array of dtype {dtype}, not of numbers")
    size = len(data) - file.tell()
    if math.prod(checked_sizes(shape)) * dtype.itemsize != size:
        raise ValueError(f"{name} has {size} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
