"""The state of a search, and its file: the sub-networks found so far and the knowledge T."""

import dataclasses

import numpy as np

from ekg.importance import filters_kept, masks
from files.npz import load_npz
from utils import UserError, whole_file


@dataclasses.dataclass(frozen=True)
class SubNetwork:
    """A sub-network of the supernet, and its results on D_val.

    rates: G floats, the share of filters that each gate keeps.
    order: int32 [F], the rank of each filter in its gate, 0 = most important.
    loss: mean cross-entropy on D_val.
    objective: -R of Eq. 7 against the knowledge T of its step; lower is better.
    """

    rates: tuple[float, ...]
    order: np.ndarray
    loss: float
    objective: float

    def filters(self, sizes):
        """Filters kept per gate, int [G]. sizes: int [G], filters of the unpruned network."""
        return filters_kept(sizes, self.rates)

    def masks(self, sizes):
        """float32 [F]: 1 for the filters kept, else 0. sizes: int [G]."""
        return masks(sizes, self.rates, self.order)


@dataclasses.dataclass
class SearchState:
    """The state of a search.

    history: list of SubNetwork, the unpruned network Theta_0 first, the current one last.
    knowledge: T, float32 [N, classes].
    seconds: duration of the search so far.
    """

    history: list[SubNetwork]
    knowledge: np.ndarray
    seconds: float = 0.0

    def save(self, path):
        """Writes the state as .npz; the file calls the objective `score`."""
        with whole_file(path) as file:
            np.savez(
                file,
                rates=np.array([s.rates for s in self.history]),
                order=np.stack([s.order for s in self.history]),
                loss=np.array([s.loss for s in self.history]),
                score=np.array([s.objective for s in self.history]),
                knowledge=self.knowledge,
                seconds=np.array(self.seconds),
            )

    @classmethod
    def load(cls, path, gates, filters, images, classes):
        """Reads a state. Raises UserError if the file is damaged or belongs to another search.

        Args:
            path: path of the file.
            gates: G, the number of gates.
            filters: F, the number of filters over all gates.
            images: N, the number of images in D_val.
            classes: number of classes.
        """
        try:
            saved = load_npz(path, ("rates", "order", "loss", "score", "knowledge", "seconds"))
            steps = len(saved["rates"])
            shapes = (steps, gates), (steps, filters), (steps,), (steps,), (images, classes), ()
            for (name, array), shape in zip(saved.items(), shapes):
                numbers = array.dtype.kind in "fi" and np.isfinite(array).all()
                if array.shape != shape or not numbers or not steps:
                    found = f"{array.dtype} {list(array.shape)}"
                    raise ValueError(f"{name} is {found}, expected finite {list(shape)}")
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to search again") from error
        columns = (saved[name].tolist() for name in ("rates", "loss", "score"))
        history = [
            SubNetwork(tuple(rates), order, loss, objective)
            for order, rates, loss, objective in zip(saved["order"], *columns)
        ]
        return cls(history, saved["knowledge"], float(saved["seconds"]))
