"""The images of a set, batch by batch: from an array, or decoded from their files while the devices work on the batch before."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import queue
import re
import sys

import numpy as np
import tensorflow as tf

from array_files import one_line, refusals
from dataloader.augment import DRAWS
from dataloader.encoded import LARGEST, count_scans
from dataloader.sampling import columns, shuffled_batches
from dataloader.views import CROP_DRAWS, centre_view, training_views
from utils import UserError, cores

AHEAD = 4  # batches that are asked for before the first is taken
GRAPH = re.compile(r"\w+Error: |\{\{[^}]*\}\}\s*|\[\[[^\]]*\]\]\s*|\[Op:[^\]]*\]|assertion failed: ")  # TensorFlow's, in a reason
READERS = 16  # files read at a time: what waits for storage takes no core


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the N encoded images of a set are.

    root: the folder; names: bytes [F], files below it; file: int32 [N], which of them image i is in, None where each is a file;
    offsets, sizes: int64 [N], its bytes in that, None where it is all of it.
    """

    root: str
    names: np.ndarray
    file: np.ndarray = None
    offsets: np.ndarray = None
    sizes: np.ndarray = None

    def __len__(self):
        return len(self.names if self.file is None else self.file)

    def path(self, i):
        return os.path.join(self.root, os.fsdecode(bytes(self.names[i if self.file is None else self.file[i]])))

    def name(self, i):
        """The image in words."""
        return self.path(i) + ("" if self.offsets is None else f", the image at byte {self.offsets[i]}")

    def read(self, i):
        """The bytes of image i. Raises OSError, ValueError for what is too large or ends too early."""
        with open(self.path(i), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size if self.sizes is None else int(self.sizes[i])
            if size > LARGEST:
                raise ValueError(f"an encoded image of {size} bytes")
            data = os.pread(file.fileno(), size, 0 if self.offsets is None else int(self.offsets[i]))
        if len(data) < size:
            raise ValueError("the file ends before the image does")
        return data

    def arrays(self):
        """What tells this set from others, a dict of arrays."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


class EncodedImages:
    """Images in files, decoded to uint8 [size, size, 3] as they are needed.

    places: Places; share: (w, W), which of W machines this is: each decodes its own part of every batch, and trains on the
    images of its own files; window: images within which a shard's are shuffled, since they are read as they lie; None where
    each image is a file.

    An image that cannot be read or decoded is skipped: the next one of its batch takes its place, and `broken` has it, dict
    image -> reason. report(line) is told of each when it is met.
    """

    def __init__(self, places, size, share=(0, 1), window=None):
        self.places, self.size, self.share, self.window = places, size, share, window
        self.broken = {}
        self.report = lambda line: print(line, file=sys.stderr)
        self._graphs = {}

    draws = DRAWS + CROP_DRAWS  # random numbers that a view takes, those behind DRAWS here

    def __len__(self):
        return len(self.places)

    @property
    def shape(self):
        return (len(self), self.size, self.size, 3)

    def columns(self, batch_size):
        """The slice of a batch that is this machine's."""
        w, machines = self.share
        return columns(batch_size, machines, w)

    # -------------------------------------------------------------------------------------------------------------- order

    @property
    def owner(self):
        """int [N]: which machine reads the file that an image is in."""
        file = np.arange(len(self)) if self.places.file is None else self.places.file
        return file % self.share[1]

    def steps(self, batch_size):
        """Steps of an epoch: as many as the machine with the fewest images can do."""
        fewest = np.bincount(self.owner, minlength=self.share[1]).min()
        return int(fewest // (min(batch_size, len(self)) // self.share[1]))

    def shuffled_batches(self, batch_size, rng):
        """int64 [steps, B]: the images of one epoch, each machine's own in its columns."""
        owner, machines = self.owner, self.share[1]
        each = min(batch_size, len(self)) // machines
        used = self.steps(batch_size) * each
        columns = [self._shuffled(np.flatnonzero(owner == w), rng)[:used].reshape(-1, each) for w in range(machines)]
        return np.concatenate(columns, 1)

    def _shuffled(self, own, rng):
        if self.window is None:
            return rng.permutation(own)
        # Shards in random order, images within the window: what is read next is never far from what was read last.
        rank = rng.permutation(len(self.places.names))[self.places.file[own]]
        own = own[np.argsort(rank, kind="stable")]
        return own[np.argsort(np.arange(len(own)) + self.window * rng.random(len(own)))]

    # ------------------------------------------------------------------------------------------------------------ batches

    def batches(self, groups, draws=None, strict=False):
        """Yields (shown, images) for each of `groups`, arrays int [..., B] of images.

        images: uint8 [..., B, S, S, 3], centres, or [..., B, V, S, S, 3], the views that `draws` ask for, an iterable of float32
        [..., B, V, D]; shown: int [..., B], which images they are of, the same but for broken ones. With several machines the
        part of the others is not filled in. strict: a broken image raises UserError.
        """
        pairs = zip(groups, itertools.repeat(None) if draws is None else draws)
        pending = collections.deque()  # what the pipeline has been asked for, oldest first
        more = lambda: pending.extend(map(self._own, itertools.islice(pairs, AHEAD - len(pending))))
        more()
        while pending:
            with self._pipeline(pending) as (ask, answers):
                while pending:
                    task = pending[0]
                    try:
                        images = next(answers).numpy()
                    except tf.errors.OpError:
                        images = self._one_by_one(task, strict)
                    pending.popleft()
                    before = len(pending)
                    more()
                    for new in itertools.islice(pending, before, None):
                        ask(new)
                    yield self._whole(task, images)
                    if task.fell:  # its images are not in step with the pipeline any more: another one goes on
                        for later in pending:
                            later.replace(self.broken)
                        break

    def _own(self, pair):
        group, draws = pair
        return _Task(group, draws, self.columns(group.shape[-1]), self.broken)

    def _whole(self, task, images):
        """(shown, images) of all machines' parts, this one's filled in."""
        if self.share[1] == 1:
            return task.shown, images.reshape(*task.shown.shape, *images.shape[1:])
        # Memory that nobody touches is none.
        whole = np.empty((*task.shown.shape, *images.shape[1:]), np.uint8)
        part = whole[..., task.columns, :, :, :] if task.draws is None else whole[..., task.columns, :, :, :, :]
        part[...] = images.reshape(part.shape)
        return task.shown, whole

    @contextlib.contextmanager
    def _pipeline(self, tasks):
        """(ask, answers): answers, an iterator, has the images of `tasks`, and then of those that were asked for."""
        asked = queue.SimpleQueue()
        for task in tasks:
            asked.put(task)
        views = None if tasks[0].draws is None else tasks[0].draws.shape[-2:]
        count = len(tasks[0].own)

        def encoded():
            with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
                while (task := asked.get()) is not None:
                    data = list(readers.map(self._readable, task.own))
                    scans = np.array([count_scans(one) for one in data])
                    yield (data, scans) if views is None else (data, scans, task.own_draws)

        kinds = [tf.TensorSpec([count], tf.string), tf.TensorSpec([count], tf.int64)]
        if views is not None:
            kinds.append(tf.TensorSpec([count, *views], tf.float32))
        dataset = tf.data.Dataset.from_generator(encoded, output_signature=tuple(kinds)).prefetch(1).unbatch()
        dataset = dataset.map(self._graph(views), num_parallel_calls=cores(), deterministic=True)
        answers = iter(dataset.batch(count, drop_remainder=True).prefetch(2))
        try:
            yield asked.put, answers
        finally:
            asked.put(None)

    def _graph(self, views):
        """The function that decodes one image, traced once; views: (V, D), None for the centre."""
        if views not in self._graphs:
            kinds = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)]
            if views is None:
                decode = lambda encoded, scans: centre_view(encoded, scans, self.size)
            else:
                kinds.append(tf.TensorSpec(views, tf.float32))
                decode = lambda encoded, scans, draws: training_views(encoded, scans, draws, self.size)
            self._graphs[views] = tf.function(decode, input_signature=kinds, autograph=False)
        return self._graphs[views]

    def _readable(self, i):
        try:
            return self.places.read(i)
        except (OSError, ValueError):
            return b""  # decoding that fails too, where the reason is asked for

    # ------------------------------------------------------------------------------------------------------------- broken

    def _one_by_one(self, task, strict):
        """The images of a task of which some are broken: those are found out, named, and replaced."""
        decode = self._graph(None if task.draws is None else task.draws.shape[-2:])

        def decoded(i, draws):
            with refusals():
                data = self.places.read(i)
                return decode(data, count_scans(data), *draws).numpy()

        while True:
            task.replace(self.broken)
            draws = itertools.repeat(()) if task.draws is None else zip(task.own_draws)
            images = []
            for i, own_draws in zip(task.own, draws):
                try:
                    images.append(decoded(i, own_draws))
                except (OSError, ValueError) as error:
                    self._report(int(i), GRAPH.sub("", one_line(error)).strip(), strict)
                    break
            else:
                task.fell = True
                return np.stack(images)

    def _report(self, i, reason, strict):
        name = self.places.name(i)
        if strict:
            raise UserError(f"{name} cannot be decoded: {reason}; an evaluation needs every image")
        self.broken[i] = reason
        self.report(f"  skipped: {name}: {reason} ({len(self.broken)} broken so far)")


