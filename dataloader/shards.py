"""Where the images lie in TFRecord shards, so that each can be read alone and most of a shard need
not be read to know it.

A shard is a chain of frames: length, its check sum, data, their check sum. The data are a
tf.train.Example, a protocol buffer (tensorflow/core/example/feature.proto), whose fields say their
lengths: going from one to the next finds the label and where the encoded image begins, and leaves
the image alone, which is nearly all of the shard. No length is believed before it is compared with
what is there.
"""

import mmap
import os
import struct

import numpy as np

from dataloader.encoded import LARGEST
from files.guards import one_line

HEAD, TAIL = (
    struct.Struct("<QI"),
    4,
)  # length and its check sum, before a record; the check sum of its data, behind
MOST_FIELDS = 1000  # of a record; the customary ones have about 15 features of 4 fields
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
IMAGE, LABEL = b"image/encoded", b"image/class/label"


def index_shard(path):
    """(offsets, sizes, labels, problems): int64 [n], int64 [n], int64 [n] of the records that have
    an image and a label.

    problems: (record from 0, line) of those that have not, and of the place behind which the shard
    cannot be read. Raises OSError.
    """
    found, problems = [], []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if hasattr(mmap, "MADV_RANDOM"):
                    data.madvise(mmap.MADV_RANDOM)  # or the system would read the images ahead
                _walk(data, size, found, problems)
    offsets, sizes, labels = np.array(found, np.int64).reshape(-1, 3).T
    return offsets, sizes, labels, problems


def _walk(data, size, found, problems):
    place = record = 0
    while place < size:
        if size - place < HEAD.size:
            problems.append((record, f"{size - place} bytes are no record"))
            return
        length, _ = HEAD.unpack_from(data, place)
        begin = place + HEAD.size
        place = begin + length + TAIL
        if place > size or length > LARGEST:
            problems.append((record, f"it announces {length} bytes"))
            return
        try:
            found.append(_example(data, begin, begin + length))
        except ValueError as error:
            problems.append((record, one_line(error)))
        record += 1


def _example(data, begin, end):
    """(offset, size, label) of the record data[begin:end]; raises ValueError where there is no such
    thing.
    """
    image = label = None
    budget = [MOST_FIELDS]
    for _, features in _messages(data, begin, end, budget):
        for _, entry in _messages(data, *features, budget):
            name, value = _entry(data, *entry, budget)
            if name == IMAGE:
                image = _single(data, value, 1, budget)
            elif name == LABEL:
                label = _integer(data, _single(data, value, 3, budget))
    if image is None or label is None:
        raise ValueError(f"it has no {(IMAGE if image is None else LABEL).decode()}")
    return image[0], image[1] - image[0], label


def _entry(data, begin, end, budget):
    """(name, span of the value) of a feature, (None, None) for one of no interest."""
    name = value = None
    for number, span in _messages(data, begin, end, budget):
        if number == 1:
            name = data[span[0] : span[1]] if span[1] - span[0] <= len(LABEL) else b""
            if name not in (IMAGE, LABEL):
                return None, None  # nearly all
        elif number == 2:
            value = span
    return (name, value) if value is not None else (None, None)


def _single(data, feature, kind, budget):
    """(begin, end) of the one value of a feature, whose kind is 1 for bytes, 3 for integers."""
    values = [
        span
        for number, content in _messages(data, *feature, budget)
        for _, span in (_messages(data, *content, budget, values=True) if number == kind else ())
    ]
    if len(values) != 1:
        raise ValueError("an image or a label that is not one value of its kind")
    return values[0]


def _messages(data, place, end, budget, values=False):
    """(number, (begin, end)) of the fields of a message that have a length of their own; with
    `values` plain numbers too.
    """
    while place < end:
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError(f"more than {MOST_FIELDS} fields")
        key, place = _varint(data, place, end)
        kind = key & 7
        if kind == BYTES:
            length, place = _varint(data, place, end)
        else:
            length = {VARINT: 0, FIXED64: 8, FIXED32: 4}.get(kind)
            if length is None:
                raise ValueError("it is no tf.train.Example")
        stop = _varint(data, place, end)[1] if kind == VARINT else place + length
        if stop > end:
            raise ValueError("it is no tf.train.Example")
        if kind == BYTES or (values and kind == VARINT):
            yield key >> 3, (place, stop)
        place = stop


def _varint(data, place, end):
    """(value, place behind it) of a number in groups of seven bits, the last without the eighth."""
    if place < end and data[place] < 128:  # nearly all
        return data[place], place + 1
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("it is no tf.train.Example")


def _integer(data, span):
    """The int64 that is all of data[begin:end]."""
    value, stop = _varint(data, *span)
    if stop != span[1]:
        raise ValueError("an image or a label that is not one value of its kind")
    return value - 2**64 if value >= 2**63 else value
