"""PyTorch's first format: a .tar of four members.

- sys_info: a pickle; little_endian is the order of all numbers;
- storages: their number, and per storage a pickle (key, device, type), the number of its elements
  and the elements; then a pickle of parts [(key, key of the whole, offset, elements)];
- tensors: their number, and per tensor a pickle (key, key of its storage or None, type), its number
  of axes (4 bytes, and 4 that are not used), size, strides and offset;
- pickle: the object, whose tensors and storages are persistent ids, the keys as text.
"""

import io

import numpy as np

from files import guards, pickle_reader, pickles
from files.guards import checked_sizes
from files.pickle_reader import Name, UnsafePickle
from files.tar import tar_members
from files.torch_tensors import NAMES, STORAGES, elements, window

MEMBERS = {"sys_info", "storages", "tensors", "pickle"}
MOST = 2**14  # storages or tensors; networks have a thousand


def is_torch_tar(path):
    """Whether the .tar has PyTorch's members. Raises OSError; ValueError if it is damaged."""
    return MEMBERS <= dict(_members(path)).keys()


def load_torch_tar(path):
    """The object in the file, see files.torch_files.load_pth, with the same exceptions."""
    members = dict(_members(path))
    stream = {name: io.BytesIO(members[name]) for name in MEMBERS}
    with guards.refusals():
        little = pickle_reader.run(stream["sys_info"], {})["little_endian"]
        order = "<" if little else ">"
        storages = _storages(stream["storages"], order)
        tensors = _tensors(stream["tensors"], storages, order)

    def persistent(key):
        if type(key) is not str:
            raise UnsafePickle("a persistent id that is not a tensor")
        found = tensors if int(key) in tensors else storages
        return pickles.Array(found[int(key)])

    return pickles.load_pickle_from(stream["pickle"], "utf-8", NAMES, persistent, inert=True)


def _members(path):
    return tar_members(memoryview(guards.read_file(path)))


def _unpickled(stream):
    return pickle_reader.run(stream, NAMES, "utf-8")


def _counted(stream):
    """Yields as many times as the pickle at the stream's position says."""
    count = _unpickled(stream)
    if type(count) is not int or count > MOST:
        raise ValueError(f"more than {MOST} tensors")
    return range(count)


def _numbers(stream, order, count, kind="i8"):
    """The next `count` integers of the stream, as a tuple of sizes."""
    data = stream.read(count * np.dtype(kind).itemsize)
    numbers = np.frombuffer(data, order + kind)
    if len(numbers) != count:
        raise ValueError("it is cut short")
    return checked_sizes(tuple(numbers.tolist()))


def _storages(stream, order):
    """{key: array [count]} of the member `storages`."""
    found = {}
    for _ in _counted(stream):
        key, _, kind = _unpickled(stream)
        if type(kind) is not Name or kind.text not in STORAGES:
            raise UnsafePickle("a storage that is not of numbers")
        (count,) = _numbers(stream, order, 1)
        found[key] = elements(stream.read(count * int(STORAGES[kind.text][1])), kind.text, order)
        if len(found[key]) != count:
            raise ValueError(f"a storage has {len(found[key])} elements, expected {count}")
    for key, whole, *part in _unpickled(stream):
        offset, count = checked_sizes(tuple(part))
        found[key] = found[whole][offset : offset + count]
    return found


def _tensors(stream, storages, order):
    """{key: array} of the member `tensors`."""
    found = {}
    for _ in _counted(stream):
        key, storage, _ = _unpickled(stream)
        (axes,) = _numbers(stream, order, 1, "i4")
        stream.read(4)
        if axes > guards.DEEPEST:
            raise ValueError(f"a tensor of {axes} axes")
        size, stride = _numbers(stream, order, axes), _numbers(stream, order, axes)
        (offset,) = _numbers(stream, order, 1)
        data = np.empty(0, np.float32) if storage is None else storages[storage]
        found[key] = window(data, offset, size, stride)
    return found
