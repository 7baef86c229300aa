"""Reads the arrays of .safetensors files, https://github.com/huggingface/safetensors.

Such a file is a JSON header with the name, type, shape and byte range of each array, followed by
the bytes. The library checks the header, and that the byte ranges match the shapes and fill the
file. The arrays are made here from the library's bytes, because NumPy has no bfloat16.
"""

import numpy as np
import safetensors

from files import guards, npz

# bfloat16 is the upper half of a float32, read as uint16.
TYPES = {"BOOL": "b1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
TYPES |= {
    f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)
}


def is_safetensors(path):
    """Whether the file starts like .safetensors: the header's length in 8 bytes, then "{".

    Raises OSError.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    # A header is smaller than 4 GiB, so bytes 4 to 7 are 0. A pickle or .zip has no such zeros.
    return start[4:] == bytes(4) + b"{"


def load_safetensors(path):
    """dict name -> array, with the dtype in the file; bfloat16 becomes float32.

    Raises OSError, or ValueError for a damaged file.
    """
    data = guards.read_file(path)
    with guards.refusals():
        length = int.from_bytes(data[:8], "little")
        if length > npz.DIRECTORY:  # parsing takes ten times as much memory
            raise ValueError(f"a header of {length} bytes")
        try:
            entries = safetensors.deserialize(data)
        except safetensors.SafetensorError as error:  # its message depends on the version
            raise ValueError("its header is damaged or does not match the data") from error
        return {name: _array(name, entry) for name, entry in entries}


def _array(name, entry):
    kind, shape = entry["dtype"], guards.checked_sizes(tuple(entry["shape"]))
    if kind not in TYPES:
        raise ValueError(f"{name} has type {kind}, which is not supported")
    array = np.frombuffer(entry["data"], TYPES[kind])
    if kind == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(shape)
