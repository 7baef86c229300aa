"""The memory bank's file: an .npy file whose rows are read and written one by one.

The file is not memory-mapped. Touched pages of a mapping count as memory of the process, and an
epoch in random order touches all of them. With pread and pwrite the data stay in the system's
cache, so the process's memory does not grow with the number of images.
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
    """The memory bank M while it is being built. `complete` renames the file when M is finished.

    If `notes` exists, building continues after the batches it counts: see the attributes `batches`
    and `seconds`.

    With several machines, the chief creates the file and the notes, and each machine writes its own
    rows. All machines must construct the object and call `save` and `complete` together.

    Args:
        path: of the unfinished .npy file.
        notes: path of a JSON file: how many batches are on the disk, and the seconds they took.
        shape: of M, (N, classes, K).
        most: how many batches complete M.
        plan: int that identifies the order of the batches; it must match the one in `notes`.
        machines: distribution.machines.Alone or Meeting.
        codec: how rows are stored, from files.bank_rows; None for Dense.
        reserve: whether to allocate the disk space at the start.

    Raises UserError if the file and the notes do not match, and on all machines if one of them
    cannot see the file. Raises OSError with the file's name if the disk has no space.
    """

    def __init__(self, path, notes, shape, most, plan=0, *, machines, codec=None, reserve=True):
        self.path, self.notes, self.plan, self.machines = path, notes, plan, machines
        self.codec = codec or Dense(*shape[1:])
        stored_shape = shape[0], *self.codec.shape
        progress = None
        with self.machines.together():
            if self.machines.chief:
                if os.path.exists(notes):
                    progress = self._read_notes(most, stored_shape)
                else:
                    progress = self._create(stored_shape, reserve)
        self.batches, self.seconds = self.machines.exchange(progress)[0]
        with self.machines.together():
            self._open(stored_shape)

    def _read_notes(self, most, stored_shape):
        """(batches, seconds) from the notes of an unfinished bank, after checking them."""
        try:
            with open(self.notes, "rb") as file, refusals():
                noted = json.load(file)
            valid = (
                isinstance(noted, dict)
                and type(noted.get("seconds")) in (int, float)
                and type(noted.get("batches")) is int
                and 0 <= noted["batches"] <= most
            )
            if not valid:
                raise ValueError("its notes were not written by this program")
            if noted.get("plan") != self.plan:
                raise ValueError("it was started with other batches")
            _rows_begin(self.path, stored_shape, self.codec.dtype)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete {self.notes} to build the bank again"
            ) from error
        return noted["batches"], noted["seconds"]

    def _create(self, stored_shape, reserve):
        """Creates the file and its notes. Returns (batches, seconds) = (0, 0.0)."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self.codec.dtype),
            "fortran_order": False,
            "shape": stored_shape,
        }
        with open(self.path, "wb") as file, _named(self.path):
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + int(np.prod(stored_shape)) * self.codec.dtype.itemsize
            file.flush()
            try:
                # Allocate the space now, so that a full disk is reported before hours of computing.
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

    def _open(self, stored_shape):
        try:
            self._begin = _rows_begin(self.path, stored_shape, self.codec.dtype)
            self._file = os.open(self.path, os.O_WRONLY)
        except (OSError, ValueError) as error:
            if self.machines.chief:
                raise
            raise UserError(
                f"{self.path} is not the chief's file ({error}); put it on storage that all"
                " machines share"
            ) from error
        self._close = weakref.finalize(self, os.close, self._file)
        if len(self.machines.addresses) > 1:
            # Rows of several machines share pages. An NFS client may write back a whole page and
            # overwrite what other machines wrote there, unless it holds a lock on the file. So each
            # machine locks one byte of its own, behind the end of the file.
            with contextlib.suppress(OSError):  # some file systems have no locks
                place = os.fstat(self._file).st_size + self.machines.index
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)

    def add(self, rows, logits):
        """Writes this machine's part of the next batch.

        rows: int [n], row numbers of M in any order; logits: float16 [n, K, classes].
        """
        order = np.argsort(rows)
        rows = rows[order]
        data = _bytes(self.codec.encode(logits[order]))
        with _named(self.path):
            for first, last in _runs(rows):
                part = data[first:last].reshape(-1)
                offset = self._begin + int(rows[first]) * data.shape[1]
                while part.size:
                    written = os.pwrite(self._file, part, offset)
                    part, offset = part[written:], offset + written
        self.batches += 1

    def save(self, seconds):
        """Syncs all added rows to the disk, then updates the notes.

        The order matters: the notes must never count a batch that some machine has not synced.
        """
        self._sync()
        if self.machines.chief:
            self._note(self.batches, seconds)

    def complete(self, path):
        """Renames the finished file to `path`. It exists for all machines when this returns."""
        self._sync()
        self._close()
        if self.machines.chief:
            rename(self.path, path)
        self.machines.exchange(None)

    def _sync(self):
        """Returns when the rows added by every machine are on the disk."""
        with _named(self.path):
            os.fsync(self._file)
        self.machines.exchange(None)


