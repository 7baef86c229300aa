"""What the stages of one run share: options, data, devices, the folder, and how networks come from it and go into it."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from dataloader import Dataset
from dataloader.augment import normalise
from devices import Runtime
from ekg.evaluation import Evaluator
from ekg.options import Options
from ekg.progress import Console
from ekg.run_folder import RunFolder, versions
from nets import build_network, unpruned_cost
from utils import UserError, read_parameters, write_parameters


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

    def network(self, parameters=None):
        """A network on the run's devices, from an array dict or from the seed."""
        with self.runtime.strategy.scope():
            options = self.options
            return build_network(options.arch, self.data.classes, self.data.input_size, parameters, seed=options.seed)

    @functools.cached_property
    def board(self):
        """Where TensorBoard scalars go."""
        return tf.summary.create_file_writer(self.folder.path) if self.folder.writes else tf.summary.create_noop_writer()

    def normalised(self, batch):
        return normalise(batch["images"], self.data.augmentation)

    def evaluator(self, network):
        data, options = self.data, self.options
        parts = network, self.runtime, data.augmentation, data.x_test, data.y_test
        return Evaluator(*parts, options.val_batch_size)

    def load(self, name):
        """The network in a parameter file that an earlier stage wrote."""
        try:
            return self.network(read_parameters(self.folder.file(name))[0])
        except UserError as error:
            raise UserError(f"{error}; delete {self.folder.file(name)} to compute it again") from error

    def save(self, name, network):
        """Writes a parameter file that says what it is of."""
        if not self.folder.writes:
            return
        flops, params = network.cost()
        whole = unpruned_cost(network.arch, network.classes, network.input_size)
        meta = {
            "arch": network.arch,
            "dataset": self.data.name,
            "classes": network.classes,
            "input_size": network.input_size,
        }
        meta |= {"flops": flops, "params": params, "flops_rate": flops / whole[0], "versions": versions()}
        write_parameters(self.folder.file(name), network.parameters(), meta)
