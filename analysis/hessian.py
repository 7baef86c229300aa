"""Extreme eigenvalues, condition number, spectral density of a Hessian (METHOD 12), resumable."""

import time

import numpy as np

from analysis import lanczos
from analysis.lanczos import Basis, Lanczos
from files.npz import load_npz
from utils import UserError, whole_file, write_json

# Entries that a file of results must have.
NUMBERS = (
    "loss",
    "lambda_max",
    "lambda_min",
    "residual_max",
    "residual_min",
    "condition_number",
    "parameters",
    "iterations",
    "seconds",
)
RESULT: dict = {"digest": str, "eigenvalues": list, "converged": bool}
RESULT |= dict.fromkeys(NUMBERS, (int, float))


def measure(hessian, options, folder, name, facts, bar):
    """dict of the figures of a Hessian, written to NAME.json. If that is there, it is read.

    An interrupted computation resumes.

    Args:
        hessian: analysis.curvature.Hessian, or anything with its `size`, `loss` and `product`.
        options: HessianOptions.
        folder: AnalysisFolder.
        name: of the files of this network.
        facts: dict (JSON) to write beside the figures.
        bar: bar(label, total) shows iterations.
    """
    figures = folder.read(f"{name}.json", RESULT)
    if figures is None:
        figures = _computed(hessian, options, folder, name, facts, bar)
        write_json(folder.file(f"{name}.json"), figures)
    # Now the progress is not needed any more. A process that is killed here leaves it behind.
    folder.delete(*_progress_files(name, options.density))
    return figures


def _progress_files(name, vectors):
    """Names of the files that keep the progress. vectors: of the density."""
    parts = [f"{name}.density-{number}" for number in range(vectors)]
    processes = [f"{part}.process{end}" for part in (name, *parts) for end in (".npz", ".basis")]
    return [*processes, *(f"{part}.npz" for part in parts)]


def _computed(hessian, options, folder, name, facts, bar):
    """The figures of `measure`."""
    process = _Process(folder, f"{name}.process", options.seed)
    process.open(hessian.size)
    done = lambda: (
        process.iterations and lanczos.converged(process.lanczos, options.top, options.tolerance)
    )
    most = min(options.iterations, hessian.size)
    with bar("eigenvalues", most) as progress:
        while process.iterations < most and not done():
            process.advance(hessian.product)
            _show(progress, process, options.top)
    figures = {**facts, "loss": hessian.loss()}
    figures |= _eigenvalues(hessian, process.lanczos, options.top)
    figures |= {"converged": bool(done()), "iterations": process.iterations}
    figures["seconds"] = round(process.seconds + time.perf_counter() - process.begin, 1)
    figures["density"] = None
    if options.density:
        figures["density"] = spectral_density(hessian, options, folder, name, bar, figures)
    process.basis.close()
    return figures


def _show(progress, process, top):
    values, _, bounds = process.lanczos.ritz()
    wanted = lanczos.extremes(values, top)
    residual = max(bounds[i] / abs(values[i]) if values[i] else np.inf for i in wanted)
    progress.show(max=float(values[-1]), min=float(values[0]), residual=float(residual))
    progress.to(process.iterations)


def _eigenvalues(hessian, process, top):
    """The figures of the smallest and the `top` largest eigenvalues.

    The residuals |H v - lambda v| / |lambda| are measured, with one more product each.
    """
    values, vectors, _ = process.ritz()
    residuals = {}
    for i in lanczos.extremes(values, top):
        v = process.vector(vectors[:, i])
        error = np.linalg.norm(hessian.product(v) - values[i] * v) / np.linalg.norm(v)
        residuals[i] = float(error / abs(values[i])) if values[i] else float("inf")
    least, *largest = lanczos.extremes(values, top)
    return {
        "parameters": hessian.size,
        "lambda_max": float(values[-1]),
        "lambda_min": float(values[0]),
        "residual_max": residuals[len(values) - 1],
        "residual_min": residuals[0],
        # METHOD 12: |lambda_min / lambda_max|
        "condition_number": float(abs(values[0] / values[-1])) if values[-1] else float("inf"),
        "eigenvalues": [float(values[i]) for i in largest],
        "residuals": [residuals[i] for i in (*largest, least)],
    }


