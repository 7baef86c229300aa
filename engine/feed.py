"""How images, labels and knowledge reach the devices: row by row from the host, or looked up where
they already lie.
"""

import contextlib
import itertools

import numpy as np

from dataloader.augment import DRAWS
from dataloader.images import EncodedImages
from dataloader.sampling import columns, shuffled_batches, steps_of
from distribution.step import on_devices

RESIDENT_MIB = 1024  # on a GPU, unless --resident_mib says otherwise


class Feed:
    """What lies row by row in a training set, rows of which make up batches.

    arrays: dict name -> array [N, ...], the bank's among them, `images` an array or EncodedImages;
    indices: int [n], the images that take part (None: all). In this order each array that still
    fits into `mib` MiB is copied to every replica's device, in `tables` for op_utils.training_step;
    the rest stays where it is, in a file on disk. mib None: RESIDENT_MIB on GPUs with XLA; nothing
    on CPUs, whose memory is the host's. draws: random numbers that a view of an image takes.
    """

    def __init__(self, arrays, runtime, mib=None, indices=None):
        # Without XLA TensorFlow may look up rows of bytes on the host, and would fetch the whole
        # table for it.
        suits = runtime.gpu and runtime.compile and not runtime.synchronises
        left = 2**20 * (mib if mib is not None else RESIDENT_MIB * suits)
        self.machines = runtime.machines
        self.indices, self.count = (
            indices,
            len(arrays["labels"]) if indices is None else len(indices),
        )
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
        """Steps of an epoch."""
        return self.images.steps(batch_size) if self._by_files else steps_of(self.count, batch_size)

    def order(self, batch_size, rng):
        """int64 [steps, B]: the rows of one epoch, in the order in which they make up batches."""
        return (
            self.images.shuffled_batches(batch_size, rng)
            if self._by_files
            else shuffled_batches(self.count, batch_size, rng)
        )

    @property
    def _by_files(self):
        """Whether files decide the order of an epoch, and which machine sees what: those of a whole
        set do.
        """
        return self.encoded and self.indices is None

    def __call__(self, rows):
        """dict name -> array [*rows.shape, ...], what a step takes for the images `rows`, an array
        of numbers below `count`.
        """
        images = rows if self.indices is None else self.indices[rows]
        return self._looked_up(rows, images)

    def _looked_up(self, rows, images):
        batch = {name: self._own(array, images) for name, array in self.host.items()}
        return {**batch, "rows": rows.astype(np.int32)} if self.tables else batch

    def _own(self, array, images):
        """array[images]; of several machines' parts of a batch, its last axis, this one's alone is
        filled in.
        """
        machines = self.machines
        if len(machines.addresses) == 1:
            return array[images]
        own = columns(images.shape[-1], len(machines.addresses), machines.index)
        whole = np.empty(
            (*images.shape, *array.shape[1:]), array.dtype
        )  # memory that nobody touches is none
        whole[(*[slice(None)] * (images.ndim - 1), own)] = array[images[..., own]]
        return whole

    def batches(self, groups, draws, augmented=True):
        """Yields what a step takes for each of `groups`, an iterable of int [..., B] of rows.

        draws: an iterable of float32 [..., B, V, draws] beside them. augmented: whether they are
        meant to change anything; images in files are seen in their centre if not. Broken ones are
        replaced, see EncodedImages.
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
            for rows, drawn, (shown, images) in zip(waiting, here, found):
                if (shown != of(rows)).any():
                    rows = self._rows_of(shown)
                yield {
                    **self._looked_up(rows, shown),
                    "images": images,
                    "draws": drawn[..., :DRAWS],
                }

    def _rows_of(self, shown):
        """The rows of the images `shown`."""
        if self.indices is None:
            return shown
        order = np.argsort(self.indices)
        return order[np.searchsorted(self.indices, shown, sorter=order)]
