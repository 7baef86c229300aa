"""What the stages of a run share: options, data, devices, folder; reading and writing networks."""

import contextlib
import dataclasses
import functools

import numpy as np

from dataloader import Dataset
from dataloader.augment import normalise
from dataloader.sampling import padded_batches
from distribution.runtime import Runtime
from engine import signals
from engine.agreement import Agreement
from engine.board import Board
from engine.broken import BrokenImages
from engine.checkpoint import check_parameters
from engine.console import Console
from engine.evaluation import Evaluator
from engine.layer_times import LayerTimes
from engine.networks import Networks
from engine.options import Options
from engine.run_files import STAGES
from engine.run_folder import RunFolder
from utils import UserError

# Streams of random numbers, so that each stage shuffles differently.
STREAM = {"baseline": 1, "warm_up": 2, "fine_tuning": 3, "memory_bank": 4}


def stage(name):
    """Decorator of function(run, ...) that runs the stage `name`, a key of engine.run_files.STAGES.
    It measures the time and memory of the stage.
    """

    def decorate(function):
        @functools.wraps(function)
        def timed(run, *args):
            with run.folder.stage(name):
                return function(run, *args)

        return timed

    return decorate


@dataclasses.dataclass
class Run:
    """What the stages of a run share."""

    options: Options
    data: Dataset
    val: np.ndarray  # D_val, indices into the training set
    subset: np.ndarray  # D_subset
    runtime: Runtime
    folder: RunFolder
    console: Console
    broken: BrokenImages
    board: Board
    networks: Networks
    times: LayerTimes | None  # for a search in time

    @functools.cached_property
    def search_runtime(self):
        """The runtime from the warm-up to the extraction: same devices, --search_precision."""
        precision = self.options.device.search_precision
        return dataclasses.replace(
            self.runtime, precision=precision, precision_flag="--search_precision"
        )

    def normalised(self, batch):
        return normalise(batch["images"], self.data.augmentation)

    def evaluator(self, network):
        data, options = self.data, self.options
        parts = network, self.runtime, data.augmentation, data.x_test, data.y_test
        return Evaluator(*parts, options.val_batch_size, measure=self.networks.task.measure)

    def in_memory(self, indices):
        """(images uint8 [n, S, S, 3], labels int64 [n]) of training images. Broken ones are
        replaced.

        With several machines, each one fills in only the images that it needs for its part of the
        batches of --search_batch_size.
        """
        data = self.data
        if not data.encoded:
            return data.x_train[indices], data.y_train[indices]
        images = np.empty((len(indices), *data.x_train.shape[1:]), np.uint8)
        replaced: dict[int, int] = {}  # position in `indices` -> image shown instead
        # Order matters: last batch first. It is padded with images of other batches; where one of
        # these is replaced, its own batch, decoded later, has the final word.
        slots = padded_batches(len(indices), self.options.subsets.batch_size)[::-1]
        own = data.x_train.columns(len(slots[0][0]))
        batches = data.x_train.batches(indices[slot] for slot, _ in slots)
        with contextlib.closing(batches):
            for (slot, real), (ids, decoded) in zip(self.bar(slots, "images of D_val"), batches):
                images[slot[own]] = decoded[own]
                changed = [k for k in range(real)[own] if ids[k] != indices[slot[k]]]
                replaced |= {int(slot[k]): int(ids[k]) for k in changed}
        labels = data.y_train[indices]
        for by_machine in self.runtime.machines.exchange([*replaced.items()]):
            for i, n in by_machine:
                labels[i] = data.y_train[n]
        return images, labels

    def load(self, stage):
        """The network in the parameter file of `stage`, written by an earlier start."""
        path = self.folder.file(STAGES[stage])
        try:
            return self.networks.read(path)
        except UserError as error:
            raise UserError(f"{error}; delete {path} to compute it again") from error

    def save(self, network):
        """Completes the stage: writes the network to the stage's parameter file, with metadata.

        Raises FloatingPointError if a parameter is not finite.
        """
        check_parameters(network.parameters())
        with self.folder.completes() as path:
            if self.folder.writes:
                self.networks.write(path, network)

    def check_same(self, value, path):
        """Raises UserError on all machines unless all have read the same `value` (JSON) from
        `path`.
        """
        values = self.runtime.machines.exchange(value)
        if any(other != values[0] for other in values):
            raise UserError(
                f"the machines do not see the same {path}; they must share the storage it is on"
            )

    def bar(self, items, label, total=None):
        """Progress of a loop that has nothing to save and may be stopped after every item."""
        stop = lambda: self.stop_if_asked(loop=label)
        return self.console.bar(items, label, total, after=stop)

    @functools.cached_property
    def _agreement(self):
        return Agreement(self.runtime.machines)

    def stop_if_asked(self, save=lambda: None, loop=None):
        """If any machine has a pending signal: calls save() and raises Stopped, on all machines.

        loop: name of the loop that calls this after each of its turns; several machines then ask
        each other about once a second, after the same turn. None asks now.
        """
        pending = self._agreement.exchange(signals.pending(), loop)
        numbers = [number for number in pending or () if number is not None]
        if numbers:
            save()
            raise signals.Stopped(numbers[0], saved=True)
