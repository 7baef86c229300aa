"""Reads the files of an untrusted .tar.gz, in memory."""

import gzip
import zlib

from files.tar import tar_members

LARGEST = 512 << 20  # bytes; the official archives of CIFAR unpack to 186 MB


def read_tar_gz(path):
    """{name of a regular file, without folders: contents as a memoryview}.

    Other kinds of members are left out. Raises OSError if the file cannot be read, ValueError if it
    is damaged, cut short or unpacks to more than LARGEST.
    """
    data = bytearray()
    try:
        # Unpack everything before reading members, because the check sum is at the end.
        with gzip.open(path) as packed:
            while part := packed.read(1 << 20):
                data += part
                if len(data) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{error}") from error
    return dict(tar_members(memoryview(data).toreadonly()))
