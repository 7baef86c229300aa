"""Feeds images, labels and knowledge to the devices: rows copied from the host for every batch, or
looked up in tables that stay on the devices.
"""

import contextlib
import itertools

import numpy as np

from dataloader.augment import DRAWS
from dataloader.images import EncodedImages
from dataloader.sampling import columns, shuffled_batches, steps_of
from distribution.step import on_devices

RESIDENT_MIB = 1024  # default of --resident_mib on a GPU


class Feed:
    """The arrays of a training set, one row per image. Batches are made of rows.

    Arrays are copied to every replica's device, in their order, as long as they fit into `mib` MiB
    (attribute `tables`, for op_utils.training_step). The others stay on the host or in their file.

    Args:
        arrays: dict name -> array [N, ...]: labels, images (an array or EncodedImages), and the
            memory bank if there is one.
        runtime: where the steps run.
        mib: MiB per device, None for RESIDENT_MIB on GPUs with XLA and 0 otherwise: a CPU has no
            memory of its own.
        indices: int [n] of the images to use, None for all.

    Attribute draws: number of random numbers per view of an image.
    """

    def __init__(self, arrays, runtime, mib=None, indices=None):
        # Without XLA, TensorFlow may look up uint8 rows on the host, and would copy the whole table
        # back for it.
        resident_by_default = runtime.gpu and runtime.compile and not runtime.synchronises
        left = 2**20 * (mib if mib is not None else RESIDENT_MIB * resident_by_default)
        self.machines, self.indices = runtime.machines, indices
        self.count = len(arrays["labels"]) if indices is None else len(indices)
        self.host, self.images, resident = {}, arrays["images"], {}
        self.encoded = isinstance(self.images, EncodedImages)
        self.draws = self.images.draws if self.encoded else DRAWS
        for name, array in arrays.items():
            if name == "images" and self.encoded:
                continue
            size = array[:1].nbytes * self.count
            if size <= left:
                resident[name] = array[:] if indices is None else array[indices]
                left -= size
            else:
                self.host[name] = array
        self.tables = on_devices(resident, runtime)

    def steps(self, batch_size):
        """Number of steps per epoch."""
        return self.images.steps(batch_size) if self._by_files else steps_of(self.count, batch_size)

    def order(self, batch_size, rng):
        """int64 [steps, B]: the rows of one epoch, shuffled, one batch per step."""
        return (
            self.images.shuffled_batches(batch_size, rng)
            if self._by_files
            else shuffled_batches(self.count, batch_size, rng)
        )

    @property
    def _by_files(self):
        """Whether the image files set the order of an epoch and the share of each machine. They do
        if a training uses all images of a set of files.
        """
        return self.encoded and self.indices is None

    def __call__(self, rows):
        """dict name -> array [*rows.shape, ...]: the arguments of a step for `rows`, an array of
        ints below `count`.
        """
        images = rows if self.indices is None else self.indices[rows]
        return self._looked_up(rows, images)

    def _looked_up(self, rows, images):
        batch = {name: self._own(array, images) for name, array in self.host.items()}
        return {**batch, "rows": rows.astype(np.int32)} if self.tables else batch

    def _own(self, array, images):
        """array[images]. With several machines, only this machine's columns of the batch (the last
        axis of `images`) are filled in.
        """
        machines = self.machines
        if len(machines.addresses) == 1:
            return array[images]
        own = columns(images.shape[-1], len(machines.addresses), machines.index)
        # Pages that are never written take no memory.
        whole = np.empty((*images.shape, *array.shape[1:]), array.dtype)
        whole[(slice(None),) * (images.ndim - 1) + (own,)] = array[images[..., own]]
        return whole

    def batches(self, groups, draws, augmented=True):
        """Yields the arguments of a step for each of `groups`, an iterable of int [..., B] (rows).

        draws: iterable of float32 [..., B, V, draws], one per group. augmented: whether the draws
        are random; if not, images in files are cropped to their centre. Broken images are replaced,
        see EncodedImages.
        """
        if not self.encoded:
            for rows, drawn in zip(groups, draws):
                yield {**self(rows), "draws": drawn}
            return
        here, there = itertools.tee(draws) if augmented else (draws, None)
        asked, waiting = itertools.tee(groups)
        of = lambda rows: rows if self.indices is None else self.indices[rows]
        found = self.images.batches(map(of, asked), there, pool=self.indices)
        with contextlib.closing(found):
            for rows, drawn, (ids, images) in zip(waiting, here, found):
                if (ids != of(rows)).any():
                    rows = self._rows_of(ids)
                yield {
                    **self._looked_up(rows, ids),
                    "images": images,
                    "draws": drawn[..., :DRAWS],
                }

    def _rows_of(self, ids):
        """The rows of the images with indices `ids` in the training set."""
        if self.indices is None:
            return ids
        order = np.argsort(self.indices)
        return order[np.searchsorted(self.indices, ids, sorter=order)]
