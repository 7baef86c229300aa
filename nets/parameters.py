"""Parameter files: written in the published format, read in that format and in PyTorch's."""

import json
import pickle
import typing

import numpy as np

from files import guards
from files.guards import one_line, read_file
from files.npz import load_npz
from files.pickle_reader import UnsafePickle
from files.pickles import load_pickle
from files.safetensors_files import is_safetensors, load_safetensors
from files.torch_files import is_pth, load_pth
from nets.foreign.names import arrays_of_numbers, translated
from utils import UserError, whole_file

META = "__meta__"


def write_parameters(path, arrays, meta):
    """Writes a parameter file: a pickled dict name -> float32 array, plus `meta` as JSON.

    This is the published format. If the path ends in .npz, the same entries are written as .npz.
    """
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    with whole_file(path) as file:
        if path.endswith(".npz"):
            entries: dict[str, typing.Any] = {**arrays, META: np.array(json.dumps(meta))}
            np.savez(file, **entries)
        else:
            pickle.dump({**arrays, META: json.dumps(meta)}, file, protocol=4)


def read_parameters(path):
    """(arrays, meta) of a parameter file: dict name -> float32 array, and its meta, a dict.

    Reads the published pickles, dense or pruned, through files.pickles; .npz files of the same
    arrays; and PyTorch's .pth and .safetensors. A PyTorch state dict of a network known here
    (nets.foreign) is returned under our names, with its arch and padding in meta. Keys that do not
    hold an array of numbers are ignored. meta is {} if the file has none.

    Raises UserError for a file that is missing, damaged or without numbers, and for a PyTorch
    network that differs slightly from a known one.
    """
    try:
        content = _content(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot read the parameter file {path}: {reason}") from error
    except UnsafePickle as error:
        raise UserError(
            f"{path} is refused: it names {error}; parameter files hold NumPy arrays only"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no parameter file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is no parameter file: it holds a {type(content).__name__}, not a dict of"
            " arrays"
        )
    try:
        content, meta = translated(content) or (content, _meta(content.get(META)))
    except ValueError as error:
        raise UserError(f"{path} holds no network known here: {one_line(error)}") from error
    arrays = arrays_of_numbers(content)
    if not arrays:
        raise UserError(f"{path} is no parameter file: it holds no array")
    # Many names may share one array, so that a small file could become large here.
    if 4 * sum(array.size for array in arrays.values()) > guards.LARGEST:
        raise UserError(
            f"{path} is no parameter file: its arrays take more than {guards.LARGEST} bytes"
        )
    return {name: _float32(path, name, array) for name, array in arrays.items()}, meta


def _content(path):
    """The unpickled or unpacked content of a file in any of the formats."""
    if is_pth(path):
        return load_pth(path)
    if is_safetensors(path):
        return load_safetensors(path)
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    return load_npz(path) if zipped else load_pickle(read_file(path))


def _float32(path, name, array):
    """`array` as float32. Raises UserError if it holds NaN or infinite values."""
    with np.errstate(over="ignore"):  # values that are too large become infinite
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {one_line(name)} holds NaN or infinite values")
    return array


def check_saved_for(path, meta, key, asked):
    """Raises UserError if the `meta` of the file at `path` has another value of `key` than `asked`.

    key: arch, dataset or width_multiplier.
    """
    if meta.get(key, asked) != asked:
        raise UserError(f"{path} was saved for --{key} {meta[key]}, not {asked}")


def _meta(value):
    """The dict in a file's META entry.

    An entry that is not valid counts as missing, because the arrays alone are enough.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:  # as in .npz files
        value = value.item()
    try:
        meta = json.loads(value) if isinstance(value, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(meta, dict):
        return {}
    valid = lambda key, value: key not in ("arch", "dataset") or isinstance(value, str)
    return {key: value for key, value in meta.items() if valid(key, value)}
