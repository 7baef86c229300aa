"""Lanczos: matrices with a known spectrum, resuming to the bit, the density."""

import os

import numpy as np
import pytest
from scipy.integrate import trapezoid

from analysis import lanczos
from analysis.folder import AnalysisFolder
from analysis.hessian import measure
from analysis.lanczos import Basis, Lanczos
from analysis.options import HessianOptions
from engine.console import Silent
from utils import UserError

pytestmark = pytest.mark.long


class Matrix:
    """A symmetric matrix with these eigenvalues and random eigenvectors, as a Hessian.

    It ends the process, by an error, before product number `stops`.
    """

    def __init__(self, eigenvalues, seed=0, stops=None):
        self.size, self.products, self.stops = len(eigenvalues), 0, stops
        random = np.random.default_rng(seed).standard_normal((self.size, self.size))
        vectors = np.linalg.qr(random)[0]
        self.matrix = vectors @ np.diag(eigenvalues) @ vectors.T

    def loss(self):
        return 0.5

    def product(self, vector):
        if self.products == self.stops:
            raise KeyboardInterrupt
        self.products += 1
        return self.matrix @ vector


FACTS = {"digest": "0123456789abcdef"}


def no_bar(label, total):
    return Silent()


def process(tmp_path, matrix, iterations=None):
    lanczos_ = Lanczos(Basis(str(tmp_path / "basis"), matrix.size), 3)
    for _ in range(matrix.size if iterations is None else iterations):
        lanczos_.advance(matrix.product)
    return lanczos_


def options(**changes):
    default = dict(
        hessian_over="kernels",
        top=1,
        tolerance=1e-6,
        iterations=200,
        seed=0,
        density=0,
        density_steps=0,
        density_sigma=0.0,
    )
    return HessianOptions(**default | changes)


SPECTRA = {
    "spread out": np.linspace(-3, 7, 40),
    "clustered": np.concatenate([1 + 1e-9 * np.arange(10), np.arange(10) * 1e-7 - 2, [50, 50.001]]),
    "repeated": np.repeat([-4.0, -1, 0, 2, 9], [3, 1, 10, 2, 5]),
    "negative": -np.geomspace(1e-3, 1e3, 20),
    "zero": np.zeros(6),
    "identity": np.ones(6),
    "size 1": np.array([-2.5]),
    "size 2": np.array([-1.0, 3.0]),
    "size 2, repeated": np.array([3.0, 3.0]),
}

# -------------------------------------------------------------------------------------- eigenvalues


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_ritz_values_of_full_order_are_the_eigenvalues(tmp_path, spectrum):
    eigenvalues = np.sort(SPECTRA[spectrum])
    found = process(tmp_path, Matrix(eigenvalues))
    assert found.complete
    values, _, bounds = found.ritz()
    scale = max(np.abs(eigenvalues).max(), 1e-300)
    np.testing.assert_allclose(values, eigenvalues, rtol=0, atol=1e-11 * scale)
    assert not bounds.any()


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_basis_is_orthonormal(tmp_path, spectrum):
    found = process(tmp_path, Matrix(SPECTRA[spectrum]))
    basis = np.stack(list(found.basis))
    assert basis.shape == (len(basis), len(basis)) == (found.basis.size,) * 2
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("iterations", [1, 2, 7, 15, 39])
def test_bounds_are_the_residuals(tmp_path, iterations):
    """|H v - value v| of every Ritz vector."""
    matrix = Matrix(SPECTRA["spread out"] ** 3)
    found = process(tmp_path, matrix, iterations)
    values, vectors, bounds = found.ritz()
    for value, weights, bound in zip(values, vectors.T, bounds):
        v = found.vector(weights)
        assert np.linalg.norm(v) == pytest.approx(1)
        residual = np.linalg.norm(matrix.matrix @ v - value * v)
        assert bound == pytest.approx(residual, abs=1e-10 * np.abs(matrix.matrix).max())
        # An eigenvalue lies within the residual of a symmetric matrix's Ritz value.
        assert np.abs(SPECTRA["spread out"] ** 3 - value).min() <= bound + 1e-10


