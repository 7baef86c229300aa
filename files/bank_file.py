"""The memory bank's file: rows of one size, written and read by their place, never mapped and never
in memory as a whole.

A mapping's pages count as memory of the process once they are touched, and an epoch of random rows
touches all. What pread and pwrite bring stays in the system's cache, so that memory does not grow
with the number of images.
"""

import contextlib
import fcntl
import json
import os
import weakref

import numpy as np

from files.bank_rows import Dense
from files.guards import refusals
from utils import UserError, rename, write_json


class BankFile:
    """M under construction, rows of the .npy file `path`, which `complete` gives its name.

    `notes`, a JSON file, says how many batches it holds for certain, and after how many seconds.
    Where that is there, it goes on (`batches`, `seconds`). shape: of M, (N, classes, K); most: how
    many batches make it whole; plan: a number that says which these are; codec: how its rows are
    written, one of files.bank_rows; reserve: whether the disk's space is taken from the start. Of
    several machines the chief makes the file and the notes, and each writes rows of its own; all of
    them make the object, and call `save` and `complete`, together.

    Raises UserError where file and notes do not belong together, and on all machines where one does
    not see the file; OSError, which names it, where there is no room.
    """

    def __init__(self, path, notes, shape, most, plan=0, *, machines, codec=None, reserve=True):
        self.path, self.notes, self.plan, self.machines = path, notes, plan, machines
        self.codec = codec or Dense(*shape[1:])
        whole = shape[0], *self.codec.shape
        with self.machines.together():
            if self.machines.chief:
                begun = (
                    self._noted(most, whole)
                    if os.path.exists(notes)
                    else self._create(whole, reserve)
                )
                self.batches, self.seconds = begun
        said = [self.batches, self.seconds] if self.machines.chief else None
        self.batches, self.seconds = self.machines.exchange(said)[0]
        with self.machines.together():
            self._open(whole)

    def _noted(self, most, whole):
        """(batches, seconds) of the notes."""
        try:
            with open(self.notes, "rb") as file, refusals():
                noted = json.load(file)
            plain = isinstance(noted, dict) and type(noted.get("seconds")) in (int, float)
            if (
                not plain
                or type(noted.get("batches")) is not int
                or not 0 <= noted["batches"] <= most
            ):
                raise ValueError("its notes are none of this program's")
            if noted.get("plan") != self.plan:
                raise ValueError("it was begun with other batches")
            _rows_begin(self.path, whole, self.codec.dtype)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete {self.notes} to build the bank again"
            ) from error
        return noted["batches"], noted["seconds"]

    def _create(self, whole, reserve):
        """(0, 0.0), the file and its notes being there."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self.codec.dtype),
            "fortran_order": False,
            "shape": whole,
        }
        with open(self.path, "wb") as file, _named(self.path):
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + int(np.prod(whole)) * self.codec.dtype.itemsize
            file.flush()
            try:
                # The space is taken now: what a full disk refuses is known before hours of
                # computing.
                if reserve and hasattr(os, "posix_fallocate"):  # macOS has none
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
            except OSError:
                os.unlink(self.path)
                raise
            os.fsync(file.fileno())
        self._note(0, 0.0)
        return 0, 0.0

    def _note(self, batches, seconds):
        write_json(self.notes, {"batches": batches, "seconds": seconds, "plan": self.plan})

    def _open(self, whole):
        try:
            self._begin = _rows_begin(self.path, whole, self.codec.dtype)
            self._file = os.open(self.path, os.O_WRONLY)
        except (OSError, ValueError) as error:
            if self.machines.chief:
                raise
            raise UserError(
                f"{self.path} is not the chief's ({error}); the machines must share the storage it"
                " is on"
            ) from error
        self._close = weakref.finalize(self, os.close, self._file)
        if len(self.machines.addresses) > 1:
            # Rows of several machines share pages. An NFS client may write a page back whole, with
            # what others have written there meanwhile lost, unless the file is locked in part: one
            # byte behind its end for each machine.
            with contextlib.suppress(OSError):  # this file system has no locks
                place = os.fstat(self._file).st_size + self.machines.index
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)

    def add(self, rows, logits):
        """This machine's part of one more batch: rows int [n] of M, in any order, logits float16
        [n, K, classes].
        """
        order = np.argsort(rows)
        rows = rows[order]
        data = _bytes(self.codec.encode(logits[order]))
        with _named(self.path):
            for first, last in _runs(rows):
                part, place = (
                    data[first:last].reshape(-1),
                    self._begin + int(rows[first]) * data.shape[1],
                )
                while part.size:
                    written = os.pwrite(self._file, part, place)
                    part, place = part[written:], place + written
        self.batches += 1

    def save(self, seconds):
        """Makes certain what was added; `notes` never promises more than is on the disk of all
        machines.
        """
        self._sync()
        if self.machines.chief:
            self._note(self.batches, seconds)

    def complete(self, path):
        """M is whole: it gets the name `path`, which is there for all machines afterwards."""
        self._sync()
        self._close()
        if self.machines.chief:
            rename(self.path, path)
        self.machines.exchange(None)

    def _sync(self):
        """Returns when what every machine has added is on the disk."""
        with _named(self.path):
            os.fsync(self._file)
        self.machines.exchange(None)


class Bank:
    """M, read from its file: bank[indices], int array [...] or a slice, gives float16 [...,
    classes, K], these rows alone.

    shape: (N, classes, K); codec: see BankFile. Several threads may read at once. Raises OSError,
    or ValueError for a file that is no bank of this shape.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, path, shape, codec=None):
        self.path, self.shape, self.codec = path, tuple(shape), codec or Dense(*shape[1:])
        self._begin = _rows_begin(path, (shape[0], *self.codec.shape), self.codec.dtype)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, indices):
        """Raises IndexError for what is no row's number, UserError where the file has been damaged
        since it was opened.
        """
        indices = (
            np.arange(*indices.indices(len(self)))
            if isinstance(indices, slice)
            else np.asarray(indices)
        )
        if indices.size and (
            indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= len(self)
        ):
            raise IndexError(f"rows of the bank are numbers from 0 to {len(self) - 1}")
        wanted = indices.reshape(-1).astype(np.int64)
        rows, places = np.unique(wanted, return_inverse=True)
        try:
            with _named(self.path):
                stored = self._read(rows)
            # a whole bank is not copied
            stored = stored if np.array_equal(rows, wanted) else stored[places]
            return self.codec.decode(stored).reshape(*indices.shape, *self.shape[1:])
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete it to build it again"
            ) from error

    def __array__(self, dtype=None, copy=None):
        """All of it, for who has the memory: numpy.asarray(bank), tf.constant(bank)."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, rows):
        """The stored rows [n, ...], rows int64 [n] being sorted and each there once."""
        stored = np.empty((len(rows), *self.codec.shape), self.codec.dtype)
        data = _bytes(stored)
        for first, last in _runs(rows):
            part, place = (
                data[first:last].reshape(-1),
                self._begin + int(rows[first]) * data.shape[1],
            )
            while part.size:
                read = os.preadv(
                    self._file, [part], place
                )  # the descriptor's own position, which threads share, is not moved
                if not read:
                    raise ValueError("it has become shorter")
                part, place = part[read:], place + read
        return stored


def open_bank(path, shape, codec=None):
    """The Bank in `path`. Raises UserError for a file that is no bank of this shape."""
    try:
        return Bank(path, shape, codec)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to build it again") from error


@contextlib.contextmanager
def _named(path):
    """An OSError of this block says of which file it is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _rows_begin(path, shape, dtype):
    """At which byte of the .npy file `path` its rows begin; raises ValueError unless it holds such
    an array, row by row.
    """
    with open(path, "rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it is no .npy file")
    with refusals():
        mapped = np.lib.format.open_memmap(
            path, "r"
        )  # finds out a file that is cut short; none of its pages is touched
    if mapped.shape != shape or mapped.dtype != dtype:
        raise ValueError(
            f"it is {mapped.dtype} {list(mapped.shape)}, expected {dtype} {list(shape)}"
        )
    if not mapped.flags.c_contiguous:
        raise ValueError("its rows do not lie one after another")
    return mapped.offset


def _bytes(rows):
    """uint8 [n, bytes a row], the memory of `rows` [n, ...]."""
    size = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    return rows.reshape(-1).view(np.uint8).reshape(len(rows), size)


def _runs(rows):
    """[(first, last)]: rows[first:last] are neighbours in the file, of sorted rows int [n]."""
    breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(rows)])) if len(rows) else []
