"""The state of a search, and its file: the sub-networks found so far and the knowledge T."""

import dataclasses

import numpy as np

from ekg.filter_rule import filters_kept
from ekg.importance import masks
from files.npz import load_npz
from utils import UserError, whole_file


@dataclasses.dataclass(frozen=True)
class SubNetwork:
    """A sub-network of the supernet, and its results on D_val.

    rates: G floats, the share of filters that each gate keeps.
    filters: int64 [G], the number of filters that each gate keeps (ekg.filter_rule).
    order: int32 [F], the rank of each filter in its gate, 0 = most important.
    loss: mean cross-entropy on D_val.
    objective: -R of Eq. 7 against the knowledge T of its step; lower is better.
    """

    rates: tuple[float, ...]
    filters: np.ndarray
    order: np.ndarray
    loss: float
    objective: float

    def masks(self, sizes):
        """float32 [F]: 1 for the filters kept, else 0.

        sizes: int [G], filters of each gate of the unpruned network.
        """
        return masks(sizes, self.filters, self.order)


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
                filters=np.stack([s.filters for s in self.history]),
                order=np.stack([s.order for s in self.history]),
                loss=np.array([s.loss for s in self.history]),
                score=np.array([s.objective for s in self.history]),
                knowledge=self.knowledge,
                seconds=np.array(self.seconds),
            )

    @classmethod
    def load(cls, path, sizes, images, classes):
        """Reads a state. Raises UserError if the file is damaged or belongs to another search.

        Args:
            path: path of the file.
            sizes: int [G], filters of each gate of the unpruned network.
            images: N, the number of images in D_val.
            classes: number of classes.
        """
        try:
            names = ("rates", "order", "loss", "score", "knowledge", "seconds")
            saved = load_npz(path, names, optional=("filters",))
            steps, gates = len(saved["rates"]), len(sizes)
            shapes = {
                "rates": (steps, gates),
                "order": (steps, int(sum(sizes))),
                "loss": (steps,),
                "score": (steps,),
                "knowledge": (images, classes),
                "seconds": (),
                "filters": (steps, gates),
            }
            for name, array in saved.items():
                numbers = array.dtype.kind in "fi" and np.isfinite(array).all()
                if array.shape != shapes[name] or not numbers or not steps:
                    found = f"{array.dtype} {list(array.shape)}"
                    raise ValueError(f"{name} is {found}, expected finite {list(shapes[name])}")
            filters = saved.get("filters", 0)
            if np.any(filters < 0) or np.any(filters > np.asarray(sizes)):
                raise ValueError("a gate keeps fewer filters than none, or more than it has")
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to search again") from error
        columns = (saved[name].tolist() for name in ("rates", "loss", "score"))
        if "filters" not in saved:  # older files: every gate keeps at least one filter
            saved["filters"] = np.array([filters_kept(sizes, rates) for rates in saved["rates"]])
        history = [
            SubNetwork(tuple(rates), filters, order, loss, objective)
            for order, filters, rates, loss, objective in zip(
                saved["order"], saved["filters"], *columns
            )
        ]
        return cls(history, saved["knowledge"], float(saved["seconds"]))
