"""Decodes the images of files: one at a time, or ahead of use in a tf.data pipeline."""

import concurrent.futures
import contextlib
import errno
import itertools
import queue
import re

import numpy as np
import tensorflow as tf

from dataloader.augment import DRAWS
from dataloader.encoded import count_scans
from dataloader.views import TRIES, centre_view, crop_factors, training_views
from files.guards import one_line
from utils import UserError, cores

READERS = 16  # threads that read files; they wait for storage and need no core of their own
# Parts of TensorFlow's error messages that do not help a user.
TF_NOISE = re.compile(
    r"\w+Error: |\{\{[^}]*\}\}\s*|\[\[[^\]]*\]\]\s*|\[Op:[^\]]*\]|assertion failed: "
)
# Errors that are the fault of one file. Any other OSError is a fault of the storage or the system.
FILE_ERRORS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
)


def reason(error):
    """Why an image cannot be decoded, as one line, from the exception."""
    return TF_NOISE.sub("", one_line(error)).strip(" []")


class Request:
    """Images to decode, with replacements for the broken ones.

    Attributes: used, int [..., B]: the images to decode, replacements included; failed: whether
    a broken image was found while this request was decoded.

    Args:
        group: int [..., B], the images asked for; the last axis is a batch.
        draws: float32 [..., B, V, D], random numbers for V views per image; None for centres.
        columns: slice of a batch, the part that this machine decodes.
        pool: int [n], images that may replace others when a whole batch is broken.
        broken: dict image -> reason, the images known to be broken.
    """

    def __init__(self, group, draws, columns, pool, broken):
        self.group, self.draws, self.columns, self.pool = group, draws, columns, pool
        self.failed = False
        self.replace(broken)

    def replace(self, broken):
        """Replaces each broken image by the next intact one of its batch.

        If the whole batch is broken, an intact image of the pool is used. The choice depends only
        on `broken`, so it is the same in a run that was interrupted. Raises UserError if the whole
        pool is broken.
        """
        self.used = self.group.copy()
        if not broken:
            return
        for batch in self.used.reshape(-1, self.used.shape[-1]):
            part = batch[self.columns]
            good = np.flatnonzero([int(i) not in broken for i in part])
            if len(good):
                part[:] = part[good[np.searchsorted(good, np.arange(len(part))) % len(good)]]
            else:
                part[:] = self._from_pool(part[0], broken)

    def _from_pool(self, image, broken):
        """The first intact image of the pool after `image`."""
        start = int(np.argmax(self.pool == image))
        for i in itertools.chain(self.pool[start:], self.pool[:start]):
            if int(i) not in broken:
                return i
        raise UserError(
            f"all {len(self.pool)} images are broken, the first because: {broken[int(image)]}"
        )

    @property
    def own(self):
        """int [n]: the images in `used` that this machine decodes."""
        return self.used[..., self.columns].reshape(-1)

    @property
    def views(self):
        """Views per image; None for the centre."""
        return None if self.draws is None else self.draws.shape[-2]

    @property
    def crops(self):
        """The crops of the images in `own`, for dataloader.views: float32 [n, V, 2] and
        [n, V, TRIES, 2]; empty for centres.
        """
        if self.draws is None:
            return ()
        own = self.draws[..., self.columns, :, :].reshape(-1, *self.draws.shape[-2:])
        return own[..., 1:3], crop_factors(own[..., DRAWS:])


class Decoder:
    """Decodes images to uint8 [size, size, 3]. files: dataloader.image_files.ImageFiles."""

    def __init__(self, files, size):
        self.files, self.size = files, size
        self._functions = {}

    @contextlib.contextmanager
    def pipeline(self, requests):
        """Starts to decode `requests`. Yields (submit, results).

        submit(request) appends a request. next(results) has the images of the next request, as a
        tensor uint8 [n, ...]; it raises InvalidArgumentError if one of them is broken.
        """
        submitted = queue.SimpleQueue()
        for request in requests:
            submitted.put(request)
        views, count = requests[0].views, len(requests[0].own)

        def encoded():
            with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
                while (request := submitted.get()) is not None:
                    parts = readers.map(self._read, np.array_split(request.own, READERS))
                    data = [one for part in parts for one in part]
                    yield data, [count_scans(one) for one in data], *request.crops

        specs = [tf.TensorSpec([count, *spec.shape], spec.dtype) for spec in self._specs(views)]
        dataset = tf.data.Dataset.from_generator(encoded, output_signature=tuple(specs))
        dataset = dataset.prefetch(1).unbatch()
        dataset = dataset.map(self._function(views), num_parallel_calls=cores(), deterministic=True)
        results = iter(dataset.batch(count, drop_remainder=True).prefetch(2))
        try:
            yield submitted.put, results
        finally:
            submitted.put(None)

    def decode(self, i, views, crops):
        """(None, array) of image i, or (reason, None) if it is broken.

        crops: those of the image, see Request.crops. Raises OSError if the storage or the system
        fails, rather than the file.
        """
        try:
            data = self.files.read(i)
            with tf.device("CPU"):  # as in the pipeline
                return None, self._function(views)(data, count_scans(data), *crops).numpy()
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise
            return error.strerror, None
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return reason(error), None

    def _read(self, images):
        """The bytes of each image; b"" if it cannot be read.

        Decoding b"" fails too, and `decode` then finds the reason.
        """
        data = []
        for i in images:
            try:
                data.append(self.files.read(i))
            except (OSError, ValueError):
                data.append(b"")
        return data

    @staticmethod
    def _specs(views):
        """Arguments of `_function`: bytes, number of scans and, for views, places and factors of
        their crops.
        """
        specs = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)]
        if views is not None:
            specs += [tf.TensorSpec([views, 2]), tf.TensorSpec([views, TRIES, 2])]
        return specs

    def _function(self, views):
        """The tf.function that decodes one image to `views` views, or to its centre if None.

        It is traced once.
        """
        if views not in self._functions:
            view = centre_view if views is None else training_views
            decode = lambda *image: view(*image, self.size)
            self._functions[views] = tf.function(
                decode, input_signature=self._specs(views), autograph=False
            )
        return self._functions[views]
