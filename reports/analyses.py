"""Reads what analyze.py has computed: the curvature of networks, and landscapes of their loss."""

import dataclasses
import os

import numpy as np

from engine.run_files import read_object
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
class Analysis:
    """curvatures: list of Curvature; landscape: Landscape or None."""

    curvatures: list[Curvature]
    landscape: Landscape | None

    @property
    def digests(self):
        """Set of the digests of all networks in it."""
        found = {curvature.digest for curvature in self.curvatures}
        return found.union(self.landscape.digests if self.landscape else ())


def read_analysis(folder, runs=()):
    """The Analysis in a folder. None: those that there are of the folder `analysis` in each run,
    where ablation.py writes, and of DEFAULT.

    runs: paths of run folders. Raises UserError for a folder that does not exist and for a damaged
    file.
    """
    if folder is None:
        places = [*(os.path.join(run, "analysis") for run in runs), DEFAULT]
        found = [read_analysis(place) for place in places if os.path.isdir(place)]
        landscapes = [one.landscape for one in found if one.landscape is not None]
        curvatures = [curvature for one in found for curvature in one.curvatures]
        return Analysis(curvatures, landscapes[0] if landscapes else None)
    if not os.path.isdir(folder):
        raise UserError(f"{FLAG} {folder} is no folder; give one that analyze.py has written")
    hessians = os.path.join(folder, "hessian")
    names = sorted(os.listdir(hessians)) if os.path.isdir(hessians) else []
    files = [name for name in names if name.endswith(".json") and name != "config.json"]
    return Analysis([_curvature(hessians, name) for name in files], _landscape(folder))


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


def _check(holds):
    if not holds:
        raise ValueError
