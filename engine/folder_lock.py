"""The lock of a folder: one process at a time writes there."""

import contextlib
import fcntl
import os
import socket

from utils import UserError

LOCK = ".lock"


class FolderLock:
    """The lock of the folder `path`, held until it is closed.

    The operating system frees the lock of a process that dies. Raises UserError if another process
    holds it.

    path: an existing folder; flag: the option that gave it, for messages.
    locked: False if the file system has no locks.
    """

    def __init__(self, path, flag="--train_path"):
        # Unbuffered: otherwise close() would write again what a full disk has refused.
        self._file = open(os.path.join(path, LOCK), "a+b", buffering=0)
        self.locked = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read(200).decode(errors="replace").strip() or "another process"
            self.close()
            raise UserError(
                f"{flag} {path} is in use by {owner}; wait for it, or choose another folder"
            ) from error
        except OSError:
            return  # the file system has no locks
        self.locked = True
        with contextlib.suppress(OSError):  # on a full disk the lock works without the owner's name
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def close(self):
        """Frees the folder for other processes."""
        self._file.close()
