"""Reads the arrays of .safetensors, https://github.com/huggingface/safetensors: a header in JSON
that says of each array its name, type, shape and place, and the bytes of all.

The library checks that the header is one, and that places fit shapes and fill the file. Arrays are
made here from the bytes it gives, since NumPy has no bfloat16 for it.
"""

import numpy as np
import safetensors

from files import guards, npz

TYPES = {
    "BOOL": "b1",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "<u2",
}  # bfloat16: the upper half of a float32
TYPES |= {
    f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)
}


def is_safetensors(path):
    """Whether the file begins as one: eight bytes that are the length of a header, and a header.
    Raises OSError.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    return (
        start[4:] == bytes(4) + b"{"
    )  # none has a header of 4 GiB, and neither a pickle nor a .zip such zeros


def load_safetensors(path):
    """dict name -> array, of the type it has in the file; bfloat16 becomes float32. Raises OSError,
    ValueError.
    """
    data = guards.read_file(path)
    with guards.refusals():
        length = int.from_bytes(data[:8], "little")
        if length > npz.DIRECTORY:  # ten times that when it is read, as a .zip's
            raise ValueError(f"a header of {length} bytes")
        try:
            entries = safetensors.deserialize(data)
        except safetensors.SafetensorError as error:  # its words change from version to version
            raise ValueError("its header is damaged, or not that of what follows") from error
        return {name: _array(name, entry) for name, entry in entries}


def _array(name, entry):
    kind, shape = entry["dtype"], guards.checked_sizes(tuple(entry["shape"]))
    if kind not in TYPES:
        raise ValueError(f"{name} is of type {kind}, which is not read")
    array = np.frombuffer(entry["data"], TYPES[kind])
    if kind == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(shape)
