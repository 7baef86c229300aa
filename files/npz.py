"""Reads arrays from archives, .npz and PyTorch's, that nobody has to trust: member by member,
within bounds.
"""

import contextlib
import io
import math
import os
import zipfile

import numpy as np

from files import guards
from files.guards import NUMBERS, checked_sizes, refusals

# how much smaller than its contents a file may be: deflate reaches 1,000, but on zeros, not on
# weights
SHRINKING = 100
SMALL = 64 << 20  # bytes; contents below are read however much they shrank
# bytes of an archive's list of members, 100 or so a member; ten times that when it is read
DIRECTORY = 16 << 20
HEADER = 1024  # bytes of an .npy header; that of 64 axes has 800


class _ZipSource(io.FileIO):
    """A file that is not read in pieces larger than `most`: those of the directory until that has
    been read.
    """

    most = DIRECTORY

    def read(self, size=-1):
        if size > self.most:
            raise ValueError(f"a directory of {size} bytes")
        return super().read(size)


@contextlib.contextmanager
def opened_zip(path):
    """Opens a .zip of arrays. Gives {name: function that reads the member, bytes}.

    Raises OSError where the file cannot be read, ValueError where it is damaged or announces more
    than such a file holds.
    """
    with refusals(), _ZipSource(path) as source, zipfile.ZipFile(source) as archive:
        source.most = guards.LARGEST
        members = archive.infolist()
        names = [info.filename for info in members]
        if len(set(names)) < len(names):
            raise ValueError("two members of one name")
        total = sum(info.file_size for info in members)
        # A bomb tells the truth here, or lies: then no more than it said is unpacked, and the check
        # sum is wrong.
        if total > min(guards.LARGEST, max(SMALL, SHRINKING * os.fstat(source.fileno()).st_size)):
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

    Raises OSError where the file cannot be read, ValueError where it is no .npz of plain arrays or
    lacks one of `names`.
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
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise ValueError(f"{name} is of format {version}, which holds no plain array")
    shape, fortran, dtype = read_header[version](file, max_header_size=HEADER)
    if dtype.kind not in NUMBERS + "U" or dtype.itemsize == 0:
        raise ValueError(f"{name} is an array of dtype {dtype}, not of numbers")
    size = len(data) - file.tell()
    if math.prod(checked_sizes(shape)) * dtype.itemsize != size:
        raise ValueError(f"{name} has {size} bytes for an array of shape {shape}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(
        shape, order="F" if fortran else "C"
    )
