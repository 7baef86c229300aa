"""The state of an unfinished training: variables, momentum, loss scale and progress. A resumed
training gives the same bits as an uninterrupted one.
"""

import dataclasses
import json

import numpy as np

from engine.training import Progress
from files.guards import refusals
from files.npz import load_npz
from nets.parameters import META
from utils import UserError, whole_file


class Checkpoint:
    """The state of a training in the file `path`: `network`, its `optimizer` (op_utils.Optimizer)
    and a Progress.
    """

    def __init__(self, path, network, optimizer):
        self.path, self.network, self.optimizer = path, network, optimizer

    def _variables(self):
        """dict name -> variable, for every variable that a step changes."""
        velocities = {
            f"velocity/{i}": variable for i, variable in enumerate(self.optimizer.velocities)
        }
        scale = self.optimizer.loss_scale
        scaling = (
            {} if scale is None else {"loss_scale": scale.scale, "good_steps": scale.good_steps}
        )
        return self.network.variables_by_name() | velocities | scaling

    def save(self, progress, seconds):
        """Writes the state. seconds: duration of the stage so far.

        Raises FloatingPointError, and writes nothing, if a variable is not finite.
        """
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        check_parameters(arrays)
        meta = json.dumps({"progress": dataclasses.asdict(progress), "seconds": seconds})
        with whole_file(self.path) as file:
            np.savez(file, **(arrays | {META: np.array(meta)}))

    def restore(self, epochs, steps):
        """Sets the variables from the file; returns its (Progress, seconds).

        Raises UserError for a file that does not fit the network, or that does not fit a training
        of `epochs` epochs with `steps` steps per epoch.
        """
        variables = self._variables()
        try:
            with refusals():
                arrays = load_npz(self.path)
                meta = json.loads(str(arrays.pop(META)))
                progress, seconds = Progress(**meta["progress"]), float(meta["seconds"])
                kinds = {field.name: field.type for field in dataclasses.fields(Progress)}
                if {name: type(value) for name, value in meta["progress"].items()} != kinds:
                    raise ValueError("its progress is malformed")
                if not (0 <= progress.epoch <= epochs and 0 <= progress.step <= steps):
                    raise ValueError("its progress belongs to another training")
                if not all(
                    array.dtype == np.float32 and np.isfinite(array).all()
                    for array in arrays.values()
                ):
                    raise ValueError("it holds values that are not finite float32 numbers")
                if {n: a.shape for n, a in arrays.items()} != {
                    n: tuple(v.shape) for n, v in variables.items()
                }:
                    raise ValueError("it belongs to another network")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is damaged ({error}); delete it to restart this training"
            ) from error
        for name, variable in variables.items():
            variable.assign(arrays[name])
        return progress, seconds


def check_parameters(arrays):
    """Raises FloatingPointError if an array is not finite; names the first one.

    arrays: dict name -> array, in the order of the network.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(
                f"{name} has become NaN or infinite; try a lower learning rate"
            )


def first_not_finite(network):
    """Path of the first layer whose batch statistics were not finite in the last training step; ""
    if all were finite.

    It looks at the moving averages, not at the weights: the update makes all weights NaN at once,
    but the statistics that moved the averages are from before that update.
    """
    for bn in network.batch_norms:
        if not all(
            np.isfinite(bn.arrays[name].numpy()).all()
            for name in ("moving_mean", "moving_variance")
        ):
            return bn.path
    return ""