def test_the_extremes_are_indices_of_the_least_and_of_the_largest():
    assert lanczos.extremes(np.arange(10), 1) == [0, 9]
    assert lanczos.extremes(np.arange(10), 3) == [0, 9, 8, 7]
    assert lanczos.extremes(np.arange(2), 5) == [0, 1, 0]
    assert lanczos.extremes(np.arange(1), 1) == [0, 0]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_a_tolerance_ends_it_early_with_extremes_that_are_as_good(tmp_path, tolerance):
    rng = np.random.default_rng(4)
    matrix = Matrix(np.concatenate([rng.uniform(-1, 1, 297), [-2, 8, 12]]))
    folder = AnalysisFolder(str(tmp_path), "hessian", {}, {})
    found = measure(matrix, options(tolerance=tolerance, top=2), folder, "m", FACTS, no_bar)
    assert found["converged"] and found["iterations"] < 60
    for value, true in zip((found["lambda_min"], *found["eigenvalues"]), (-2, 12, 8)):
        assert abs(value - true) <= tolerance * abs(value)
    assert found["lambda_max"] == found["eigenvalues"][0]
    assert found["condition_number"] == pytest.approx(2 / 12, rel=2 * tolerance)
    assert max(found["residuals"]) <= tolerance * 1.001 and len(found["residuals"]) == 3
    assert found["residuals"] == [
        found["residual_max"],
        found["residuals"][1],
        found["residual_min"],
    ]


def test_it_says_when_it_has_stopped_too_early(tmp_path):
    folder = AnalysisFolder(str(tmp_path), "hessian", {}, {})
    found = measure(
        Matrix(np.linspace(-1, 1, 300)), options(iterations=5), folder, "m", FACTS, no_bar
    )
    assert not found["converged"] and found["iterations"] == 5
    assert found["residual_max"] > 1e-6 and found["residual_min"] > 1e-6


def test_a_matrix_smaller_than_what_is_asked_for(tmp_path):
    folder = AnalysisFolder(str(tmp_path), "hessian", {}, {})
    found = measure(Matrix(np.array([-1.0, 4])), options(top=5), folder, "m", FACTS, no_bar)
    assert found["converged"] and found["iterations"] == 2
    np.testing.assert_allclose(found["eigenvalues"], [4, -1])
    assert found["condition_number"] == pytest.approx(0.25)


# ----------------------------------------------------------------------------------------- resuming


SPECTRUM = np.concatenate([np.linspace(-1, 1, 20), [2, 2, 5, 5, 5]])  # meets invariant subspaces
FULL_ORDER = options(tolerance=1e-300, density=2, density_steps=6, density_sigma=0.01)


def measured(folder, matrix):
    """The figures, but for their seconds."""
    place = AnalysisFolder(str(folder), "hessian", {}, {})
    try:
        return measure(matrix, FULL_ORDER, place, "m", FACTS, no_bar) | {"seconds": 0}
    finally:
        place.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("whole"), Matrix(SPECTRUM))


def names(folder):
    return {path.name for path in (folder / "hessian").iterdir()}


@pytest.mark.parametrize("stops", [0, 1, 2, 13, 24, 25, 26, 27, 30, 33, 38])
def test_a_process_stopped_between_iterations_goes_on_to_the_bit(tmp_path, uninterrupted, stops):
    first, second = Matrix(SPECTRUM, stops=stops), Matrix(SPECTRUM)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, first)
    assert measured(tmp_path, second) == uninterrupted
    # Only the residuals of the extremes are measured again.
    assert first.products + second.products <= 25 + 2 + 2 * 6 + 2
    assert names(tmp_path) == {"config.json", "m.json", ".lock"}


@pytest.mark.parametrize("write", range(1, 37))
def test_a_process_stopped_before_its_state_is_written_goes_on_to_the_bit(
    tmp_path, uninterrupted, monkeypatch, write
):
    """The vector is in the basis already, so it has one too many."""
    count, savez = iter(range(1, 1000)), np.savez

    def killed(*arguments, **arrays):
        if next(count) == write:
            raise KeyboardInterrupt
        savez(*arguments, **arrays)

    with monkeypatch.context() as patches, pytest.raises(KeyboardInterrupt):
        patches.setattr(np, "savez", killed)
        measured(tmp_path, Matrix(SPECTRUM))
    assert measured(tmp_path, Matrix(SPECTRUM)) == uninterrupted


def test_a_vector_that_is_cut_short_is_written_again(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, Matrix(SPECTRUM, stops=7))
    with open(tmp_path / "hessian" / "m.process.basis", "ab") as basis:
        basis.write(bytes(8 * len(SPECTRUM) + 11))
    assert measured(tmp_path, Matrix(SPECTRUM)) == uninterrupted


def test_results_that_are_there_are_read(tmp_path, uninterrupted):
    measured(tmp_path, Matrix(SPECTRUM))
    assert measured(tmp_path, Matrix(SPECTRUM, stops=0)) == uninterrupted


