"""Finds the byte ranges and labels of the images in TFRecord shards, without reading the images.

A shard is a sequence of records: length, check sum of the length, data, check sum of the data. The
data are a tf.train.Example, a protocol buffer (tensorflow/core/example/feature.proto) whose fields
start with their lengths. So the label and the image's byte range are found by skipping from field
to field, and the image itself, most of the shard, is not read. The shard is not trusted: each
length is compared with the bytes that remain.
"""

import mmap
import os
import struct

import numpy as np

from dataloader.encoded import LARGEST
from files.guards import one_line

# Before a record: its length and the length's check sum. Behind it: the bytes of its check sum.
HEAD, TAIL = struct.Struct("<QI"), 4
MOST_FIELDS = 1000  # per record; usual records have about 15 features of 4 fields
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of fields
IMAGE, LABEL = b"image/encoded", b"image/class/label"
NO_EXAMPLE = "it is not a tf.train.Example"
NOT_ONE_VALUE = "its image or label is not a single value of the right type"


def compression_of(path):
    """How the file is compressed as a whole, GZIP or ZLIB; None if it is not. Raises OSError.

    Where it is, no image can be found in it without unpacking what comes before.
    """
    with open(path, "rb") as file:
        start = file.read(HEAD.size)
        size = os.fstat(file.fileno()).st_size
    if len(start) < HEAD.size or HEAD.unpack(start)[0] <= size:
        return None  # a shard's first length is within the file
    if start.startswith(b"\x1f\x8b\x08"):
        return "GZIP"
    # zlib's first two bytes: its method and window, then a check that makes them a multiple of 31.
    return "ZLIB" if start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0 else None


def index_shard(path):
    """(offsets, sizes, labels, problems) of a shard.

    offsets, sizes, labels: int64 [n] each, for the records that have an image and a label.
    problems: list of (record number from 0, line) for the other records, and for the record from
    which on the shard cannot be read. Raises OSError.
    """
    found, problems = [], []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                # Without this, the system would read ahead, images included.
                if hasattr(mmap, "MADV_RANDOM"):
                    data.madvise(mmap.MADV_RANDOM)
                _scan(data, size, found, problems)
    offsets, sizes, labels = np.array(found, np.int64).reshape(-1, 3).T
    return offsets, sizes, labels, problems


def _scan(data, size, found, problems):
    """Appends the (offset, size, label) of each record to `found`, or its problem to `problems`."""
    offset = record = 0
    while offset < size:
        if size - offset < HEAD.size:
            problems.append((record, f"it is cut short after {size - offset} bytes"))
            return
        length, _ = HEAD.unpack_from(data, offset)
        begin = offset + HEAD.size
        offset = begin + length + TAIL
        if offset > size or length > LARGEST:
            problems.append((record, f"it announces {length} bytes"))
            return
        try:
            found.append(_example(data, begin, begin + length))
        except ValueError as error:
            problems.append((record, one_line(error)))
        record += 1


def _example(data, begin, end):
    """(offset, size, label) of the image in data[begin:end], one record. Raises ValueError if there
    is none.
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
    """(name, span of the value) of a feature; (None, None) for other features."""
    name = value = None
    for number, span in _messages(data, begin, end, budget):
        if number == 1:
            name = data[span[0] : span[1]] if span[1] - span[0] <= len(LABEL) else b""
            if name not in (IMAGE, LABEL):
                return None, None  # nearly all features
        elif number == 2:
            value = span
    return (name, value) if value is not None else (None, None)


def _single(data, feature, kind, budget):
    """(begin, end) of the only value of a feature. kind: 1 for bytes, 3 for integers."""
    values = [
        span
        for number, content in _messages(data, *feature, budget)
        for _, span in (_messages(data, *content, budget, values=True) if number == kind else ())
    ]
    if len(values) != 1:
        raise ValueError(NOT_ONE_VALUE)
    return values[0]


def _messages(data, offset, end, budget, values=False):
    """Yields (field number, (begin, end)) for the fields of a message data[offset:end].

    Only fields of bytes; with `values` also varints. budget: [fields that may still be read].
    """
    while offset < end:
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError(f"it has more than {MOST_FIELDS} fields")
        key, offset = _varint(data, offset, end)
        kind = key & 7
        if kind == BYTES:
            length, offset = _varint(data, offset, end)
        else:
            length = {VARINT: 0, FIXED64: 8, FIXED32: 4}.get(kind)
            if length is None:
                raise ValueError(NO_EXAMPLE)
        stop = _varint(data, offset, end)[1] if kind == VARINT else offset + length
        if stop > end:
            raise ValueError(NO_EXAMPLE)
        if kind == BYTES or (values and kind == VARINT):
            yield key >> 3, (offset, stop)
        offset = stop


def _varint(data, offset, end):
    """(value, offset behind it). Each byte holds 7 bits; bit 8 means that more bytes follow."""
    if offset < end and data[offset] < 128:  # nearly all numbers have one byte
        return data[offset], offset + 1
    value = 0
    for shift in range(0, 70, 7):
        if offset >= end:
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
    raise ValueError(NO_EXAMPLE)


def _integer(data, span):
    """The int64 in data[begin:end], a varint of exactly these bytes."""
    value, stop = _varint(data, *span)
    if stop != span[1]:
        raise ValueError(NOT_ONE_VALUE)
    return value - 2**64 if value >= 2**63 else value
