"""Reads what analyze.py has computed: curvature and landscapes of networks, and the potential
performance of sub-networks.
"""

import dataclasses
import os

import numpy as np

from engine.run_files import CONFIG, read_object
from files.npz import load_npz
from reports.reader import number, written_by_a_run
from utils import UserError

DEFAULT = os.path.join("..", "analysis")
FLAG = "--analysis"
ADVICE = f"choose another {FLAG}"
NUMBERS = (
    "loss",
    "lambda_max",
    "residual_max",
    "lambda_min",
    "residual_min",
    "condition_number",
    "images",
    "iterations",
)
PREDICTORS = ("val_loss", "condition_number")  # known of a sub-network before fine-tuning
CORRELATIONS = ("pearson", "spearman")


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The Hessian of a network.

    Args:
        digest: utils.digest of the network.
        arrays: what the Hessian is taken over, "kernels" or "all".
        split: where its images come from.
        numbers: dict of NUMBERS, None for what is not known.
        converged: whether the largest eigenvalues have converged.
        eigenvalues: list of float.
        density: (grid, density), float [N] each, or None.
    """

    digest: str
    arrays: str
    split: str
    numbers: dict
    converged: bool
    eigenvalues: list
    density: tuple[np.ndarray, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Losses of networks around their parameters.

    alpha: float [A]; beta: float [B]; loss: float [n, A, B]; digests: of the n networks; about:
    dict of the entries of result.json.
    """

    alpha: np.ndarray
    beta: np.ndarray
    loss: np.ndarray
    digests: list[str]
    about: dict


@dataclasses.dataclass(frozen=True)
class Potential:
    """A study of potential performance: random sub-networks before and after fine-tuning.

    Args:
        folder: real path of the run folder that holds it.
        start: utils.digest of the network that it starts from, None if it trained its own.
        points: dict of `test_loss` and PREDICTORS -> float [n], NaN for what is not known.
        correlations: dict (one of PREDICTORS, one of CORRELATIONS) -> (value, low, high), or None.
    """

    folder: str
    start: str | None
    points: dict[str, np.ndarray]
    correlations: dict[tuple[str, str], tuple | None]

    def concerns(self, run):
        """Whether its sub-networks are those of a run's baseline. run: reports.runs.Run."""
        own = os.path.realpath(run.path) == self.folder
        return own or (self.start is not None and self.start == run.digests.get("baseline"))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The results of analyze.py. Of landscapes there is one, or None."""

    curvatures: list[Curvature]
    landscape: Landscape | None
    potentials: list[Potential]

    @property
    def digests(self):
        """Set of the digests of all networks whose curvature or landscape is in it."""
        found = {curvature.digest for curvature in self.curvatures}
        return found.union(self.landscape.digests if self.landscape else ())

    def concerns(self, run):
        """Whether it knows anything of a run's networks. run: reports.runs.Run."""
        known = not self.digests.isdisjoint(run.digests.values())
        return known or any(study.concerns(run) for study in self.potentials)


def read_analysis(folder, runs=()):
    """The Analysis in a folder. None: those that there are of each run, where studies of potential
    performance are, of the folder `analysis` in it, where ablation.py writes, and of DEFAULT.

    runs: paths of run folders. Raises UserError for a folder that does not exist and for a damaged
    file.
    """
    if folder is None:
        places = [*(os.path.join(run, "analysis") for run in runs), DEFAULT]
        found = [read_analysis(place) for place in places if os.path.isdir(place)]
        landscapes = [one.landscape for one in found if one.landscape is not None]
        curvatures = [curvature for one in found for curvature in one.curvatures]
        potentials = [study for one in found for study in one.potentials]
        potentials += [study for study in map(_potential, runs) if study is not None]
        return Analysis(curvatures, landscapes[0] if landscapes else None, potentials)
    if not os.path.isdir(folder):
        raise UserError(f"{FLAG} {folder} is no folder; give one that analyze.py has written")
    hessians = os.path.join(folder, "hessian")
    names = sorted(os.listdir(hessians)) if os.path.isdir(hessians) else []
    files = [name for name in names if name.endswith(".json") and name != "config.json"]
    study = _potential(folder)
    curvatures = [_curvature(hessians, name) for name in files]
    return Analysis(curvatures, _landscape(folder), [] if study is None else [study])


