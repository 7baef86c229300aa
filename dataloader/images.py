"""The images of a data set, batch by batch: from an array, or decoded from files ahead of use."""

import atexit
import collections
import concurrent.futures
import contextlib
import itertools
import sys
import weakref

import numpy as np
import tensorflow as tf

from dataloader.augment import DRAWS
from dataloader.decoder import READERS, Decoder, Request
from dataloader.encoded import UNKNOWN, is_known
from dataloader.sampling import columns
from dataloader.views import CROP_DRAWS
from files.guards import one_line
from utils import UserError

AHEAD = 4  # batches that are requested before the first one is taken


class EncodedImages:
    """Images in files, decoded to uint8 [size, size, 3] when they are needed.

    An image that cannot be read or decoded is skipped: the next one of its batch replaces it.
    Attributes: broken, dict image -> reason; report(line), called once for each broken image.

    Args:
        files: dataloader.image_files.ImageFiles.
        size: pixels per side.
        share: (w, W): this is machine w of W. Each machine decodes its own part of every batch. In
            an epoch over all images, that part comes from its own files.
        window: images of shards are shuffled within this many images, because shards are read in
            sequence; None if each file is one image.
    """

    # Random numbers per view. Those after the first DRAWS choose the crop, here.
    draws = DRAWS + CROP_DRAWS

    def __init__(self, files, size, share=(0, 1), window=None):
        self.files, self.size, self.share, self.window = files, size, share, window
        self.broken = {}
        self.report = lambda line: print(line, file=sys.stderr)
        self._decoder = Decoder(files, size)

    def __len__(self):
        return len(self.files)

    @property
    def shape(self):
        return (len(self), self.size, self.size, 3)

    def columns(self, batch_size):
        """The slice of a batch that this machine decodes."""
        w, machines = self.share
        return columns(batch_size, machines, w)

    # ---------------------------------------------------------------------------------------- order

    @property
    def owner(self):
        """int [N]: the machine that reads each image in an epoch."""
        file = np.arange(len(self)) if self.files.file is None else self.files.file
        return file % self.share[1]

    @property
    def fewest(self):
        """The number of images of the machine that has the fewest."""
        return int(np.bincount(self.owner, minlength=self.share[1]).min())

    def steps(self, batch_size):
        """Steps per epoch, limited by the machine with the fewest images."""
        return self.fewest // (min(batch_size, len(self)) // self.share[1])

    def shuffled_batches(self, batch_size, rng):
        """int64 [steps, B]: the images of one epoch; each machine's own are in its columns."""
        owner, machines = self.owner, self.share[1]
        each = min(batch_size, len(self)) // machines
        used = self.steps(batch_size) * each
        parts = [
            self._shuffled(np.flatnonzero(owner == w), rng)[:used].reshape(-1, each)
            for w in range(machines)
        ]
        return np.concatenate(parts, 1)

    def _shuffled(self, own, rng):
        if self.window is None:
            return rng.permutation(own)
        # The shards are in random order, the images shuffled within the window. So the next image
        # to read is always near the last one.
        rank = rng.permutation(len(self.files.names))[self.files.file[own]]
        own = own[np.argsort(rank, kind="stable")]
        return own[np.argsort(np.arange(len(own)) + self.window * rng.random(len(own)))]

    # -------------------------------------------------------------------------------------- batches

    def batches(self, groups, draws=None, strict=False, pool=None):
        """A generator of (used, images), one pair per group.

        used: int [..., B], the images that were decoded: those of the group, with broken ones
        replaced. images: uint8 [..., B, S, S, 3] for centres, [..., B, V, S, S, 3] for views. With
        several machines, only this machine's columns of `images` are filled in.

        Args:
            groups: iterable of int arrays [..., B], images to decode.
            draws: iterable of float32 [..., B, V, D], random numbers for V views per image; None
                for the centre of each image.
            strict: whether a broken image raises UserError.
            pool: int [n], images that may replace others when a whole batch is broken; None for
                all images.
        """
        stream = self._stream(groups, draws, strict, np.arange(len(self)) if pool is None else pool)
        _streams.add(stream)
        return stream

    def _stream(self, groups, draws, strict, pool):
        pairs = zip(groups, itertools.repeat(None) if draws is None else draws)
        pending = collections.deque()  # requests that were not yielded yet, oldest first
        request = lambda pair: Request(*pair, self.columns(pair[0].shape[-1]), pool, self.broken)
        fill = lambda: pending.extend(map(request, itertools.islice(pairs, AHEAD - len(pending))))
        fill()
        while pending:
            with self._decoder.pipeline(pending) as (submit, results):
                while pending:
                    first = pending[0]
                    try:
                        images = next(results).numpy()
                    except tf.errors.InvalidArgumentError:
                        images = self._one_by_one(first, strict)
                    pending.popleft()
                    before = len(pending)
                    fill()
                    for new in itertools.islice(pending, before, None):
                        submit(new)
                    yield self._all_columns(first, images)
                    if first.failed:
                        # This pipeline has stopped at the error. Start another one, without the
                        # images that are known to be broken now.
                        for later in pending:
                            later.replace(self.broken)
                        break

    def _all_columns(self, request, images):
        """(used, images) of the whole batch, with this machine's columns filled in."""
        used = request.used
        if self.share[1] == 1:
            return used, images.reshape(*used.shape, *images.shape[1:])
        # The other columns are never touched, so they take no memory.
        whole = np.empty((*used.shape, *images.shape[1:]), np.uint8)
        own = (..., request.columns) + (slice(None),) * (images.ndim - 1)
        whole[own] = images.reshape(whole[own].shape)
        return used, whole

    # --------------------------------------------------------------------------------------- broken

    def check(self):
        """Raises UserError for the first image that cannot be read, or does not start like one."""
        parts = np.array_split(np.arange(len(self)), max(1, len(self) // 256))
        first_problem = lambda part: next(filter(None, map(self._problem, part)), None)
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            for problem in readers.map(first_problem, parts):
                if problem:
                    raise UserError(f"{problem}; an evaluation needs every image")

    def _problem(self, i):
        try:
            known = is_known(self.files.read(i, most=12))
            return None if known else f"{self.files.name(i)} is {UNKNOWN}"
        except (OSError, ValueError) as error:
            return f"{self.files.name(i)} cannot be read: {one_line(error)}"

    def _one_by_one(self, request, strict):
        """Decodes a request that contains broken images: finds, reports and replaces them."""
        done = {}  # position in request.own -> (image, decoded array)
        while True:
            request.replace(self.broken)
            crops, found = request.crops, False
            for k, i in enumerate(request.own.tolist()):
                if i in self.broken or done.get(k, (None,))[0] == i:
                    continue
                reason, array = self._decoder.decode(i, request.views, [part[k] for part in crops])
                if reason is None:
                    done[k] = i, array
                else:
                    self._report(i, reason, strict)
                    found = True
            if not found:
                request.failed = True
                return np.stack([done[k][1] for k in range(len(request.own))])

    def _report(self, i, reason, strict):
        name = self.files.name(i)
        if strict:
            raise UserError(f"{name} cannot be decoded: {reason}; an evaluation needs every image")
        self.broken[i] = reason
        self.report(f"  skipped: {name}: {reason} ({len(self.broken)} broken so far)")


_streams = weakref.WeakSet()


@atexit.register
def _close_streams():
    """Closes the generators that are still open when Python exits.

    Otherwise the process would hang: TensorFlow waits for its thread, which waits for Python.
    """
    for stream in list(_streams):
        with contextlib.suppress(Exception):
            stream.close()


def in_batches(images, groups, strict=False):
    """Yields (used, uint8 [B, S, S, 3]) for each of `groups`, int arrays [B].

    images: an array, or EncodedImages (see its method `batches`).
    """
    if isinstance(images, EncodedImages):
        yield from images.batches(groups, strict=strict)
    else:
        for group in groups:
            yield group, images[group]


def whole_batches(images, indices, size):
    """(number of batches, generator of them: dicts of `images`, uint8 [size, S, S, 3]).

    A last partial batch is left out: in a mean over batches it would count as much as the others.

    images: see in_batches; indices: int [n], in the order to take them.
    """
    count = len(indices) // size

    def batches():
        groups = indices[: count * size].reshape(count, size)
        with contextlib.closing(in_batches(images, groups)) as found:
            for _, pixels in found:
                yield {"images": pixels}

    return count, batches()
