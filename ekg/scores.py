"""What filters are worth: the scores that a search ranks them by.

A score is a function of the sub-network under search, `At`, to float32 [F], flat over all gates,
from 0 up and higher for what is worth more. A new one is a function in this file under `@score`:
the flag --score, the table of scores in an ablation and the tests of all scores then know its name.
What it gives dropped filters does not count: they score 0.
"""

import dataclasses
import functools
import zlib

import numpy as np

from ekg.extraction import extract
from ekg.importance import split

SCORES = {}


def score(function):
    """Makes `function` a choice of --score, under its own name."""
    SCORES[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------------- scores


@score
def ekg(at):
    """Eq. 9: |sum of dy * y|, y the activation and dy the gradient of the reward loss there,
    knowledge included.
    """
    return at.importance(at.knowledge)


@score
def gbn(at):
    """Taylor expansion of the plain loss (You et al., Gate Decorator, 2019): |sum of dy * y|
    without the knowledge.
    """
    return at.importance(None)


@score
def l1(at):
    """L1 norm of a filter's weights (Li et al. 2017)."""
    return at.of_filters(lambda weights: np.abs(weights).sum(1))


@score
def fpgm(at):
    """Distance of a filter to the geometric median of its layer, as the sum of its distances to all
    (He et al., FPGM, 2019).
    """

    def distances(weights):
        squares = (weights**2).sum(1)
        return np.sqrt(np.maximum(squares[:, None] + squares - 2 * weights @ weights.T, 0)).sum(1)

    return at.of_filters(distances)


@score
def random(at):
    """A number from 0 to 1, another one for every filter and sub-network."""
    return at.rng.random(len(at.masks), np.float32)


# ---------------------------------------------------------------------------- what a score is given


@dataclasses.dataclass(frozen=True)
class At:
    """The sub-network whose filters are scored.

    network: the supernet.
    masks: float32 [F].
    knowledge: T, float32 [N, classes]; None without a teacher.
    gradients: function of (masks, knowledge) to float32 [F], Validation.importance.
    seed: of `rng`.
    """

    network: object
    masks: np.ndarray
    knowledge: np.ndarray
    gradients: object
    seed: int

    def importance(self, knowledge):
        """float32 [F]: Eq. 9 on D_val, by the loss that `knowledge` is part of, or by that of the
        labels alone (None).
        """
        return self.gradients(self.masks, knowledge)

    def of_filters(self, function):
        """float32 [F]: function(weights float64 [filters kept, n]) -> [filters kept], summed over
        all convolutions that write through a gate. The kernels are those of the sub-network:
        without dropped inputs, and of the norm of the whole.
        """
        least = np.finfo(np.float32).tiny  # what is kept, be it zeros, stays ahead of what is gone
        total = [np.full(size, least) for size in self.network.gate_sizes]
        kept = split(self.masks > 0, self.network.gate_sizes)
        arrays = extract(self.network, self.masks)
        for layer in self.network.network_layers:
            if layer.out_gate is not None:
                i, kernel = (
                    layer.out_gate.index,
                    np.asarray(arrays[f"{layer.path}/kernel:0"], np.float64),
                )
                axis = max(
                    axis for axis, gate in layer.gated["kernel"].items() if gate is layer.out_gate
                )  # the last is out
                total[i][kept[i]] += function(
                    np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
                )
        return np.concatenate(total).astype(np.float32)

    @functools.cached_property
    def rng(self):
        """Random numbers of the seed and of this sub-network alone, so that a search goes on with
        those it would have had.
        """
        return np.random.default_rng([self.seed, zlib.crc32(self.masks.tobytes())])


def importance_by(name, network, gradients, seed):
    """The function of (masks, knowledge) to float32 [F] that a Search takes, by the score `name`.

    gradients: Validation.importance. The function raises ValueError for a score below 0, which
    would rank a kept filter behind the dropped ones.
    """

    def scores(masks, knowledge):
        values = np.where(
            masks > 0, SCORES[name](At(network, masks, knowledge, gradients, seed)), 0
        )
        if values.min() < 0:
            raise ValueError(f"the score {name} gives {values.min():g}; scores are 0 or more")
        return values

    return scores
