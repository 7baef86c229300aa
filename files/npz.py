"""Reads arrays from untrusted .zip archives (.npz, PyTorch's .pth), within fixed limits."""

import contextlib
import io
import math
import os
import warnings
import zipfile

import numpy as np

from files import guards
from files.guards import NUMBERS, checked_sizes, refusals

# The highest compression ratio accepted. Deflate reaches 1,000 on zeros, but never on weights.
SHRINKING = 100
SMALL = 64 << 20  # bytes; contents up to this size are read at any compression ratio
# Bytes of an archive's list of members, about 100 per member. Reading it takes ten times as much.
DIRECTORY = 16 << 20
HEADER = 1024  # bytes of an .npy header; one with 64 axes has 800


class _ZipSource(io.FileIO):
    """A file that refuses reads of more than `most` bytes.

    `most` is DIRECTORY until the list of members has been read.
    """

    most = DIRECTORY

    def read(self, size=-1):
        if size > self.most:
            raise ValueError(f"its list of members has {size} bytes")
        return super().read(size)


@contextlib.contextmanager
def opened_zip(path):
    """Opens a .zip of arrays. Yields {name: function that returns the member's bytes}.

    Raises OSError if the file cannot be read, ValueError if it is damaged or announces more bytes
    than a file of arrays can hold.
    """
    with refusals(), _ZipSource(path) as source, zipfile.ZipFile(source) as archive:
        source.most = guards.LARGEST
        members = archive.infolist()
        names = [info.filename for info in members]
        if len(set(names)) < len(names):
            raise ValueError("two members have the same name")
        total = sum(info.file_size for info in members)
        # A zip bomb is refused here if it announces its true size. If it lies, `_member` unpacks no
        # more than it announced, and the check sum fails.
        if total > min(guards.LARGEST, max(SMALL, SHRINKING * os.fstat(source.fileno()).st_size)):
            raise ValueError(f"it announces {total} bytes, too many for a file of its size")
        yield {info.filename: lambda info=info: _member(archive, info) for info in members}


def _member(archive, info):
    # Other compression methods unpack everything, even if only a few bytes are read.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted or uses an unsupported compression")
    with archive.open(info) as file:
        data = file.read(info.file_size)
        if len(data) < info.file_size or file.read(1):
            raise ValueError(f"{info.filename} does not have the size it announces")
    return data


def load_npz(path, names=None, optional=()):
    """dict name -> array of an .npz: all its arrays, or only those in `names` and `optional`.

    Raises OSError if the file cannot be read, ValueError if it is not an .npz of plain arrays or if
    one of `names` is missing.
    """
    with opened_zip(path) as files:
        members = {file.removesuffix(".npy"): read for file, read in files.items()}
        missing = [name for name in names or () if name not in members]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        wanted = [*names, *(name for name in optional if name in members)] if names else members
        return {name: _npy(name, members[name]()) for name in wanted}


def _npy(name, data):
    """The array in the bytes of an .npy file."""
    file = io.BytesIO(data[:HEADER])
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise ValueError(f"{name} has .npy format {version}, which is not supported")
    with warnings.catch_warnings():
        # NumPy warns that headers from Python 2, and some damaged ones, are slow to parse.
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran, dtype = read_header[version](file, max_header_size=HEADER)
    if dtype.kind not in NUMBERS + "U" or dtype.itemsize == 0:
        raise ValueError(f"{name} has dtype {dtype}, expected numbers")
    size = len(data) - file.tell()
    if math.prod(checked_sizes(shape)) * dtype.itemsize != size:
        raise ValueError(f"{name} has {size} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(
        shape, order="F" if fortran else "C"
    )
