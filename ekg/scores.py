"""The scores by which a search ranks filters.

To add a score, write a function in this file under `@score`. The flag --score, the ablation table
of scores and the tests of all scores then include it.
"""

import dataclasses
import functools
import typing
import zlib
from collections.abc import Callable

import numpy as np

from ekg.extraction import filter_weights

if typing.TYPE_CHECKING:  # the command line imports this module and must start without TensorFlow
    from nets.network import Network


class Score(typing.Protocol):
    """A function of the sub-network under search to float32 [F], flat over all gates.

    Scores are 0 or more; more important filters score higher. The values for dropped filters are
    ignored: they score 0.
    """

    def __call__(self, at: "At", /) -> np.ndarray: ...


SCORES: dict[str, Score] = {}


def score(function):
    """Adds `function` to the choices of --score, under its own name."""
    SCORES[function.__name__] = function
    return function


# ------------------------------------------------------------------------------------------- scores


@score
def ekg(at):
    """Eq. 9: |sum of dy * y|, y the activation, dy the gradient of the reward loss there."""
    return at.importance(at.knowledge)


@score
def gbn(at):
    """|sum of dy * y| of the loss without knowledge (Gate Decorator, You et al. 2019)."""
    return at.importance(None)


@score
def l1(at):
    """L1 norm of a filter's weights (Li et al. 2017)."""
    return at.of_filters(lambda weights: np.abs(weights).sum(1))


@score
def fpgm(at):
    """Sum of a filter's distances to all filters of its layer (FPGM, He et al. 2019).

    It is smallest for the filters near the geometric median of the layer.
    """

    def distances(weights):
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a b; rounding may take it below 0
        squares = (weights**2).sum(1)
        return np.sqrt(np.maximum(squares[:, None] + squares - 2 * weights @ weights.T, 0)).sum(1)

    return at.of_filters(distances)


@score
def random(at):
    """A random number from 0 to 1 for every filter, drawn anew for every sub-network."""
    return at.rng.random(len(at.masks), np.float32)


# ---------------------------------------------------------------------------- the input of a score


@dataclasses.dataclass(frozen=True)
class At:
    """The sub-network whose filters are scored.

    network: the supernet.
    masks: float32 [F], 1 for the filters kept.
    knowledge: T, float32 [N, classes]; None without a teacher.
    gradients: function of (masks, knowledge) to float32 [F], Validation.importance.
    seed: seed of `rng`.
    weights: function of (network, masks) to the weights of filters, ekg.extraction.filter_weights.
    """

    network: "Network"
    masks: np.ndarray
    knowledge: np.ndarray | None
    gradients: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    seed: int
    weights: Callable = filter_weights

    def importance(self, knowledge):
        """Eq. 9 on D_val, float32 [F]. knowledge: T, or None for the loss of the labels alone."""
        return self.gradients(self.masks, knowledge)

    def of_filters(self, function):
        """A score of the weights alone, float32 [F], summed over the convolutions of each gate.

        function: maps the weights of a layer, float64 [filters kept, n], to [filters kept].
        """
        # Kept filters score above 0 even if their weights are zeros, so they rank before dropped
        # ones.
        scores = np.full(len(self.masks), np.finfo(np.float32).tiny, np.float32)
        for places, weights in self.weights(self.network, self.masks):
            scores[places] += function(weights)
        return scores

    @functools.cached_property
    def rng(self):
        """A generator that depends on the seed and on this sub-network alone.

        So a resumed search draws the same numbers as an uninterrupted one.
        """
        return np.random.default_rng([self.seed, zlib.crc32(self.masks.tobytes())])


def importance_by(name, network, gradients, seed, weights=filter_weights):
    """The `importance` of a Search: function of (masks, knowledge) to a score, float32 [F].

    The function raises ValueError for a score below 0, which would rank a kept filter behind the
    dropped ones.

    name: a key of SCORES.
    network, gradients, seed, weights: see At.
    """

    def scores(masks, knowledge):
        at = At(network, masks, knowledge, gradients, seed, weights)
        values = np.where(masks > 0, SCORES[name](at), 0)
        if values.min() < 0:
            raise ValueError(f"the score {name} gives {values.min():g}; scores are 0 or more")
        return values

    return scores
