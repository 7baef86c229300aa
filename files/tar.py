"""Reads untrusted .tar archives in memory.

Python's tarfile is not used: it follows links, expands sparse files and reads chained headers,
which archives of data sets and of arrays do not need. It has also hung on crafted archives
(CVE-2024-6232, CVE-2025-8194).
"""

import re

BLOCK = 512
MAGIC_AT, MAGIC = 257, b"ustar"  # in the first header of every archive since 1988


def tar_members(data):
    """Yields (name without folders, contents as a memoryview) of the regular files in a .tar.

    Other kinds of members are left out. data: memoryview. Raises ValueError if it is damaged or cut
    short.
    """
    offset = 0
    while any(data[offset : offset + BLOCK]):  # the last member is followed by zeros or nothing
        header = bytes(data[offset : offset + BLOCK])
        begin, size = offset + BLOCK, _octal(header[124:136])
        # The header's sum is computed with spaces in place of the sum itself.
        intact = _octal(header[148:156]) == sum(header[:148] + b" " * 8 + header[156:])
        if not intact or begin + size > len(data):
            raise ValueError(f"a damaged member at byte {offset}")
        if header[156:157] in (b"0", b"\0"):  # regular files
            path = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
            yield path.rpartition("/")[2], data[begin : begin + size]
        offset = begin + -(-size // BLOCK) * BLOCK


def _octal(field):
    """The number in a header's field of octal digits."""
    digits = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]{1,11}", digits):
        raise ValueError("it is not a .tar archive, or a header is damaged")
    return int(digits, 8)
