"""Parameter files: written in the published format, read in that format and in PyTorch's."""

import json
import pickle
import re
import typing

import numpy as np

from files import guards, kinds
from files.guards import one_line, read_file
from files.npz import load_npz, opened_zip
from files.pickle_reader import Inert, UnsafePickle
from files.pickles import load_pickle
from files.safetensors_files import is_safetensors, load_safetensors
from files.torch_files import is_pth, load_pth
from nets.catalogue import BUILDERS, PARAMETER
from nets.foreign.names import NoSuchKey, arrays_of_numbers, names_of_arrays, translated
from utils import UserError, whole_file

META = "__meta__"
# Classes of networks, as a model that was pickled as a whole names them.
WHOLE_MODEL = re.compile(r"(torch\.nn\.(modules|parallel)|torchvision\.models|timm\.models)\.")


def write_parameters(path, arrays, meta, dtype="float32"):
    """Writes a parameter file: a pickled dict name -> array, plus `meta` as JSON.

    This is the published format. If the path ends in .npz, the same entries are written as .npz.
    dtype: of the arrays in the file; they are float32 again when they are read.
    """
    arrays = {name: np.asarray(array, dtype, order="C") for name, array in arrays.items()}
    with whole_file(path) as file:
        if path.endswith(".npz"):
            entries: dict[str, typing.Any] = {**arrays, META: np.array(json.dumps(meta))}
            np.savez(file, **entries)
        else:
            pickle.dump({**arrays, META: json.dumps(meta)}, file, protocol=4)


def half(arrays, path):
    """`arrays`, dict name -> float32 array, with the values that float16 can hold.

    path: of their file, for the message. Raises UserError if a value is too large for float16.
    """
    largest = np.finfo(np.float16).max
    for name, array in arrays.items():
        if not (np.abs(array) <= largest).all():
            raise UserError(
                f"{path}: {name} has values that float16 cannot hold (above {largest:,.0f})"
            )
    return {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}


def read_parameters(path, key=None):
    """(arrays, meta) of a parameter file: dict name -> float32 array, and its meta, a dict.

    Reads the published pickles, dense or pruned, through files.pickles; .npz files of the same
    arrays; and PyTorch's .pth and .safetensors. A PyTorch state dict of a network known here
    (nets.foreign) is returned under our names, with its arch and padding in meta. Keys that do not
    hold an array of numbers are ignored. meta is {} if the file has none.

    key: of the network that is meant, if the file has several, see nets.foreign.names.translated.

    Raises UserError for a file that is missing, damaged or without numbers, for a PyTorch network
    that differs slightly from a known one, and for a `key` that does not choose one network.
    """
    try:
        content = _content(path)
    except OSError as error:
        reason = error.strerror or error
        if isinstance(error, IsADirectoryError):
            reason = f"it is a folder{kinds.kind_of_folder(path)}"
        raise UserError(f"cannot read the parameter file {path}: {reason}") from error
    except UnsafePickle as error:
        raise _refused(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is no parameter file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is no parameter file: it holds a {type(content).__name__}, not a dict of"
            " arrays"
        )
    arrays, meta = _network(path, content, key)
    # Many names may share one array, so that a small file could become large here.
    if 4 * sum(array.size for array in arrays.values()) > guards.LARGEST:
        raise UserError(
            f"{path} is no parameter file: its arrays take more than {guards.LARGEST} bytes"
        )
    return {name: _float32(path, name, array) for name, array in arrays.items()}, meta


def _network(path, content, key):
    """(dict name -> array, meta) of the content of a file."""
    try:
        found = translated(content, key)
        if found is None:
            _check_read(content)
    except UnsafePickle as error:
        raise _refused(path, error) from error
    except NoSuchKey as error:
        raise UserError(f"--trained_key {key}: {path}: {one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} holds no network known here: {one_line(error)}") from error
    content, meta = found or (content, _meta(content.get(META)))
    arrays = arrays_of_numbers(content)
    if not arrays:
        check_known(path, names_of_arrays(content))
        raise UserError(f"{path} is no parameter file: it holds no array")
    return arrays, meta


def _refused(path, error):
    """The UserError for a file that names what is neither an array nor inert."""
    if WHOLE_MODEL.match(str(error)):
        return UserError(
            f"{path} is refused: it names {error}; it is a whole model, which is code: save its"
            " state_dict() instead"
        )
    return UserError(f"{path} is refused: it names {error}; parameter files hold NumPy arrays only")


def _check_read(content):
    """Raises UnsafePickle if what should be one of our arrays is a value that was not read."""
    for name, value in content.items():
        if isinstance(value, Inert) and isinstance(name, str) and PARAMETER.search(name):
            raise UnsafePickle(value.text)


def check_known(path, names):
    """Raises UserError if none of the names of a file's arrays is of a network known here.

    path: of the file; names: of its arrays, [] for no arrays.
    """
    names = list(names)
    if names and not any(PARAMETER.search(name) for name in names):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(
            f"{path} holds no network known here: its arrays are {one_line(names[0])[:100]}{more};"
            f" known are {', '.join(BUILDERS)} in this program's own files, and torchvision's,"
            " timm's and Hugging Face's ResNets and torchvision's and timm's MobileNet-v2"
        )


def note_on_others(meta):
    """A line about the other networks in the file of this `meta`, "" without any."""
    if not meta.get("others"):
        return ""
    own, *others = (one_line(key or "(no key)") for key in (meta["key"], *meta["others"]))
    return f"the network under {own}; --trained_key takes another: {', '.join(others)}"


def _content(path):
    """The unpickled or unpacked content of a file in any of the formats."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with opened_zip(path) as members:
            kind = kinds.kind_of_zip(list(members))
        if kind:
            raise ValueError(one_line(kind))
    if is_pth(path):
        return load_pth(path)
    if is_safetensors(path):
        return load_safetensors(path)
    if zipped:
        return load_npz(path)
    if kind := kinds.kind_of(path):
        raise ValueError(one_line(kind))
    data = read_file(path)
    try:
        return load_pickle(data, inert=True)
    except (ValueError, UnsafePickle) as error:
        # Words may look like opcodes. A pickle that names something ends with STOP, a point.
        text = None if data.endswith(b".") else kinds.text_of(data[: kinds.START])
        if text is None:
            raise
        raise ValueError(text) from error


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
