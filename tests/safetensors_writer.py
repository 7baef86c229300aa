"""Writes .safetensors, also such as the library would not write."""

import json

KINDS = {"f": "F", "i": "I", "u": "U"}


def write_safetensors(path, arrays, **changes):
    """arrays: dict name -> array, or (type, array of its bytes, shape). changes: name -> entry of
    the header, instead of ours.

    header, length, tail: bytes of the header, the length it announces, bytes behind the last array.
    """
    entries, data = {}, b""
    length, header, tail = (changes.pop(key, None) for key in ("length", "header", "tail"))
    for name, array in arrays.items():
        kind, array, shape = array if isinstance(array, tuple) else (None, array, array.shape)
        kind = kind or (
            "BOOL" if array.dtype.kind == "b" else f"{KINDS[array.dtype.kind]}{8 * array.itemsize}"
        )
        content = array.tobytes()
        entries[name] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    header = json.dumps({**entries, **changes}).encode() if header is None else header
    length = len(header) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + header + data + (tail or b""))
    return path
