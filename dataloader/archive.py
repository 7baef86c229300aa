"""Reads the files out of a .tar.gz that nobody has to trust, in memory.

Python's tarfile follows links, fills up sparse files and reads headers that name further headers;
none of that is in an archive of a data set, and its reader has hung on made-up ones (CVE-2024-6232,
CVE-2025-8194).
"""

import gzip
import re
import zlib

BLOCK = 512
LARGEST = 512 << 20  # bytes; the official archives of CIFAR unpack to 186 MB


def read_tar_gz(path):
    """{name of a plain file without its folders: its contents, a memoryview}; other kinds of
    members are left out.

    Raises OSError where the file cannot be read, ValueError where it is damaged, cut short or
    unpacks to more than LARGEST.
    """
    data = bytearray()
    try:
        # All of it first: its check sum comes last, after what a reader of single files would look
        # at.
        with gzip.open(path) as packed:
            while part := packed.read(1 << 20):
                data += part
                if len(data) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{error}") from error
    return dict(_members(memoryview(data).toreadonly()))


def _members(data):
    place = 0
    while any(data[place : place + BLOCK]):  # zeros, or nothing, after the last
        header = bytes(data[place : place + BLOCK])
        begin, size = place + BLOCK, _octal(header[124:136])
        if _octal(header[148:156]) != sum(
            header[:148] + b" " * 8 + header[156:]
        ) or begin + size > len(data):
            raise ValueError(f"a damaged member at byte {place}")
        if header[156:157] in (b"0", b"\0"):
            path = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
            yield path.rpartition("/")[2], data[begin : begin + size]
        place = begin + -(-size // BLOCK) * BLOCK


def _octal(field):
    digits = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]{1,11}", digits):
        raise ValueError("no archive, or a damaged header in it")
    return int(digits, 8)