def _curvature(folder, name):
    found = read_object(folder, name, {"digest": str, "eigenvalues": list}, FLAG)
    if found is None:
        raise UserError(f"{os.path.join(folder, name)} has just been removed; start again")
    with written_by_a_run(os.path.join(folder, name), ADVICE):
        density = found.get("density")
        if density is not None:
            density = tuple(np.array(density[key], np.float64) for key in ("grid", "density"))
            _check(density[0].ndim == 1 and density[0].shape == density[1].shape)
            _check(density[0].size > 1 and all(np.isfinite(array).all() for array in density))
            _check(density[1].max() > 0)
        return Curvature(
            digest=found["digest"],
            arrays=str(found.get("arrays", "")),
            split=str(found.get("split", "")),
            numbers={key: number(found.get(key)) for key in NUMBERS},
            converged=bool(found.get("converged", True)),
            eigenvalues=[number(value) for value in found["eigenvalues"]],
            density=density,
        )


def _landscape(folder):
    """The Landscape in an analysis' folder; None if there is none, or an unfinished one."""
    folder = os.path.join(folder, "landscape")
    about, path = (os.path.join(folder, name) for name in ("result.json", "grid.npz"))
    if not (os.path.exists(about) and os.path.exists(path)):
        return None
    result = read_object(folder, "result.json", {"networks": list}, FLAG)
    try:
        arrays = load_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {ADVICE}") from error
    with written_by_a_run(path, ADVICE):
        if not arrays.get("complete", True):
            return None
        alpha, beta, loss = (
            np.asarray(arrays[key], np.float64) for key in ("alpha", "beta", "loss")
        )
        digests = [str(network["digest"]) for network in result["networks"]]
        _check(alpha.ndim == beta.ndim == 1 and len(alpha) > 1 and len(beta) > 1)
        _check(loss.shape == (len(digests), len(alpha), len(beta)) and np.isfinite(loss).any())
        _check(np.isfinite(alpha).all() and np.isfinite(beta).all())
        # Far from the network a loss may overflow.
        loss = np.where(np.isfinite(loss), loss, loss[np.isfinite(loss)].max())
        return Landscape(alpha, beta, loss, digests, result)


def _potential(folder):
    """The Potential of the sub-networks measured so far in a run folder; None if there are none."""
    path = os.path.join(folder, "potential")
    entries = {"n": int} | dict.fromkeys(PREDICTORS, dict)
    found = read_object(path, "correlations.json", entries, FLAG)
    config = read_object(path, "config.json", CONFIG, FLAG)
    if found is None or config is None:
        return None
    with written_by_a_run(os.path.join(path, "correlations.json"), ADVICE):
        correlations = {
            (key, name): _correlation(found[key][name])
            for key in PREDICTORS
            for name in CORRELATIONS
        }
        _check(found["n"] > 0)
    with written_by_a_run(os.path.join(path, "config.json"), ADVICE):
        kind, _, start = config["options"]["run"]["start"].partition(" ")
    # Sub-networks that were measured later, while the study goes on, are not in its correlations.
    measured = [_sub_network(path, number) for number in range(found["n"])]
    points = {key: np.array([one[key] for one in measured]) for key in measured[0]}
    # Written so by ekg.paper_networks.
    given = start.partition(",")[0] if kind == "parameters" else None
    return Potential(os.path.realpath(folder), given, points, correlations)


def _sub_network(folder, which):
    """dict of `test_loss` and PREDICTORS -> float, of the sub-network of this number."""
    name = f"sub-network-{which:03d}.json"
    found = read_object(folder, name, {}, FLAG)
    if found is None:
        raise UserError(f"{os.path.join(folder, name)} is missing; {ADVICE}")
    with written_by_a_run(os.path.join(folder, name), ADVICE):
        return {key: float(number(found[key])) for key in ("test_loss", *PREDICTORS)}


def _correlation(found):
    """(value, low, high) of a correlation; None if it is not known."""
    if found is None:
        return None
    numbers = tuple(float(number(found[key])) for key in ("value", "low", "high"))
    return numbers if np.isfinite(numbers).all() else None


def _check(holds):
    if not holds:
        raise ValueError