class Bank:
    """The finished memory bank M, read row by row from its file.

    bank[indices], with indices an int array [...] or a slice, is float16 [..., classes, K]. Only
    these rows are read. Several threads may read at once.

    shape: (N, classes, K); codec: see BankFile. Raises OSError, or ValueError if the file is not a
    bank of this shape.
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
        """Raises IndexError for an invalid index, UserError if the file was damaged after it was
        opened.
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        indices = np.asarray(indices)
        if indices.size and (
            indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= len(self)
        ):
            raise IndexError(f"rows of the bank are numbered from 0 to {len(self) - 1}")
        wanted = indices.reshape(-1).astype(np.int64)
        rows, positions = np.unique(wanted, return_inverse=True)
        try:
            with _named(self.path):
                stored = self._read(rows)
            # Indexing copies. Skip it when the rows are in order already, e.g. the whole bank.
            stored = stored if np.array_equal(rows, wanted) else stored[positions]
            return self.codec.decode(stored).reshape(*indices.shape, *self.shape[1:])
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete it to build it again"
            ) from error

    def __array__(self, dtype=None, copy=None):
        """The whole bank in memory, for numpy.asarray(bank) and tf.constant(bank)."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, rows):
        """The stored rows [n, ...]. rows: int64 [n], sorted and without duplicates."""
        stored = np.empty((len(rows), *self.codec.shape), self.codec.dtype)
        data = _bytes(stored)
        for first, last in _runs(rows):
            part = data[first:last].reshape(-1)
            offset = self._begin + int(rows[first]) * data.shape[1]
            while part.size:
                # preadv does not move the descriptor's position, which threads share.
                read = os.preadv(self._file, [part], offset)
                if not read:
                    raise ValueError("it is shorter than when it was opened")
                part, offset = part[read:], offset + read
        return stored


def open_bank(path, shape, codec=None):
    """The Bank in `path`. Raises UserError if the file is not a bank of this shape."""
    try:
        return Bank(path, shape, codec)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to build it again") from error


@contextlib.contextmanager
def _named(path):
    """Adds the file's name to an OSError raised in the block."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _rows_begin(path, shape, dtype):
    """The byte offset of the first row in the .npy file `path`.

    Raises ValueError unless the file holds a C-ordered array of this shape and dtype.
    """
    with open(path, "rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it is not an .npy file")
    with refusals():
        # Mapping fails if the file is cut short. No page is touched, so it takes no memory.
        mapped = np.lib.format.open_memmap(path, "r")
    if mapped.shape != shape or mapped.dtype != dtype:
        raise ValueError(
            f"it is {mapped.dtype} {list(mapped.shape)}, expected {dtype} {list(shape)}"
        )
    if not mapped.flags.c_contiguous:
        raise ValueError("its array is in Fortran order, expected C order")
    return mapped.offset


def _bytes(rows):
    """A view of `rows` [n, ...] as uint8 [n, bytes per row]."""
    size = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    return rows.reshape(-1).view(np.uint8).reshape(len(rows), size)


def _runs(rows):
    """[(first, last)]: rows[first:last] are adjacent in the file. rows: int [n], sorted."""
    breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(rows)])) if len(rows) else []