def spectral_density(hessian, options, folder, name, bar, figures):
    """dict of the density: grid, density, Ritz values, weights; and how it was made.

    None if all eigenvalues are equal, as those of a zero matrix: the density is a single point.

    figures: dict with lambda_max and lambda_min, which span the grid.
    """
    spread = figures["lambda_max"] - figures["lambda_min"]
    if spread <= lanczos.NOTHING * max(abs(figures[key]) for key in ("lambda_max", "lambda_min")):
        return None
    steps = min(options.density_steps, hessian.size)
    values, weights = [], []
    for number in range(options.density):
        found = _of_start(hessian, options, folder, f"{name}.density-{number}", number, steps, bar)
        values.append(found["values"])
        weights.append(found["weights"])
    sigma = options.density_sigma * spread
    grid = np.linspace(figures["lambda_min"] - 5 * sigma, figures["lambda_max"] + 5 * sigma, 1001)
    density = lanczos.density(values, weights, grid, sigma)
    listed = lambda arrays: [array.tolist() for array in arrays]
    return {
        "vectors": options.density,
        "steps": steps,
        "sigma": sigma,
        "grid": grid.tolist(),
        "density": density.tolist(),
        "values": listed(values),
        "weights": listed(weights),
    }


def _of_start(hessian, options, folder, name, number, steps, bar):
    """dict of `values` and `weights`, float64 [steps], of one start vector of the density."""
    path = folder.file(f"{name}.npz")
    if folder.has(f"{name}.npz"):
        return _loaded(path, ("values", "weights"))
    process = _Process(folder, f"{name}.process", [options.seed, 1 + number])
    process.open(hessian.size)
    with bar(f"density {number + 1}/{options.density}", steps) as progress:
        while process.iterations < steps:
            process.advance(hessian.product)
            progress.to(process.iterations)
    values, vectors, _ = process.lanczos.ritz()
    found = {"values": values, "weights": vectors[0] ** 2}
    with whole_file(path) as file:
        np.savez(file, **found)
    process.discard()
    return found


def _loaded(path, names):
    """dict of arrays of an .npz file. Raises UserError if it is damaged."""
    try:
        return load_npz(path, names)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to start again") from error


class _Process:
    """A Lanczos process that is saved after every iteration.

    Its files: NAME.npz, the tridiagonal matrix; NAME.basis, the vectors.
    """

    def __init__(self, folder, name, seed):
        self.folder, self.name, self.seed = folder, name, seed
        self.seconds = 0.0  # of earlier starts

    @property
    def iterations(self):
        return len(self.lanczos.alphas)

    def open(self, size):
        """Begins, or resumes where an earlier start was. size: P."""
        alphas, betas = [], []
        if self.folder.has(f"{self.name}.npz"):
            names = "alphas", "betas", "seconds"
            saved = _loaded(self.folder.file(f"{self.name}.npz"), names)
            alphas, betas = saved["alphas"].tolist(), saved["betas"].tolist()
            self.seconds = float(saved["seconds"])
        self.begin = time.perf_counter()
        self.basis = Basis(self.folder.file(f"{self.name}.basis"), size)
        self.lanczos = Lanczos(self.basis, self.seed, alphas, betas)

    def advance(self, product):
        self.lanczos.advance(product)
        seconds = self.seconds + time.perf_counter() - self.begin
        # The vectors are on the disk already: a process that is cut off here has one too many.
        with whole_file(self.folder.file(f"{self.name}.npz")) as file:
            alphas, betas = np.array(self.lanczos.alphas), np.array(self.lanczos.betas)
            np.savez(file, alphas=alphas, betas=betas, seconds=np.array(seconds))

    def discard(self):
        """Deletes the files: the result is known."""
        self.basis.close()
        self.folder.delete(f"{self.name}.npz", f"{self.name}.basis")
