"""The images of a set, batch by batch: from an array, or decoded from their files while the devices
work on the batch before.
"""

import atexit
import collections
import concurrent.futures
import contextlib
import errno
import itertools
import queue
import re
import sys
import weakref

import numpy as np
import tensorflow as tf

from dataloader.augment import DRAWS
from dataloader.encoded import JPEG, PNG, count_scans
from dataloader.sampling import columns
from dataloader.views import CROP_DRAWS, TRIES, centre_view, crop_factors, training_views
from files.guards import one_line
from utils import UserError, cores

AHEAD = 4  # batches that are asked for before the first is taken
GRAPH = re.compile(
    r"\w+Error: |\{\{[^}]*\}\}\s*|\[\[[^\]]*\]\]\s*|\[Op:[^\]]*\]|assertion failed: "
)  # TensorFlow's, in a reason
GONE = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
)  # a file's own fault
READERS = 16  # files read at a time: what waits for storage takes no core


class EncodedImages:
    """Images in files, decoded to uint8 [size, size, 3] as they are needed.

    places: dataloader.places.Places; share: (w, W), which of W machines this is: each decodes its
    own part of every batch, and an epoch over all images gives it those of its own files; window:
    images within which a shard's are shuffled, since they are read as they lie; None where each
    image is a file.

    An image that cannot be read or decoded is skipped: the next one of its batch takes its place,
    and `broken` has it, dict image -> reason. report(line) is told of each when it is met.
    """

    draws = DRAWS + CROP_DRAWS  # random numbers that a view takes, those behind DRAWS here

    def __init__(self, places, size, share=(0, 1), window=None):
        self.places, self.size, self.share, self.window = places, size, share, window
        self.broken = {}
        self.report = lambda line: print(line, file=sys.stderr)
        self._graphs = {}

    def __len__(self):
        return len(self.places)

    @property
    def shape(self):
        return (len(self), self.size, self.size, 3)

    def columns(self, batch_size):
        """The slice of a batch that is this machine's."""
        w, machines = self.share
        return columns(batch_size, machines, w)

    # ---------------------------------------------------------------------------------------- order

    @property
    def owner(self):
        """int [N]: which machine reads the file that an image is in."""
        file = np.arange(len(self)) if self.places.file is None else self.places.file
        return file % self.share[1]

    @property
    def fewest(self):
        """Images of the machine that has the fewest."""
        return int(np.bincount(self.owner, minlength=self.share[1]).min())

    def steps(self, batch_size):
        """Steps of an epoch: as many as the machine with the fewest images can do."""
        return self.fewest // (min(batch_size, len(self)) // self.share[1])

    def shuffled_batches(self, batch_size, rng):
        """int64 [steps, B]: the images of one epoch, each machine's own in its columns."""
        owner, machines = self.owner, self.share[1]
        each = min(batch_size, len(self)) // machines
        used = self.steps(batch_size) * each
        columns = [
            self._shuffled(np.flatnonzero(owner == w), rng)[:used].reshape(-1, each)
            for w in range(machines)
        ]
        return np.concatenate(columns, 1)

    def _shuffled(self, own, rng):
        if self.window is None:
            return rng.permutation(own)
        # Shards in random order, images within the window: what is read next is never far from what
        # was read last.
        rank = rng.permutation(len(self.places.names))[self.places.file[own]]
        own = own[np.argsort(rank, kind="stable")]
        return own[np.argsort(np.arange(len(own)) + self.window * rng.random(len(own)))]

    # -------------------------------------------------------------------------------------- batches

    def batches(self, groups, draws=None, strict=False, pool=None):
        """A generator of (shown, images) for each of `groups`, arrays int [..., B] of images.

        images: uint8 [..., B, S, S, 3], centres, or [..., B, V, S, S, 3], the views that `draws`
        ask for, an iterable of float32 [..., B, V, D]; shown: int [..., B], which images they are
        of, the same but for broken ones. With several machines the part of the others is not filled
        in. strict: a broken image raises UserError. pool: int [n], the images that may stand in
        where all of a batch are broken; None for the whole set.
        """
        stream = self._stream(groups, draws, strict, np.arange(len(self)) if pool is None else pool)
        _streams.add(stream)
        return stream

    def _stream(self, groups, draws, strict, pool):
        pairs = zip(groups, itertools.repeat(None) if draws is None else draws)
        pending = collections.deque()  # what the pipeline has been asked for, oldest first
        own = lambda pair: _Task(*pair, self.columns(pair[0].shape[-1]), pool, self.broken)
        more = lambda: pending.extend(map(own, itertools.islice(pairs, AHEAD - len(pending))))
        more()
        while pending:
            with self._pipeline(pending) as (ask, answers):
                while pending:
                    task = pending[0]
                    try:
                        images = next(answers).numpy()
                    except tf.errors.InvalidArgumentError:
                        images = self._one_by_one(task, strict)
                    pending.popleft()
                    before = len(pending)
                    more()
                    for new in itertools.islice(pending, before, None):
                        ask(new)
                    yield self._whole(task, images)
                    if (
                        task.fell
                    ):  # its images are not in step with the pipeline any more: another one goes on
                        for later in pending:
                            later.replace(self.broken)
                        break

    def _whole(self, task, images):
        """(shown, images) of all machines' parts, this one's filled in."""
        if self.share[1] == 1:
            return task.shown, images.reshape(*task.shown.shape, *images.shape[1:])
        # Memory that nobody touches is none.
        whole = np.empty((*task.shown.shape, *images.shape[1:]), np.uint8)
        part = (
            whole[..., task.columns, :, :, :]
            if task.draws is None
            else whole[..., task.columns, :, :, :, :]
        )
        part[...] = images.reshape(part.shape)
        return task.shown, whole

    @contextlib.contextmanager
    def _pipeline(self, tasks):
        """(ask, answers): answers, an iterator, has the images of `tasks`, and then of those that
        were asked for.
        """
        asked = queue.SimpleQueue()
        for task in tasks:
            asked.put(task)
        views = None if tasks[0].draws is None else tasks[0].draws.shape[-2]
        count = len(tasks[0].own)

        def encoded():
            with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
                while (task := asked.get()) is not None:
                    parts = readers.map(self._readable, np.array_split(task.own, READERS))
                    data = [one for part in parts for one in part]
                    yield data, [count_scans(one) for one in data], *task.crops

        kinds = [tf.TensorSpec([count, *kind.shape], kind.dtype) for kind in self._kinds(views)]
        dataset = (
            tf.data.Dataset.from_generator(encoded, output_signature=tuple(kinds))
            .prefetch(1)
            .unbatch()
        )
        dataset = dataset.map(self._graph(views), num_parallel_calls=cores(), deterministic=True)
        answers = iter(dataset.batch(count, drop_remainder=True).prefetch(2))
        try:
            yield asked.put, answers
        finally:
            asked.put(None)

    @staticmethod
    def _kinds(views):
        """What a graph takes: bytes, scans and, of views, the places and factors of their crops."""
        crops = (
            [] if views is None else [tf.TensorSpec([views, 2]), tf.TensorSpec([views, TRIES, 2])]
        )
        return [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64), *crops]

    def _graph(self, views):
        """The function that decodes one image to `views` views, traced once; None: the centre."""
        if views not in self._graphs:
            view = centre_view if views is None else training_views
            decode = lambda *image: view(*image, self.size)
            self._graphs[views] = tf.function(
                decode, input_signature=self._kinds(views), autograph=False
            )
        return self._graphs[views]

    def _readable(self, images):
        """The bytes of each; none where it cannot be read: decoding that fails too, where the
        reason is asked for.
        """
        data = []
        for i in images:
            try:
                data.append(self.places.read(i))
            except (OSError, ValueError):
                data.append(b"")
        return data

    # --------------------------------------------------------------------------------------- broken

    def check(self):
        """Raises UserError for the first image that cannot be read or does not begin as a JPEG or
        PNG does.
        """
        with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
            parts = np.array_split(np.arange(len(self)), max(1, len(self) // 256))
            for problems in readers.map(
                lambda part: [problem for i in part if (problem := self._problem(i))], parts
            ):
                if problems:
                    raise UserError(f"{problems[0]}; an evaluation needs every image")

    def _problem(self, i):
        try:
            known = self.places.read(i, most=8).startswith((JPEG, PNG))
            return None if known else f"{self.places.name(i)} is neither a JPEG nor a PNG"
        except (OSError, ValueError) as error:
            return f"{self.places.name(i)} cannot be read: {one_line(error)}"

    def _one_by_one(self, task, strict):
        """The images of a task with broken ones in it, which are found, named and replaced."""
        decode = self._graph(None if task.draws is None else task.draws.shape[-2])
        done = {}  # place in the task -> (image, what was decoded)
        while True:
            task.replace(self.broken)
            crops, wrong = task.crops, 0
            for place, i in enumerate(task.own.tolist()):
                if i in self.broken or done.get(place, (None,))[0] == i:
                    continue
                reason, image = self._decoded(i, decode, [part[place] for part in crops])
                if reason is None:
                    done[place] = i, image
                else:
                    self._report(i, reason, strict)
                    wrong += 1
            if not wrong:
                task.fell = True
                return np.stack([done[place][1] for place in range(len(task.own))])

    def _decoded(self, i, decode, crops):
        """(None, image), or (reason, None) where the image is at fault. Raises OSError where its
        storage or the system is.
        """
        try:
            data = self.places.read(i)
            with tf.device("CPU"):  # as in the pipeline
                return None, decode(data, count_scans(data), *crops).numpy()
        except OSError as error:
            if error.errno not in GONE:
                raise
            return error.strerror, None
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return GRAPH.sub("", one_line(error)).strip(" []"), None

    def _report(self, i, reason, strict):
        name = self.places.name(i)
        if strict:
            raise UserError(f"{name} cannot be decoded: {reason}; an evaluation needs every image")
        self.broken[i] = reason
        self.report(f"  skipped: {name}: {reason} ({len(self.broken)} broken so far)")


_streams = weakref.WeakSet()


@atexit.register
def _close_streams():
    """Closes what nobody has closed, while Python runs: TensorFlow would wait for a thread that
    waits for Python.
    """
    for stream in list(_streams):
        with contextlib.suppress(Exception):
            stream.close()


class _Task:
    """What is asked of the pipeline: images int [..., B], their draws, and of them this machine's
    own `columns`.
    """

    def __init__(self, group, draws, columns, pool, broken):
        self.group, self.draws, self.columns, self.pool, self.fell = (
            group,
            draws,
            columns,
            pool,
            False,
        )
        self.replace(broken)

    def replace(self, broken):
        """Lets the next whole image of each batch take the place of a broken one, or one of the
        pool if there is none.

        Which one depends on what is broken alone. Raises UserError where all of the pool are.
        """
        self.shown = self.group.copy()
        if not broken:
            return
        for batch in self.shown.reshape(-1, self.shown.shape[-1]):
            part = batch[self.columns]
            good = np.flatnonzero([int(i) not in broken for i in part])
            if len(good):
                part[:] = part[good[np.searchsorted(good, np.arange(len(part))) % len(good)]]
            else:
                start = int(np.argmax(self.pool == part[0]))
                turned = itertools.chain(self.pool[start:], self.pool[:start])
                stand_in = next((i for i in turned if int(i) not in broken), None)
                if stand_in is None:
                    raise UserError(
                        f"all {len(self.pool)} images are broken, the first because:"
                        f" {broken[int(part[0])]}"
                    )
                part[:] = stand_in

    @property
    def own(self):
        return self.shown[..., self.columns].reshape(-1)

    @property
    def crops(self):
        """Of this machine's own, float32 [n, V, 2] and [n, V, TRIES, 2]: see dataloader.views;
        nothing for centres.
        """
        if self.draws is None:
            return ()
        own = self.draws[..., self.columns, :, :].reshape(-1, *self.draws.shape[-2:])
        return own[..., 1:3], crop_factors(own[..., DRAWS:])


def in_batches(images, groups, strict=False):
    """Yields (shown, uint8 [B, S, S, 3]) for each of `groups`, int arrays [B]. images: an array or
    EncodedImages, see there.
    """
    if isinstance(images, EncodedImages):
        yield from images.batches(groups, strict=strict)
    else:
        for group in groups:
            yield group, images[group]
