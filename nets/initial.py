"""The arrays of a new network: from a parameter file (values and shapes) or initialisers."""

import zlib

import numpy as np

from nets.catalogue import PARAMETER
from utils import UserError

HEAD = ("fc/kernel:0", "fc/biases:0")


def he_normal(shape, rng):
    """He-normal over fan-out (METHOD 1): variance 2 / fan-out, float32 [kh, kw, in, out]."""
    deviation = np.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


def normal(shape, rng):
    """Normal with standard deviation 0.01, float32 (METHOD 1: the FC kernel)."""
    return rng.standard_normal(shape, np.float32) * np.float32(0.01)


def zeros(shape, rng):
    return np.zeros(shape, np.float32)


def ones(shape, rng):
    return np.ones(shape, np.float32)


class Arrays:
    """Gives the arrays of a network under construction, by name.

    An initial value depends only on `seed` and on the name of its array, so adding a layer does not
    change the others.

    parameters: dict name -> float32 array, or None for initial values.
    origin, arch: names of the file and of the network in error messages.
    seed: seed of the initial values.
    """

    def __init__(self, parameters=None, *, origin="the parameter file", arch="the network", seed=0):
        self.parameters, self.origin, self.arch, self.seed = parameters, origin, arch, seed
        self.taken: set[str] = set()

    def take(self, name, shape, initial, free=None):
        """The array `name`, float32. Raises UserError if the file's array does not fit.

        shape: the full shape. initial: function of (shape, rng) to the initial value.
        free: the axis that may be shorter in a parameter file, or None.
        """
        if self.parameters is None:
            return initial(shape, np.random.default_rng([self.seed, zlib.crc32(name.encode())]))
        self.taken.add(name)
        if name not in self.parameters:
            raise UserError(f"{self.origin} does not fit {self.arch}: it has no {name}")
        array = self.parameters[name]
        wanted = [
            min(n, have) if axis == free else have
            for axis, (have, n) in enumerate(zip(shape, array.shape))
        ]
        if list(array.shape) != wanted or len(array.shape) != len(shape) or 0 in array.shape:
            self._check_classes(name, array, shape)
            expected = [f"up to {n}" if axis == free else n for axis, n in enumerate(shape)]
            text = f"[{', '.join(map(str, expected))}]"
            raise UserError(
                f"{self.origin} does not fit {self.arch}: {name} is {list(array.shape)}, expected"
                f" {text}"
            )
        return array

    def _check_classes(self, name, array, shape):
        """Raises UserError if the array is the head of a network with other classes."""
        if name not in HEAD or array.ndim != len(shape) or 0 in array.shape:
            return
        have, wanted = array.shape[-1], shape[-1]
        if have != wanted:
            raise UserError(
                f"{self.origin} does not fit {self.arch}: it tells {have} classes apart, the data"
                f" have {wanted}; a run does not replace the last layer: give the data of its"
                f" {have} classes, or a network that was trained on these {wanted}"
            )

    def lack(self, names):
        """Whether a parameter file is given that has none of `names`."""
        return self.parameters is not None and not any(n in self.parameters for n in names)

    def check_all_taken(self):
        """Raises UserError if the file holds parameters that the network does not have.

        Keys that do not look like parameters are ignored.
        """
        left = [n for n in self.parameters or () if n not in self.taken and PARAMETER.search(n)]
        if left:
            raise UserError(
                f"{self.origin} does not fit {self.arch}: it has {left[0]}, which {self.arch}"
                " does not have"
            )
