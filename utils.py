"""Helpers that every package may use: UserError, atomic file writes, the learning-rate schedule,
gradient accumulation.
"""

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
    """A mistake that the user can fix. The message is one line: what is wrong and what to do.

    Programs print it and exit with code 2.
    """

    def __init__(self, message):
        super().__init__(" ".join(message.splitlines()))


# -------------------------------------------------------------------------------------------- files


# No space: the disk is full, the quota is used up, or the file would exceed the size limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Names of the files that a process leaves behind when it is killed inside `whole_file`.
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


@contextlib.contextmanager
def writing_to(flag, path, kind="folder"):
    """Turns an OSError of the block into a UserError about the flag, which gave the file or folder
    `path`. A full disk is no mistake in the command: its OSError stays.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        reason = f"{flag} {path} cannot be written: {error.strerror}"
        raise UserError(f"{reason}; choose another {kind}") from error


@contextlib.contextmanager
def whole_file(path, mode="wb"):
    """Opens a temporary file that replaces `path` when the block ends without an error.

    `path` is therefore either complete or unchanged. The file is synced to disk before the block
    returns, so it survives a crash or a power cut. An OSError carries the name `path`.
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
    """Renames a synced file within its file system, replaces `new`, and syncs the folder.

    After that the new name survives a power cut.
    """
    os.replace(old, new)
    descriptor = os.open(os.path.dirname(os.path.abspath(new)), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot fsync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path, value):
    """Writes `value` as indented JSON, completely or not at all: see whole_file."""
    with whole_file(path, "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def digest(arrays):
    """16 hex digits that identify these arrays: SHA-256 over names, shapes and contents.

    arrays: dict name -> array.
    """
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array))
    return sha.hexdigest()[:16]


def cores():
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# ----------------------------------------------------------------------------------------- training


def learning_rate_at(at, options):
    """The learning rate after `at` epochs, a float with the fraction of the current one (METHOD 7).

    options: engine.options.TrainOptions. Schedule "steps" multiplies the rate by decay_rate at each
    of decay_points, fractions of all epochs, from the next start of an epoch on. "cosine" follows
    half a cosine down to 0. In both, the rate first rises linearly over the warm_up epochs.
    """
    if at < options.warm_up:
        return options.learning_rate * at / options.warm_up
    if options.schedule == "cosine":
        share = (at - options.warm_up) / (options.epochs - options.warm_up)
        return options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    # Without rounding, an error like 0.1 * 3 > 0.3 would delay the decay by an epoch.
    passed = sum(int(at) >= round(point * options.epochs, 6) for point in options.decay_points)
    return options.learning_rate * options.decay_rate**passed


def accumulator(compute, parts):
    """A function like `compute` that splits its batch into `parts` equal parts and loops over them.

    The loop is in the graph and runs one part at a time, so memory is needed for one part only.

    compute(batch, shared) -> (sums, rows). `batch` is a dict of tensors [b, ...]; b must be
    divisible by `parts`. `sums` is a structure of tensors that are added over the parts. `rows` is
    a structure of tensors [b, ...] that are concatenated. The result has the same signature.
    """
    if parts == 1:
        return compute
    import tensorflow as tf  # imported late, so that a wrong flag is reported at once

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