def test_a_process_stopped_when_it_had_its_results_leaves_no_basis(tmp_path, monkeypatch):
    """A basis may have gigabytes: the next start deletes it."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patches, pytest.raises(KeyboardInterrupt):
        patches.setattr("analysis.hessian._progress_files", killed)
        patches.setattr("analysis.hessian._Process.discard", lambda self: self.basis.close())
        measured(tmp_path, Matrix(SPECTRUM))
    assert len(names(tmp_path)) > 3
    measured(tmp_path, Matrix(SPECTRUM))
    assert names(tmp_path) == {"config.json", "m.json", ".lock"}


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_damaged_basis_is_refused(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, Matrix(SPECTRUM, stops=7))
    basis = tmp_path / "hessian" / "m.process.basis"
    if damage == "missing":
        basis.unlink()
    else:
        os.truncate(basis, 8 * len(SPECTRUM) * 7)
    with pytest.raises(UserError, match=r"m\.process\.basis is damaged: it ends too early; delete"):
        measured(tmp_path, Matrix(SPECTRUM))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage"])
def test_a_damaged_state_is_refused(tmp_path, content):
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, Matrix(SPECTRUM, stops=7))
    (tmp_path / "hessian" / "m.process.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.process\.npz is damaged .*; delete it"):
        measured(tmp_path, Matrix(SPECTRUM))


# ------------------------------------------------------------------------------------------ density


@pytest.mark.parametrize("value", [0, 3, -0.1])
def test_equal_eigenvalues_have_no_density(tmp_path, value):
    """Its Gaussians would be of width 0. A zero matrix is the Hessian of a constant loss."""
    folder = AnalysisFolder(str(tmp_path), "hessian", {}, {})
    matrix = Matrix(np.full(12, float(value)))
    figures = measure(matrix, options(density=2, density_steps=6), folder, "m", FACTS, no_bar)
    assert figures["density"] is None
    assert figures["lambda_max"] == pytest.approx(value, abs=1e-12) and figures["converged"]
    assert measure(matrix, options(density=2), folder, "m", FACTS, no_bar) == figures
    folder.close()


def explicit_density(eigenvalues, grid, sigma, weights=None):
    bells = np.exp(-0.5 * ((grid[:, None] - eigenvalues) / sigma) ** 2)
    return np.average(bells, axis=1, weights=weights) / (sigma * np.sqrt(2 * np.pi))


def test_the_density_is_that_of_the_eigenvalues(tmp_path):
    """Weighted by what the start vectors have of their eigenvectors; its integral is 1."""
    eigenvalues = np.concatenate([np.zeros(20), np.linspace(-1, 1, 10), [4.0] * 10])
    matrix, folder = Matrix(eigenvalues), AnalysisFolder(str(tmp_path), "hessian", {}, {})
    asked = options(density=12, density_steps=100, density_sigma=0.02)
    found = measure(matrix, asked, folder, "m", FACTS, no_bar)["density"]
    assert (found["vectors"], found["steps"]) == (12, 40)
    assert found["sigma"] == pytest.approx(0.02 * 5)
    grid, density = np.array(found["grid"]), np.array(found["density"])
    assert grid[0] == pytest.approx(-1.5) and grid[-1] == pytest.approx(4.5)
    values, vectors = np.linalg.eigh(matrix.matrix)
    starts = [np.random.default_rng([0, 1 + i, 0]).standard_normal(40) for i in range(12)]
    weights = np.mean([(vectors.T @ v / np.linalg.norm(v)) ** 2 for v in starts], 0)
    expected = explicit_density(values, grid, found["sigma"], weights)
    np.testing.assert_allclose(density, expected, atol=1e-9 * expected.max())
    assert trapezoid(density, grid) == pytest.approx(1, abs=1e-5)
    mean = trapezoid(density * grid, grid)
    assert mean == pytest.approx(weights @ values, abs=1e-4)
    assert mean == pytest.approx(eigenvalues.mean(), abs=0.3)
    plain = explicit_density(eigenvalues, grid, found["sigma"])
    assert np.abs(density - plain).max() <= 0.25 * plain.max()


def test_weights_sum_to_1_and_repeated_eigenvalues_share_theirs():
    grid = np.linspace(-3, 3, 2001)
    values, weights = [np.array([-1.0, 1]), np.array([0.5])], [np.array([0.25, 0.75]), np.ones(1)]
    found = lanczos.density(values, weights, grid, 0.1)
    expected = explicit_density(np.array([-1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]), grid, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_quadrature_is_exact_for_powers_up_to_twice_its_order(tmp_path, seed):
    """The sum of weight * value^p is v^T A^p v for p < 2 k, v the start vector of norm 1."""
    matrix = Matrix(np.random.default_rng(seed).uniform(-1, 2, 30))
    found = process(tmp_path, matrix, iterations=4)
    values, vectors, _ = found.ritz()
    v = found.basis[0]
    for power in range(8):
        expected = v @ np.linalg.matrix_power(matrix.matrix, power) @ v
        assert vectors[0] ** 2 @ values**power == pytest.approx(expected, rel=1e-10)
