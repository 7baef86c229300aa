"""Where the encoded images of a data set are: one per file, or many per TFRecord shard."""

import dataclasses
import os
import stat

import numpy as np

from dataloader.encoded import LARGEST
from files.guards import one_line


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """The files and byte ranges of the N encoded images of a data set.

    Args:
        root: folder.
        names: bytes [F], the files' paths below `root`.
        file: int32 [N], the index in `names` of the file that holds image i; None if each file is
            one image.
        offsets: int64 [N], the image's first byte in its file; None if each file is one image.
        sizes: int64 [N], the image's bytes; None if each file is one image.
    """

    root: str
    names: np.ndarray
    file: np.ndarray = None
    offsets: np.ndarray = None
    sizes: np.ndarray = None

    def __len__(self):
        return len(self.names if self.file is None else self.file)

    def path(self, i):
        """The path of the file that holds image i."""
        name = self.names[i if self.file is None else self.file[i]]
        return os.path.join(self.root, os.fsdecode(bytes(name)))

    def name(self, i):
        """Names image i in a message."""
        path = one_line(self.path(i))
        return path if self.offsets is None else f"{path}, the image at byte {self.offsets[i]}"

    def read(self, i, most=LARGEST):
        """The bytes of image i, or only the first `most`.

        Raises OSError, or ValueError if the path is not a regular file, or the image is too large
        or cut short.
        """
        descriptor = os.open(self.path(i), os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
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
        """dict of arrays that identifies the data set, for its digest in a run's folder."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
