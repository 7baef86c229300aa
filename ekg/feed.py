"""How images, labels and knowledge reach the devices: row by row from the host, or looked up where they already lie."""

import numpy as np

from op_utils import on_devices

RESIDENT_MIB = 1024  # on a GPU, unless --resident_mib says otherwise


class Feed:
    """The arrays of a training set, rows of which make up batches.

    arrays: dict name -> array [N, ...], the bank's among them; indices: int [n], the images that take part (None: all). In
    this order each that still fits into `mib` MiB is copied to every replica's device, in `tables` for
    op_utils.training_step; the rest stays where it is, a mapped file on disk. mib None: RESIDENT_MIB on GPUs with XLA; nothing
    on CPUs, whose memory is the host's.
    """

    def __init__(self, arrays, runtime, mib=None, indices=None):
        # Without XLA TensorFlow may look up rows of bytes on the host, and would fetch the whole table for it.
        suits = runtime.gpu and runtime.compile and not runtime.synchronises
        left = 2**20 * (mib if mib is not None else RESIDENT_MIB * suits)
        self.indices, self.count = indices, len(arrays["labels"]) if indices is None else len(indices)
        self.host, resident = {}, {}
        for name, array in arrays.items():
            size = array[:1].nbytes * self.count
            if size <= left:
                resident[name] = array if indices is None else array[indices]
                left -= size
            else:
                self.host[name] = array
        self.tables = on_devices(resident, runtime)

    def __call__(self, rows):
        """dict name -> array [*rows.shape, ...], what a step takes for the images `rows`, an array of numbers below `count`."""
        images = rows if self.indices is None else self.indices[rows]
        batch = {name: array[images] for name, array in self.host.items()}
        return {**batch, "rows": rows.astype(np.int32)} if self.tables else batch
