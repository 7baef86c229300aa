"""PyTorch's tensors in pickles: views of storages, by offset, size and strides.

A file may state any values for them, so they are compared with the storage before memory is taken.
"""

import math

import numpy as np

from files import pickles
from files.guards import checked_sizes
from files.pickle_reader import Name, UnsafePickle

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


def elements(data, kind, order):
    """The numbers in the bytes of a storage, array [count]; bfloat16 becomes float32.

    kind: a key of STORAGES; order: "<" or ">", the bytes' order.
    """
    found = np.frombuffer(data, order + STORAGES[kind])
    if kind == "torch.BFloat16Storage":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return found


def window(data, offset, size, stride):
    """The view of a storage that a tensor is, read-only.

    data: array [count]; offset: int; size, stride: tuples, counted in elements. Raises ValueError
    for a view that the storage does not have.
    """
    if len(stride) != len(size):
        raise ValueError(f"a tensor of size {size} and strides {stride}")
    if 0 in size:
        return np.empty(size, data.dtype)
    # With stride 0, one number can fill a terabyte. So a tensor may not have more elements than
    # its storage.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if last >= len(data) or math.prod(size) > len(data):
        raise ValueError(
            f"a tensor of size {size} and strides {stride} in a storage of {len(data)} elements"
        )
    strides = [step * data.itemsize if n > 1 else data.itemsize for n, step in zip(size, stride)]
    return np.lib.stride_tricks.as_strided(data[offset:], size, strides, writeable=False)


class Storages:
    """The storages of one file that are referred to by persistent ids.

    read(key, {key: bytes per element}) -> the bytes of one storage. It is not called before the
    whole object has been read. little: whether the bytes are little-endian.
    """

    def __init__(self, read, little):
        self.read, self.order = read, "<" if little else ">"
        self.sizes, self.done = {}, {}

    def load(self, stream):
        """The object of the pickle at the stream's position."""
        return pickles.load_pickle_from(stream, "utf-8", NAMES, self.persistent, inert=True)

    def persistent(self, id):
        """The _Storage for a persistent id ("storage", type, key, device, elements[, view]).

        view: None, or before 2018 (its key, offset, elements): a part of the storage.
        """
        known = (
            type(id) is tuple and len(id) in (5, 6) and id[0] == "storage" and type(id[1]) is Name
        )
        if not known or id[1].text not in STORAGES:
            raise UnsafePickle("a persistent id that is not a storage of numbers")
        kind, key, _, count = id[1:5]
        (count,) = checked_sizes((count,))
        size = int(STORAGES[kind.text][1])
        if type(key) is not str or self.sizes.setdefault(key, size) != size:
            raise ValueError("a storage with two types")
        begin, part = 0, count
        if id[5:] not in ((), (None,)):
            if type(id[5]) is not tuple or len(id[5]) != 3:
                raise UnsafePickle("a persistent id that is not a storage of numbers")
            begin, part = checked_sizes(id[5][1:])
        return _Storage(self, kind.text, key, count, begin, part)

    def elements(self, kind, key, count):
        """The elements of a storage, array [count]. Raises ValueError if it has another length."""
        if (kind, key) not in self.done:
            self.done[kind, key] = elements(self.read(key, self.sizes), kind, self.order)
        if len(self.done[kind, key]) != count:
            raise ValueError(
                f"storage {key} has {len(self.done[kind, key])} elements, expected {count}"
            )
        return self.done[kind, key]


class _Storage:
    """A reference to a storage, or to a part of it; its bytes are read later."""

    __slots__ = ("begin", "count", "key", "kind", "part", "storages")

    def __init__(self, storages, kind, key, count, begin, part):
        self.storages, self.kind, self.key, self.count = storages, kind, key, count
        self.begin, self.part = begin, part

    @property
    def elements(self):
        whole = self.storages.elements(self.kind, self.key, self.count)
        if self.begin + self.part > len(whole):
            raise ValueError(f"a part of storage {self.key} that it does not have")
        return whole[self.begin : self.begin + self.part]


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
        return window(self.storage.elements, self.offset, self.size, self.stride)


class _Parameter(pickles.Array):
    """A parameter as it was written until 2017: a tensor, with its gradient's settings as a state.

    In the oldest files the tensor is the first of five values of the state.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor=None, requires_grad=True):
        self.tensor = tensor

    def set_state(self, state):
        if type(state) is tuple and len(state) == 5:
            self.tensor = state[0]

    @property
    def value(self):
        if not isinstance(self.tensor, pickles.Array) or type(self.tensor) is _Parameter:
            raise ValueError("a parameter without a tensor")
        return self.tensor.value


_FUNCTIONS = {
    "torch._utils._rebuild_tensor": lambda storage, offset, size, stride: _Tensor(
        storage, offset, size, stride
    ),
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.nn.parameter.Parameter": _Parameter,
    "torch.autograd.variable.Variable": _Parameter,
    "torch.Size": lambda sizes=(): checked_sizes(tuple(sizes)),
}
# Types that are named and never called, on GPUs and CPUs: those of storages and of tensors.
_TYPES = {
    (f"torch{device}", name.removeprefix("torch.").replace("Storage", suffix)): Name(
        name.replace("Storage", suffix)
    )
    for name in STORAGES
    for device in ("", ".cuda")
    for suffix in ("Storage", "Tensor")
}
NAMES = {
    tuple(text.rsplit(".", 1)): Name(text, function) for text, function in _FUNCTIONS.items()
} | _TYPES
