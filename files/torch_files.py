"""Reads the arrays of PyTorch's .pth files without PyTorch.

PyTorch need not be installed, and the files need not be trusted. There are three formats, see
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py:

- since 1.6, a .zip with a pickle, data.pkl, and one member per storage;
- before, five pickles (magic number, version, system, object, keys of the storages), followed by
  the storages;
- before 0.1.10, a .tar, see files.torch_tar.
"""

import io

from files import guards, npz, pickle_reader
from files.pickle_reader import Inert, UnsafePickle
from files.tar import MAGIC as TAR
from files.tar import MAGIC_AT
from files.torch_tar import is_torch_tar, load_torch_tar
from files.torch_tensors import Storages

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the first pickle of the second format


def is_pth(path):
    """Whether the file starts like one of PyTorch's formats.

    Raises OSError, or ValueError for a damaged .zip or .tar.
    """
    with open(path, "rb") as file:
        start = file.read(MAGIC_AT + len(TAR))
    if start.startswith(b"PK"):
        with npz.opened_zip(path) as members:
            return any(name.endswith("/data.pkl") for name in members)
    return MAGIC in start[:32] or (start[MAGIC_AT:] == TAR and is_torch_tar(path))


def load_pth(path):
    """The dict in a .pth: name -> array for a state dict; plain values and arrays for a checkpoint.

    Arrays have the dtype of their tensor; bfloat16 becomes float32. They may share memory and may
    be read-only. Values of the kinds in files.inert are not read: a pickle_reader.Inert stands in
    their place. Raises OSError, ValueError for a damaged file, and UnsafePickle for anything but
    these, tensors of numbers and plain containers (the message names it).
    """
    with open(path, "rb") as file:
        start = file.read(MAGIC_AT + len(TAR))
    if start.startswith(b"PK"):
        value = _load_zip(path)
    else:
        value = load_torch_tar(path) if start[MAGIC_AT:] == TAR else _load_stream(path)
    if isinstance(value, Inert):
        raise UnsafePickle(value.text)
    if not isinstance(value, dict):
        raise ValueError(f"it contains a {type(value).__name__}, expected a dict")
    return value


def _load_zip(path):
    with npz.opened_zip(path) as members:
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"it has {len(roots)} members data.pkl, expected 1")
        order = (
            members[roots[0] + "byteorder"]() if roots[0] + "byteorder" in members else b"little"
        )
        storages = Storages(lambda key, _: members[f"{roots[0]}data/{key}"](), order == b"little")
        return storages.load(io.BytesIO(members[roots[0] + "data.pkl"]()))


def _load_stream(path):
    stream = io.BytesIO(guards.read_file(path))
    with guards.refusals():
        _, _, system = (pickle_reader.run(stream, {}) for _ in range(3))
        little = system["little_endian"]
    contents = {}

    def read(key, sizes):
        # The first call comes after the object was read, so the stream is at the storages.
        if not contents:
            for name in pickle_reader.run(stream, {}):
                count = int.from_bytes(stream.read(8), "little" if little else "big")
                contents[name] = stream.read(count * sizes[name])
        return contents[key]

    return Storages(read, little).load(stream)
