"""Eigenvalues of a symmetric matrix that is known by its products alone (METHOD 12).

Lanczos with full re-orthogonalisation in float64. After k products the matrix, seen from the start
vector, is a tridiagonal k x k matrix. Its eigenvalues are the Ritz values; the outermost ones
converge to those of the matrix first.
"""

import os

import numpy as np
import scipy.linalg

from utils import UserError

# A remainder this much smaller than the matrix is rounding: the vectors so far span a subspace that
# the matrix does not leave.
NOTHING = 1e-12


class Basis:
    """Orthonormal vectors, float64 [P], in a file: a basis can be larger than the memory.

    path: of the file; what it holds is kept, and `keep` says how many of its vectors count.
    size: P.
    """

    def __init__(self, path, size):
        self.path, self.size, self.count = path, size, 0
        self._file = open(path, "a+b")

    def close(self):
        self._file.close()

    def __len__(self):
        return self.count

    def keep(self, count):
        """Drops all vectors but the first `count`. Raises UserError if there are fewer."""
        self._file.flush()
        if os.path.getsize(self.path) < 8 * self.size * count:
            raise UserError(f"{self.path} is damaged: it ends too early; delete it to start again")
        self._file.truncate(8 * self.size * count)
        self.count = count

    def append(self, vector):
        """Adds a vector. It is on the disk when this returns."""
        try:
            self._file.write(np.asarray(vector, np.float64).tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error
        self.count += 1

    def __getitem__(self, i):
        return np.fromfile(self.path, np.float64, self.size, offset=8 * self.size * i)

    def __iter__(self):
        return (self[i] for i in range(self.count))

    def orthogonalise(self, vector):
        """`vector` less its parts along the basis, twice: once leaves rounding errors behind."""
        for _ in range(2):
            for member in self:
                vector -= (member @ vector) * member
        return vector

    def combined(self, weights):
        """The sum of the vectors times `weights` [count]."""
        total = np.zeros(self.size)
        for weight, member in zip(weights, self):
            total += weight * member
        return total


class Lanczos:
    """The Lanczos process.

    Args:
        basis: Basis, empty or with the vectors of `alphas` and one more.
        seed: int or sequence, of the start vector (Gaussian) and of new directions.
        alphas, betas: floats, the diagonal of the tridiagonal matrix and what is beside it, of an
            earlier start.
    """

    def __init__(self, basis, seed, alphas=(), betas=()):
        self.basis, self.seed = basis, np.atleast_1d(seed).tolist()
        self.alphas, self.betas = list(alphas), list(betas)
        if self.alphas:
            basis.keep(min(len(self.alphas) + 1, basis.size))
        else:
            basis.keep(0)
            self._add_direction()

    @property
    def complete(self):
        """Whether the basis spans the whole space: then the Ritz values are the eigenvalues."""
        return len(self.alphas) == self.basis.size

    def advance(self, product):
        """One iteration. product: function of float64 [P] to the matrix times it, float64 [P]."""
        k = len(self.alphas)
        vector = self.basis[k]
        remainder = np.array(product(vector), np.float64)
        alpha = float(vector @ remainder)
        remainder = self.basis.orthogonalise(remainder)
        beta = float(np.linalg.norm(remainder))
        self.alphas.append(alpha)
        if self.complete:
            return
        if beta <= NOTHING * max(map(abs, (*self.alphas, *self.betas, beta))):
            # An invariant subspace: go on in another one. This finds eigenvalues that occur twice.
            self.betas.append(0.0)
            self._add_direction()
        else:
            self.betas.append(beta)
            self.basis.append(remainder / beta)

    def _add_direction(self):
        """Adds a random vector that is orthogonal to the basis. It depends on the seed and k."""
        rng = np.random.default_rng([*self.seed, len(self.basis)])
        vector = self.basis.orthogonalise(rng.standard_normal(self.basis.size))
        self.basis.append(vector / np.linalg.norm(vector))

    def ritz(self):
        """(values float64 [k], ascending; their vectors in the basis, float64 [k, k], in columns;
        bounds float64 [k] of |H v - value v|).
        """
        k = len(self.alphas)
        values, vectors = scipy.linalg.eigh_tridiagonal(self.alphas, self.betas[: k - 1])
        behind = self.betas[k - 1] if len(self.betas) == k else 0.0
        return values, vectors, np.abs(behind * vectors[-1])

    def vector(self, weights):
        """The vector [P] with these coordinates [k] in the basis."""
        return self.basis.combined(weights)


def extremes(values, top):
    """Indices of the eigenvalues asked for: the smallest, and the `top` largest, largest first."""
    return [0, *range(len(values) - 1, max(len(values) - 1 - top, -1), -1)]


def converged(lanczos, top, tolerance):
    """Whether the smallest and the `top` largest Ritz values have |H v - value v| of at most
    tolerance * |value|.
    """
    values, _, bounds = lanczos.ritz()
    wanted = extremes(values, top)
    enough = len(values) > top or lanczos.complete
    return enough and all(bounds[i] <= tolerance * abs(values[i]) for i in wanted)


def density(values, weights, grid, sigma):
    """The spectral density on `grid`, float64 [len(grid)], by stochastic Lanczos quadrature.

    The mean over start vectors of the sum of weight * N(grid; value, sigma^2).

    Args:
        values: list of float64 [k], the Ritz values of each start vector.
        weights: list of float64 [k], squared first coordinates of their vectors; each sums to 1.
        grid: float64 [n].
        sigma: width of the Gaussians, in units of the eigenvalues.
    """
    total = np.zeros(len(grid))
    for value, weight in zip(values, weights):
        bells = np.exp(-0.5 * ((grid[:, None] - value) / sigma) ** 2)
        total += bells @ weight / (sigma * np.sqrt(2 * np.pi))
    return total / len(values)
