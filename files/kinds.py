"""Recognises files that people take for weights, by their first and last bytes, and says what they
are and what to do.
"""

import json
import os
import re

START = 512  # bytes that tell one kind from another
ARCHIVE = "it is an archive ({}); unpack it and give the file of weights in it"
# How files of a kind begin -> what they are, and what to do.
KINDS = {
    rb"version https://git-lfs": (
        "it is a pointer of git-lfs, not the file itself; fetch that with `git lfs pull`"
    ),
    rb"(?i)\s*<(!doctype html|html|head|\?xml|!--)": (
        "it is a web page, not the file itself; the download failed, or needs a login or a raw link"
    ),
    rb"\x1f\x8b": ARCHIVE.format("gzip"),
    rb"BZh[1-9]": ARCHIVE.format("bzip2"),
    rb"\xfd7zXZ": ARCHIVE.format("xz"),
    rb"\x28\xb5\x2f\xfd": ARCHIVE.format("zstd"),
    rb"7z\xbc\xaf\x27\x1c": ARCHIVE.format("7z"),
    rb"Rar!": ARCHIVE.format("rar"),
    rb"(?s).{257}ustar": ARCHIVE.format("tar"),
    rb"\x89HDF\r\n\x1a\n": (
        "it is an HDF5 file, as Keras and others write; prune_keras.py takes Keras models"
    ),
    rb"(?s).{4}TFL3": "it is a TFLite model, which has no training variables; give its weights",
    rb"GGUF": "it is a GGUF file, of a language model",
    rb"\x93NUMPY": "it is one array (.npy), not a dict of arrays under names; save an .npz",
    rb"%PDF": "it is a PDF document",
    rb"\xff\xd8\xff|\x89PNG|GIF8": "it is an image",
    rb"model_checkpoint_path": (
        "it is the index of TensorFlow checkpoints, which are not read; save an .npz of the arrays"
    ),
}
TENSORFLOW_INDEX = bytes.fromhex("57fb808b247547db")  # ends the .index of a TensorFlow checkpoint
LARGEST_JSON = 2**24
WEIGHTS = re.compile(r".+\.(pkl|npz|pth|pt|bin|safetensors)")


def kind_of(path):
    """What the file is, if it is of a kind that holds no weights that are read here, else None.

    Raises OSError.
    """
    with open(path, "rb") as file:
        start = file.read(START)
        size = os.fstat(file.fileno()).st_size
        if size > len(TENSORFLOW_INDEX):
            file.seek(-len(TENSORFLOW_INDEX), os.SEEK_END)
        end = file.read(len(TENSORFLOW_INDEX))
    if not start.strip(b"\0"):
        return f"it {'begins with zeros' if start else 'is empty'}; copy or download it again"
    for pattern, kind in KINDS.items():
        if re.match(pattern, start):
            return kind
    if end == TENSORFLOW_INDEX:
        return KINDS[b"model_checkpoint_path"]
    return _json_kind(path) if start.lstrip()[:1] == b"{" and size <= LARGEST_JSON else None


def _json_kind(path):
    with open(path, "rb") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError):
            return "it is a text file like JSON"
    parts = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(parts, dict):
        return "it is a JSON file; give the file of weights beside it"
    files = sorted({str(name) for name in parts.values()})
    if len(files) == 1:
        return f"it is the index of {files[0][:100]}; give that file"
    return (
        f"it is the index of weights in {len(files)} files, which are not read together; save them"
        " as one"
    )


def kind_of_zip(names):
    """What a .zip with members of these names is, None if it may be an .npz or a .pth."""
    if any(name.endswith(".npy") for name in names):
        return None
    if {"config.json", "model.weights.h5"} <= set(names):
        return "it is a Keras model; prune_keras.py takes those"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript program; save the state_dict() of the model instead"
    if any(name.endswith("data.pkl") for name in names):
        return None
    found = f" of {names[0][:100]}" + (f" and {len(names) - 1} more" if names[1:] else "")
    return ARCHIVE.format("zip" + found * bool(names))


def text_of(start):
    """ "it is a text file that begins with ..." if a file's first bytes are text, else None."""
    try:
        words = start[: start.rfind(b"\n") + 1 or None].decode("utf-8").split()
    except UnicodeDecodeError:
        return None
    printable = words and all(word.isprintable() for word in words)
    return f"it is a text file that begins with {words[0][:30]!r}" if printable else None


def kind_of_folder(path):
    """What the folder holds that could have been meant, as text; "" for nothing."""
    names = sorted(os.listdir(path))
    if "saved_model.pb" in names:
        return "; it is a SavedModel, which is not read"
    found = [name for name in names if WEIGHTS.fullmatch(name)]
    return f"; give a file in it, e.g. {found[0]}" if found else ""
