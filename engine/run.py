"""What the stages of one run share: options, data, devices, the folder, and networks read from it
and written to it.
"""

import contextlib
import dataclasses
import functools

import numpy as np

from dataloader import Dataset
from dataloader.augment import normalise
from dataloader.sampling import padded_batches
from distribution.runtime import Runtime
from engine import signals
from engine.board import Board
from engine.broken import BrokenImages
from engine.checkpoint import check_parameters
from engine.configuration import versions
from engine.console import Console
from engine.evaluation import Evaluator
from engine.options import Options
from engine.run_folder import STAGES, RunFolder
from nets import build_network, unpruned_cost
from nets.parameters import read_parameters, write_parameters
from utils import UserError

# Streams of random numbers, so that stages do not share their shuffles.
STREAM = {"baseline": 1, "warm_up": 2, "fine_tuning": 3, "memory_bank": 4}


def stage(name):
    """Decorator of function(run, ...), which carries out the stage `name`
    (engine.run_folder.STAGES): it is timed as that.
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
    """What the stages of one run share."""

    options: Options
    data: Dataset
    val: np.ndarray  # D_val, indices into the training set
    subset: np.ndarray  # D_subset
    runtime: Runtime
    folder: RunFolder
    console: Console
    broken: BrokenImages
    board: Board
    given: (
        dict | None
    )  # arrays of the network to start from, by name; None: a baseline is trained here
    variant: dict  # of the starting network, see nets.variant_of

    @functools.cached_property
    def search_runtime(self):
        """Where the stages from the warm-up to the memory bank run: the same devices, in
        --search_precision.
        """
        precision = self.options.device.search_precision
        return dataclasses.replace(
            self.runtime, precision=precision, precision_flag="--search_precision"
        )

    def network(self, parameters=None):
        """A network on the run's devices, from an array dict or from the seed."""
        with self.runtime.strategy.scope():
            options, kept = self.options, dict(seed=self.options.seed, **self.variant)
            return build_network(
                options.arch, self.data.classes, self.data.input_size, parameters, **kept
            )

    def normalised(self, batch):
        return normalise(batch["images"], self.data.augmentation)

    def evaluator(self, network):
        data, options = self.data, self.options
        parts = network, self.runtime, data.augmentation, data.x_test, data.y_test
        return Evaluator(*parts, options.val_batch_size)

    def in_memory(self, indices):
        """(images uint8 [n, S, S, 3], labels int64 [n]) of some training images, broken ones
        replaced.

        Of several machines each has the images that its own part of batches of --search_batch_size
        needs.
        """
        data = self.data
        if not data.encoded:
            return data.x_train[indices], data.y_train[indices]
        images, replaced = np.empty((len(indices), *data.x_train.shape[1:]), np.uint8), {}
        # The last batch first: what fills it up are images of others, which come after it and are
        # right.
        slots = padded_batches(len(indices), self.options.subsets.batch_size)[::-1]
        own = data.x_train.columns(len(slots[0][0]))
        batches = data.x_train.batches(indices[slot] for slot, _ in slots)
        with contextlib.closing(batches):
            for (slot, real), (shown, decoded) in zip(self.bar(slots, "images of D_val"), batches):
                images[slot[own]] = decoded[own]
                changed = [k for k in range(real)[own] if shown[k] != indices[slot[k]]]
                replaced |= {int(slot[k]): int(shown[k]) for k in changed}
        labels = data.y_train[indices]
        for by_machine in self.runtime.machines.exchange([*replaced.items()]):
            for i, n in by_machine:
                labels[i] = data.y_train[n]
        return images, labels

    def load(self, stage):
        """The network in the parameter file that `stage` wrote in a former start."""
        path = self.folder.file(STAGES[stage])
        try:
            return self.network(read_parameters(path)[0])
        except UserError as error:
            raise UserError(f"{error}; delete {path} to compute it again") from error

    def save(self, network):
        """Completes the stage with a parameter file that says what it is of. Raises
        FloatingPointError if it is not finite.
        """
        flops, params = network.cost()
        whole = unpruned_cost(
            network.arch, network.classes, network.input_size, network.width_multiplier
        )
        meta = {
            "arch": network.arch,
            "dataset": self.data.name,
            "classes": network.classes,
            "input_size": network.input_size,
            "padding": network.padding,
            "width_multiplier": network.width_multiplier,
        }
        meta |= {
            "flops": flops,
            "params": params,
            "flops_rate": flops / whole[0],
            "versions": versions(),
        }
        parameters = network.parameters()
        check_parameters(parameters)
        with self.folder.completes() as path:
            if self.folder.writes:
                write_parameters(path, parameters, meta)

    def check_same(self, value, path):
        """Raises UserError on all machines unless all have read the same `value` (JSON) from
        `path`.
        """
        said = self.runtime.machines.exchange(value)
        if any(other != said[0] for other in said):
            raise UserError(
                f"the machines do not see the same {path}; they must share the storage it is on"
            )

    def bar(self, items, label, total=None):
        """Progress of a loop that has nothing to save, and may be stopped behind every item."""
        return self.console.bar(items, label, total, after=self.stop_if_asked)

    def stop_if_asked(self, save=lambda: None):
        """If any machine was told to stop: calls save(), and raises Stopped on all of them."""
        asked = [
            number
            for number in self.runtime.machines.exchange(signals.asked())
            if number is not None
        ]
        if asked:
            save()
            raise signals.Stopped(asked[0], saved=True)
