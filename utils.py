"""What every room may use: errors for users, whole-or-absent files, the schedule, accumulation."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile

import numpy as np


class UserError(Exception):
    """A mistake its user can mend: one line saying what is wrong and what to do. Programs exit with
    code 2.
    """

    def __init__(self, message):
        super().__init__(" ".join(message.splitlines()))


# -------------------------------------------------------------------------------------------- files


FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # no room: on the disk, in the quota, under the largest size of a file
TEMPORARY = re.compile(
    r"\..+\.[a-z0-9_]{8}\.tmp"
)  # what a process that was killed while it wrote leaves behind


@contextlib.contextmanager
def whole_file(path, mode="wb"):
    """Opens a file that appears under `path` whole, when the block ends without an error, or not at
    all.

    It is on the disk when the block has ended, so that neither a crash nor a power cut takes it
    back. An OSError says of which file it is.
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
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and error.filename in (None, temporary)
        ):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def rename(old, new):
    """Gives a file that is on the disk another name in its folder or file system, in place of what
    was there, for good.
    """
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


def digest(arrays):
    """A few characters that tell these arrays, a dict by name, from any others."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array))
    return sha.hexdigest()[:16]


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# ----------------------------------------------------------------------------------------- training


def learning_rate_at(at, options):
    """The learning rate `at` so many epochs, a fraction within one, by the
    engine.options.TrainOptions `options`.

    "steps": times decay_rate at each of decay_points, fractions of all epochs, where an epoch
    begins. "cosine": half a cosine down to 0. Before either it rises in proportion to the steps of
    the first warm_up epochs.
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

    compute(batch, shared) -> (sums, rows): `batch` is a dict of tensors [b, ...], `sums` a
    structure of tensors that are added over the parts, `rows` one of tensors [b, ...] that are put
    one after another. The result has the same signature, needs memory for one part, and expects b
    to be divisible by `parts`.
    """
    if parts == 1:
        return compute
    import tensorflow as tf  # late, so that a wrong flag is answered before TensorFlow is up

    def in_parts(batch, shared):
        split = {
            k: tf.reshape(v, [parts, v.shape[0] // parts, *v.shape[1:]]) for k, v in batch.items()
        }
        to_spec = lambda leading: lambda v: tf.TensorSpec(v.shape[leading:], v.dtype)
        one = tf.function(compute, autograph=False).get_concrete_function(
            tf.nest.map_structure(to_spec(1), split), tf.nest.map_structure(to_spec(0), shared)
        )
        sums_spec, rows_spec = one.structured_outputs
        sums = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), sums_spec)
        rows = tf.nest.map_structure(
            lambda s: tf.TensorArray(s.dtype, parts, element_shape=s.shape), rows_spec
        )

        def body(i, sums, rows):
            new_sums, new_rows = one({k: v[i] for k, v in split.items()}, shared)
            write = lambda array, value: array.write(i, value)
            return (
                i + 1,
                tf.nest.map_structure(tf.add, sums, new_sums),
                tf.nest.map_structure(write, rows, new_rows),
            )

        _, sums, rows = tf.while_loop(
            lambda i, *_: i < parts, body, (0, sums, rows), parallel_iterations=1
        )
        return sums, tf.nest.map_structure(lambda array: array.concat(), rows)

    return in_parts
