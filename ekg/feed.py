"""How images, labels and knowledge reach the devices: rows by rows from the host, or looked up where they already lie."""

import numpy as np

from op_utils import on_devices

RESIDENT_MIB = 1024  # on a GPU, unless --resident_mib says otherwise; a CPU's memory is the host's


class Feed:
    """The arrays of a training set, rows of which make up batches.

    arrays: dict name -> array [N, ...], the bank's among them. In this order they are copied to every replica's device while
    they fit into `mib` MiB (None: RESIDENT_MIB on GPUs, nothing on CPUs); the rest stays where it is, a mapped file on disk.
    `tables`, a dict, holds those on the devices, for op_utils.training_step.
    """

    def __init__(self, arrays, runtime, mib=None):
        left = 2**20 * (mib if mib is not None else RESIDENT_MIB * runtime.gpu)
        self.host, resident = {}, {}
        for name, array in arrays.items():
            fits = array.nbytes <= left
            (resident if fits else self.host)[name] = array
            left -= array.nbytes * fits
        self.count = len(arrays["labels"])
        self.tables = on_devices(resident, runtime)

    def __call__(self, rows):
        """dict name -> array [*rows.shape, ...], what a step takes for the images `rows`, an array of indices."""
        batch = {name: array[rows] for name, array in self.host.items()}
        return {**batch, "rows": rows.astype(np.int32)} if self.tables else batch
