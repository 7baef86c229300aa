"""The memory bank: what K interim sub-networks say of every training image (Eq. 10)."""

import json
import os

import numpy as np

from array_files import refusals
from utils import UserError, rename, write_json

SHARD = 16  # batches after which the bank is saved: what a killed run computes again at most


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


def build(bank, batches, predict, after_batch=lambda: None):
    """Fills M, `bank`, batch by batch and never in memory as a whole.

    bank: a BankFile, or None on a machine that takes part in the predictions and leaves the writing to another.

    batches: an iterable of (rows, batch), rows int [n] being the images the batch's first n entries show. predict(batch) ->
    float32 [B, K, classes], the teachers' logits. M[n, :, k] are those of teacher k for training image n. Raises
    FloatingPointError where a logit is not finite in float16.
    """
    for rows, batch in batches:
        with np.errstate(over="ignore"):
            logits = predict(batch)[: len(rows)].astype(np.float16)
        bad = ~np.isfinite(logits).all((0, 2))  # bool [K]
        if bad.any():
            raise FloatingPointError(f"teacher {bad.argmax()} gives logits that are not finite in float16")
        if bank is not None:
            bank.add(rows, logits)
        after_batch()


class BankFile:
    """M under construction: float16 [N, classes, K], mapped from the .npy file `path`, which `complete` gives its name.

    `notes`, a JSON file, says how many batches it holds for certain, and after how many seconds. Where that is there, it goes
    on (`batches`, `seconds`). most: how many batches make it whole. Raises UserError where the two do not belong together.
    """

    def __init__(self, path, notes, shape, most):
        self.path, self.notes, self.batches, self.seconds = path, notes, 0, 0.0
        if os.path.exists(notes):
            self._go_on(shape, most)
        else:
            self._create(shape)
            self.save(0.0)

    def _go_on(self, shape, most):
        try:
            with open(self.notes, "rb") as file, refusals():
                noted = json.load(file)
            plain = isinstance(noted, dict) and type(noted.get("seconds")) in (int, float)
            if not plain or type(noted.get("batches")) is not int or not 0 <= noted["batches"] <= most:
                raise ValueError("its notes are none of this program's")
            self.batches, self.seconds = noted["batches"], noted["seconds"]
            _mapped(self.path, shape, "r")  # this finds out a file that is cut short, the next line would lengthen it
            self.values = _mapped(self.path, shape, "r+")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is damaged ({error}); delete {self.notes} to build the bank again") from error

    def _create(self, shape):
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        with open(self.path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            offset, size = file.tell(), 2 * int(np.prod(shape))
            file.flush()
            try:
                # The space is taken now: on a full disk this raises, while writing to a hole of a mapped file would kill.
                if hasattr(os, "posix_fallocate"):  # macOS has none
                    os.posix_fallocate(file.fileno(), 0, offset + size)
                file.truncate(offset + size)
            except OSError as error:
                os.unlink(self.path)
                raise OSError(error.errno, error.strerror, self.path) from error
        self.values = np.memmap(self.path, np.float16, "r+", offset, shape)

    def add(self, rows, logits):
        """One more batch: rows int [n] of M, float16 [n, K, classes]."""
        self.values[rows] = logits.transpose(0, 2, 1)
        self.batches += 1

    def save(self, seconds):
        """Makes certain what was added; `notes` never promises more than is on the disk."""
        self._sync()
        write_json(self.notes, {"batches": self.batches, "seconds": seconds})

    def complete(self, path):
        """M is whole: it gets the name `path`."""
        self._sync()
        rename(self.path, path)

    def _sync(self):
        self.values.flush()
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())


def open_bank(path, shape):
    """M float16 [N, classes, K], mapped from disk: bank[indices] reads the rows of these images alone.

    Raises UserError for a file that is no bank of this shape.
    """
    try:
        return _mapped(path, shape, "r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to build it again") from error


def _mapped(path, shape, mode):
    """The .npy file `path`; raises ValueError unless it holds float16 of this shape."""
    with open(path, "rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it is no .npy file")
    with refusals():
        bank = np.lib.format.open_memmap(path, mode)
    if bank.shape != shape or bank.dtype != np.float16:
        raise ValueError(f"it is {bank.dtype} {list(bank.shape)}, expected float16 {list(shape)}")
    return bank
