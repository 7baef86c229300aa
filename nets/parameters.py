"""Parameter files: written in the published format, read in that and in those of PyTorch."""

import json
import pickle

import numpy as np

from files import guards
from files.guards import NUMBERS, one_line, read_file
from files.npz import load_npz
from files.pickle_reader import UnsafePickle
from files.pickles import load_pickle
from files.safetensors_files import is_safetensors, load_safetensors
from files.torch_files import is_pth, load_pth
from nets.foreign.names import translated
from utils import UserError, whole_file

META = "__meta__"


def write_parameters(path, arrays, meta):
    """Writes a parameter file in the published format, a pickled dict name -> float32 array, plus
    `meta` as JSON.

    A path that ends in .npz gets the same arrays as .npz.
    """
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    with whole_file(path) as file:
        if path.endswith(".npz"):
            np.savez(file, **arrays, **{META: np.array(json.dumps(meta))})
        else:
            pickle.dump({**arrays, META: json.dumps(meta)}, file, protocol=4)


def read_parameters(path):
    """(arrays, meta) of a parameter file: dict name -> float32 array, and what the file says of
    itself ({} if nothing).

    Reads the published pickles, dense or pruned, through files.pickles, .npz files of the same
    arrays, PyTorch's .pth and .safetensors. A state dict of one of PyTorch's networks that are
    known here comes back under our names, its meta saying which it is and how that pads. Keys that
    hold no array of numbers are ignored. Raises UserError for a file that is missing, damaged, not
    of numbers, or of a network of PyTorch that is nearly one of ours.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise UserError(
            f"cannot read the parameter file {path}: {error.strerror or error}"
        ) from error
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
    arrays = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS
    }
    if not arrays:
        raise UserError(f"{path} is no parameter file: it holds no array")
    if (
        4 * sum(array.size for array in arrays.values()) > guards.LARGEST
    ):  # many names may share one array
        raise UserError(
            f"{path} is no parameter file: its arrays take more than {guards.LARGEST} bytes"
        )
    return {name: _float32(path, name, array) for name, array in arrays.items()}, meta


def _content(path):
    if is_pth(path):
        return load_pth(path)
    if is_safetensors(path):
        return load_safetensors(path)
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    return load_npz(path) if zipped else load_pickle(read_file(path))


def _float32(path, name, array):
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {one_line(name)} holds NaN or infinite values")
    return array


def check_saved_for(path, meta, key, asked):
    """Raises UserError if the file at `path` says in its `meta` that it is of another `key` (arch,
    dataset) than `asked`.
    """
    if meta.get(key, asked) != asked:
        raise UserError(f"{path} was saved for --{key} {meta[key]}, not {asked}")


def _meta(value):
    """The dict in a file's META entry; a strange entry counts as none, since it only ever adds to
    what the arrays say.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:  # as .npz has it
        value = value.item()
    try:
        meta = json.loads(value) if isinstance(value, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(meta, dict):
        return {}
    return {
        key: value
        for key, value in meta.items()
        if key not in ("arch", "dataset") or isinstance(value, str)
    }
