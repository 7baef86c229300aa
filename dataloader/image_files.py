"""Where the encoded images of a set are: in files of their own, or each at a place of a shard."""

import dataclasses
import os
import stat

import numpy as np

from dataloader.encoded import LARGEST
from files.guards import one_line


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the N encoded images of a set are.

    root: the folder; names: bytes [F], files below it; file: int32 [N], which of them image i is
    in, None where each is a file; offsets, sizes: int64 [N], its bytes in that, None where it is
    all of it.
    """

    root: str
    names: np.ndarray
    file: np.ndarray = None
    offsets: np.ndarray = None
    sizes: np.ndarray = None

    def __len__(self):
        return len(self.names if self.file is None else self.file)

    def path(self, i):
        return os.path.join(
            self.root, os.fsdecode(bytes(self.names[i if self.file is None else self.file[i]]))
        )

    def name(self, i):
        """The image in words."""
        return one_line(self.path(i)) + (
            "" if self.offsets is None else f", the image at byte {self.offsets[i]}"
        )

    def read(self, i, most=LARGEST):
        """The bytes of image i, or its first `most`. Raises OSError, ValueError for what is no
        file, too large or cut short.
        """
        descriptor = os.open(self.path(i), os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no file")
            size = status.st_size if self.sizes is None else int(self.sizes[i])
            if size > LARGEST:
                raise ValueError(f"an encoded image of {size} bytes")
            size = min(size, most)
            data = os.pread(descriptor, size, 0 if self.offsets is None else int(self.offsets[i]))
        finally:
            os.close(descriptor)
        if len(data) < size:
            raise ValueError("the file ends before the image does")
        return data

    def arrays(self):
        """What tells this set from others, a dict of arrays."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
