"""What stays on the host: errors for users, whole-or-absent files, parameter files, the schedule, accumulation."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle
import re
import tempfile

import numpy as np

import array_files
import foreign_names
import safetensors_files
import torch_files


class UserError(Exception):
    """A mistake its user can mend: one line saying what is wrong and what to do. Programs exit with code 2."""

    def __init__(self, message):
        super().__init__(" ".join(message.splitlines()))


# ---------------------------------------------------------------------------------------------------------------- files


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in the quota, under the largest size of a file
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # what a process that was killed while it wrote leaves behind


@contextlib.contextmanager
def whole_file(path, mode="wb"):
    """Opens a file that appears under `path` whole, when the block ends without an error, or not at all.

    It is on the disk when the block has ended, so that neither a crash nor a power cut takes it back. An OSError says of
    which file it is.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        os.close(descriptor)
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        rename(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def rename(old, new):
    """Gives a file that is on the disk another name in its folder or file system, in place of what was there, for good."""
    os.replace(old, new)
    descriptor = os.open(os.path.dirname(os.path.abspath(new)), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no fsync of folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path, value):
    with whole_file(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


# ------------------------------------------------------------------------------------------------------ parameter files

META = "__meta__"


def write_parameters(path, arrays, meta):
    """Writes a parameter file in the published format, a pickled dict name -> float32 array, plus `meta` as JSON.

    A path that ends in .npz gets the same arrays as .npz.
    """
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    with whole_file(path) as file:
        if path.endswith(".npz"):
            np.savez(file, **arrays, **{META: np.array(json.dumps(meta))})
        else:
            pickle.dump({**arrays, META: json.dumps(meta)}, file, protocol=4)


def read_parameters(path):
    """(arrays, meta) of a parameter file: dict name -> float32 array, and what the file says of itself ({} if nothing).

    Reads the published pickles, dense or pruned, through array_files, .npz files of the same arrays, PyTorch's .pth and
    .safetensors. A state dict of one of PyTorch's networks that are known here comes back under our names, its meta saying which
    it is and how that pads. Keys that hold no array of numbers are ignored. Raises UserError for a file that is missing, damaged,
    not of numbers, or of a network of PyTorch that is nearly one of ours.
    """
    try:
        content = _content(path)
    except OSError as error:
        raise UserError(f"cannot read the parameter file {path}: {error.strerror or error}") from error
    except array_files.UnsafePickle as error:
        raise UserError(f"{path} is refused: it names {error}; parameter files hold NumPy arrays only") from error
    except ValueError as error:
        raise UserError(f"{path} is no parameter file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no parameter file: it holds a {type(content).__name__}, not a dict of arrays")
    try:
        content, meta = foreign_names.translated(content) or (content, _meta(content.get(META)))
    except ValueError as error:
        raise UserError(f"{path} holds no network known here: {array_files.one_line(error)}") from error
    arrays = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype.kind in array_files.NUMBERS
    }
    if not arrays:
        raise UserError(f"{path} is no parameter file: it holds no array")
    if 4 * sum(array.size for array in arrays.values()) > array_files.LARGEST:  # many names may share one array
        raise UserError(f"{path} is no parameter file: its arrays take more than {array_files.LARGEST} bytes")
    return {name: _float32(path, name, array) for name, array in arrays.items()}, meta


def _content(path):
    if torch_files.is_pth(path):
        return torch_files.load_pth(path)
    if safetensors_files.is_safetensors(path):
        return safetensors_files.load_safetensors(path)
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    return array_files.load_npz(path) if zipped else array_files.load_pickle(array_files.read_file(path))


def _float32(path, name, array):
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {array_files.one_line(name)} holds NaN or infinite values")
    return array


def digest(arrays):
    """A few characters that tell these arrays, a dict by name, from any others."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array))
    return sha.hexdigest()[:16]


def check_saved_for(path, meta, key, asked):
    """Raises UserError if the file at `path` says in its `meta` that it is of another `key` (arch, dataset) than `asked`."""
    if meta.get(key, asked) != asked:
        raise UserError(f"{path} was saved for --{key} {meta[key]}, not {asked}")


def _meta(value):
    """The dict in a file's META entry; a strange entry counts as none, since it only ever adds to what the arrays say."""
    if isinstance(value, np.ndarray) and value.ndim == 0:  # as .npz has it
        value = value.item()
    try:
        meta = json.loads(value) if isinstance(value, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(meta, dict):
        return {}
    return {key: value for key, value in meta.items() if key not in ("arch", "dataset") or isinstance(value, str)}


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_info():
    """dict of what the system says of a processor: "model name", "flags" ...; empty where it says nothing."""
    if not os.path.exists("/proc/cpuinfo"):
        return {}
    with open("/proc/cpuinfo") as file:
        return dict(re.findall(r"^([\w ]+?)\s*: (.*)$", file.read(), re.MULTILINE))


# ------------------------------------------------------------------------------------------------------------- training


def learning_rate_at(at, options):
    """The learning rate `at` so many epochs, a fraction within one, by the ekg.options.TrainOptions `options`.

    "steps": times decay_rate at each of decay_points, fractions of all epochs, where an epoch begins. "cosine": half a cosine
    down to 0. Before either it rises in proportion to the steps of the first warm_up epochs.
    """
    if at < options.warm_up:
        return options.learning_rate * at / options.warm_up
    if options.schedule == "cosine":
        share = (at - options.warm_up) / (options.epochs - options.warm_up)
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    passed = sum(int(at) >= round(point * options.epochs, 6) for point in options.decay_points)
    return options.learning_rate * options.decay_rate**passed


def accumulator(compute, parts):
    """Makes `compute` run over a batch in `parts` equal parts, one after another in the graph.

    compute(batch, shared) -> (sums, rows): `batch` is a dict of tensors [b, ...], `sums` a structure of tensors that are
    added over the parts, `rows` one of tensors [b, ...] that are put one after another. The result has the same signature,
    needs memory for one part, and expects b to be divisible by `parts`.
    """
    if parts == 1:
        return compute
    import tensorflow as tf  # late, so that a wrong flag is answered before TensorFlow is up

    def in_parts(batch, shared):
        split = {k: tf.reshape(v, [parts, v.shape[0] // parts, *v.shape[1:]]) for k, v in batch.items()}
        to_spec = lambda leading: lambda v: tf.TensorSpec(v.shape[leading:], v.dtype)
        one = tf.function(compute, autograph=False).get_concrete_function(
            tf.nest.map_structure(to_spec(1), split), tf.nest.map_structure(to_spec(0), shared)
        )
        sums_spec, rows_spec = one.structured_outputs
        sums = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), sums_spec)
        rows = tf.nest.map_structure(lambda s: tf.TensorArray(s.dtype, parts, element_shape=s.shape), rows_spec)

        def body(i, sums, rows):
            new_sums, new_rows = one({k: v[i] for k, v in split.items()}, shared)
            write = lambda array, value: array.write(i, value)
            return i + 1, tf.nest.map_structure(tf.add, sums, new_sums), tf.nest.map_structure(write, rows, new_rows)

        _, sums, rows = tf.while_loop(lambda i, *_: i < parts, body, (0, sums, rows), parallel_iterations=1)
        return sums, tf.nest.map_structure(lambda array: array.concat(), rows)

    return in_parts


# ------------------------------------------------------------------------------------------------------------- start-up


LOG_ASKED_FOR = "TF_CPP_MIN_LOG_LEVEL" in os.environ  # before import_tensorflow sets it


@contextlib.contextmanager
def without_greetings():
    """stderr rests in this block, unless TF_CPP_MIN_LOG_LEVEL asks for TensorFlow's log. Gives the descriptor that still is it.

    TensorFlow writes some of its greetings before it reads its own log level.
    """
    if LOG_ASKED_FOR:
        yield 2
        return
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def import_tensorflow():
    """Imports TensorFlow without its greetings, which would bury the one line a user's mistake is answered with."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_greetings():
        import tensorflow
    if not LOG_ASKED_FOR:
        # One class makes all steps, which TensorFlow takes for one function that is traced again and again.
        tensorflow.get_logger().setLevel("ERROR")
