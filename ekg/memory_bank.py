"""The memory bank: what K interim sub-networks say of every training image (Eq. 10)."""

import contextlib
import os

import numpy as np

from utils import UserError, whole_file


def choose_teachers(losses, num_teacher):
    """Indices into the history of K = min(num_teacher, len(losses)) distinct sub-networks, teacher 0 (lowest loss) first.

    losses: of the history without Theta*. Teacher j is the one not yet taken whose loss is nearest to
    L_min + j (L_max - L_min) / K.
    """
    losses = np.asarray(losses, np.float64)
    count = min(num_teacher, len(losses))
    free, chosen = list(range(len(losses))), []
    for j in range(count):
        target = losses.min() + j * (losses.max() - losses.min()) / count
        nearest = min(free, key=lambda i: abs(losses[i] - target))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen


def teachers_of(history, num_teacher):
    """The sub-networks of a search's history that teach; Theta* teaches only where it is the unpruned network itself."""
    members = history[:-1] or history
    return [members[i] for i in choose_teachers([m.loss for m in members], num_teacher)]


def build_order(labels, seed):
    """int64 [N]: the order in which images pass through the teachers.

    Batch statistics need mixed batches: where labels lie sorted, a permutation by `seed`, a sequence of integers; else as
    they lie. Rows are stored by image either way.
    """
    if (np.diff(labels) >= 0).all():
        return np.random.default_rng([*seed, len(labels)]).permutation(len(labels))
    return np.arange(len(labels))


def build(path, batches, shape, predict):
    """Writes M float16 [N, classes, K] to the .npy file `path`, batch by batch and never in memory as a whole.

    path: None on a machine that takes part in the predictions and leaves the writing to another.

    batches: an iterable of (rows, batch), rows int [n] being the images the batch's first n entries show. predict(batch) ->
    float32 [B, K, classes], the teachers' logits. M[n, :, k] are those of teacher k for training image n. Raises
    FloatingPointError where a logit is not finite in float16.
    """
    with _new_bank(path, shape) if path else contextlib.nullcontext() as bank:
        for rows, batch in batches:
            with np.errstate(over="ignore"):
                logits = predict(batch)[: len(rows)].astype(np.float16)
            bad = ~np.isfinite(logits).all((0, 2))  # bool [K]
            if bad.any():
                raise FloatingPointError(f"memory bank: teacher {bad.argmax()} gives logits that are not finite in float16")
            if bank is not None:
                bank[rows] = logits.transpose(0, 2, 1)


@contextlib.contextmanager
def _new_bank(path, shape):
    """M, mapped from a file that appears under `path` whole, when the block ends without an error, or not at all."""
    with whole_file(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        file.flush()
        # The space is taken now: on a full disk this raises, while writing to a hole of a mapped file would kill the process.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, offset + 2 * int(np.prod(shape)))
        file.truncate(offset + 2 * int(np.prod(shape)))
        bank = np.memmap(file.name, np.float16, "r+", offset, shape)
        yield bank
        bank.flush()


def open_bank(path, shape):
    """M float16 [N, classes, K], mapped from disk: bank[indices] reads the rows of these images alone.

    Raises UserError for a file that is no bank of this shape.
    """
    try:
        bank = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to build it again") from error
    if bank.shape != shape or bank.dtype != np.float16:
        raise UserError(f"{path} is {bank.dtype} {bank.shape}, expected float16 {shape}; delete it to build it again")
    return bank
