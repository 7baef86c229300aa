"""Reads the arrays of PyTorch's .pth files without PyTorch.

PyTorch need not be installed, and the files need not be trusted. There are two formats, see
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py:

- since 1.6, a .zip with a pickle, data.pkl, and one member per storage;
- before, five pickles (magic number, version, system, object, keys of the storages), followed by
  the storages.

A tensor is a view of a storage: offset, size, strides. The file may state any values for them.
"""

import io
import math

import numpy as np

from files import guards, npz, pickle_reader, pickles
from files.guards import checked_sizes
from files.pickle_reader import Name, UnsafePickle

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the first pickle of the old format
STORAGES = {
    "torch.BoolStorage": "b1",
    "torch.ByteStorage": "u1",
    "torch.CharStorage": "i1",
    "torch.ShortStorage": "i2",
    "torch.IntStorage": "i4",
    "torch.LongStorage": "i8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",  # the upper half of a float32
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
}


def is_pth(path):
    """Whether the file starts like one of PyTorch's formats.

    Raises OSError, or ValueError for a damaged .zip.
    """
    with open(path, "rb") as file:
        start = file.read(32)
    if not start.startswith(b"PK"):
        return MAGIC in start
    with npz.opened_zip(path) as members:
        return any(name.endswith("/data.pkl") for name in members)


def load_pth(path):
    """The dict in a .pth: name -> array for a state dict; plain values and arrays for a checkpoint.

    Arrays have the dtype of their tensor; bfloat16 becomes float32. They may share memory and may
    be read-only. Raises OSError, ValueError for a damaged file, and UnsafePickle for anything but
    tensors of numbers and plain containers (the message names it).
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    value = _load_zip(path) if zipped else _load_legacy(path)
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
        storages = _Storages(lambda key, _: members[f"{roots[0]}data/{key}"](), order == b"little")
        return storages.load(io.BytesIO(members[roots[0] + "data.pkl"]()))


def _load_legacy(path):
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

    return _Storages(read, little).load(stream)


class _Storages:
    """The storages of one file.

    read(key, {key: bytes per element}) -> the bytes of one storage. It is not called before the
    whole object has been read. little: whether the bytes are little-endian.
    """

    def __init__(self, read, little):
        self.read, self.order = read, "<" if little else ">"
        self.sizes, self.done = {}, {}

    def load(self, stream):
        """The object of the pickle at the stream's position."""
        return pickles.load_pickle_from(stream, "utf-8", _NAMES, self.persistent)

    def persistent(self, id):
        """The _Storage for a persistent id ("storage", type, key, device, elements[, None])."""
        known = (
            type(id) is tuple and len(id) in (5, 6) and id[0] == "storage" and type(id[1]) is Name
        )
        if not known or id[1].text not in STORAGES or id[5:] not in ((), (None,)):
            raise UnsafePickle("a persistent id that is not a storage of numbers")
        kind, key, _, count = id[1:5]
        (count,) = checked_sizes((count,))
        size = int(STORAGES[kind.text][1])
        if type(key) is not str or self.sizes.setdefault(key, size) != size:
            raise ValueError("a storage with two types")
        return _Storage(self, kind.text, key, count)

    def elements(self, kind, key, count):
        """The elements of a storage, array [count]. Raises ValueError if it has another length."""
        if (kind, key) not in self.done:
            data = np.frombuffer(self.read(key, self.sizes), self.order + STORAGES[kind])
            if kind == "torch.BFloat16Storage":
                data = (data.astype(np.uint32) << 16).view(np.float32)
            self.done[kind, key] = data
        if len(self.done[kind, key]) != count:
            raise ValueError(
                f"storage {key} has {len(self.done[kind, key])} elements, expected {count}"
            )
        return self.done[kind, key]


class _Storage:
    """A reference to a storage; its bytes are read later, by _Storages.elements."""

    __slots__ = ("count", "key", "kind", "storages")

    def __init__(self, storages, kind, key, count):
        self.storages, self.kind, self.key, self.count = storages, kind, key, count


class _Tensor(pickles.Array):
    """A tensor. Its array is made on access to `value`, when all storages can be read."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(
        self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
    ):
        if type(storage) is not _Storage:
            raise ValueError("a tensor without a storage")
        (self.offset,), self.size, self.stride = (
            checked_sizes((offset,)),
            checked_sizes(size),
            checked_sizes(stride),
        )
        self.storage = storage

    def set_state(self, state):
        raise ValueError("a tensor with a state")

    @property
    def value(self):
        s = self.storage
        data = s.storages.elements(s.kind, s.key, s.count)
        if len(self.stride) != len(self.size):
            raise ValueError(f"a tensor of size {self.size} and strides {self.stride}")
        if 0 in self.size:
            return np.empty(self.size, data.dtype)
        # With stride 0, one number can fill a terabyte. So a tensor may not have more elements than
        # its storage.
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.size, self.stride))
        if last >= len(data) or math.prod(self.size) > len(data):
            raise ValueError(
                f"a tensor of size {self.size} and strides {self.stride} in a storage of"
                f" {len(data)} elements"
            )
        strides = [
            stride * data.itemsize if n > 1 else data.itemsize
            for n, stride in zip(self.size, self.stride)
        ]
        return np.lib.stride_tricks.as_strided(
            data[self.offset :], self.size, strides, writeable=False
        )


_FUNCTIONS = {
    "_rebuild_tensor_v2": _Tensor,
    "_rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
}
_NAMES = {
    ("torch._utils", name): Name(f"torch._utils.{name}", function)
    for name, function in _FUNCTIONS.items()
}
_NAMES |= {tuple(name.split(".")): Name(name) for name in STORAGES}