class _Task:
    """What is asked of the pipeline: images int [..., B], their draws, and of them this machine's own."""

    def __init__(self, group, draws, columns, broken):
        self.group, self.draws, self.columns, self.fell = group, draws, columns, False
        self.replace(broken)

    def replace(self, broken):
        """Lets the next whole image of each batch take the place of a broken one. Raises UserError if there is none."""
        self.shown = self.group.copy()
        if broken:
            for batch in self.shown.reshape(-1, self.shown.shape[-1]):
                part = batch[self.columns]
                good = np.flatnonzero([int(i) not in broken for i in part])
                if not len(good):
                    raise UserError(f"all {len(part)} images of a batch are broken, the first because: {broken[int(part[0])]}")
                part[:] = part[good[np.searchsorted(good, np.arange(len(part))) % len(good)]]

    @property
    def own(self):
        return self.shown[..., self.columns].reshape(-1)

    @property
    def own_draws(self):
        return self.draws[..., self.columns, :, :].reshape(-1, *self.draws.shape[-2:])


def in_batches(images, groups, strict=False):
    """Yields (shown, uint8 [B, S, S, 3]) for each of `groups`, int arrays [B]. images: an array or EncodedImages, see there."""
    if isinstance(images, EncodedImages):
        yield from images.batches(groups, strict=strict)
    else:
        for group in groups:
            yield group, images[group]


def epoch_batches(images, count, batch_size, rng):
    """int64 [steps, B]: the order of one epoch of training on `count` images, all of `images` or a subset of them."""
    if isinstance(images, EncodedImages) and count == len(images):
        return images.shuffled_batches(batch_size, rng)
    return shuffled_batches(count, batch_size, rng)
