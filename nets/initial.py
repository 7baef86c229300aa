"""Where a new network's arrays come from: a parameter file, which also gives the shapes, or the
initialisers.
"""

import re
import zlib

import numpy as np

from utils import UserError

PARAMETER = re.compile(r"/(kernel|biases|gamma|beta|moving_mean|moving_variance):0$")


def he_normal(shape, rng):
    """Normal of variance 2 / fan-out, float32; shape [kh, kw, in, out]."""
    return rng.standard_normal(shape, np.float32) * np.float32(
        np.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    )


def normal(shape, rng):
    return rng.standard_normal(shape, np.float32) * np.float32(0.01)


def zeros(shape, rng):
    return np.zeros(shape, np.float32)


def ones(shape, rng):
    return np.ones(shape, np.float32)


class Arrays:
    """Hands out the arrays of a network under construction, by name.

    Every initial value depends on `seed` and on the array's own name alone, so a network does not
    change when another layer is added before it.
    """

    def __init__(self, parameters=None, *, origin="the parameter file", arch="the network", seed=0):
        self.parameters, self.origin, self.arch, self.seed = parameters, origin, arch, seed
        self.taken = set()

    def take(self, name, shape, initial, free=None):
        """float32 array `name`; axis `free`, if given, may be shorter in a parameter file. Raises
        UserError.
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
            expected = [f"up to {n}" if axis == free else n for axis, n in enumerate(shape)]
            text = f"[{', '.join(map(str, expected))}]"
            raise UserError(
                f"{self.origin} does not fit {self.arch}: {name} is {list(array.shape)}, expected"
                f" {text}"
            )
        return array

    def check_all_taken(self):
        """Raises UserError if the file holds parameters that the network does not have (other keys
        are none of ours).
        """
        left = [n for n in self.parameters or () if n not in self.taken and PARAMETER.search(n)]
        if left:
            raise UserError(
                f"{self.origin} does not fit {self.arch}: it has {left[0]}, which {self.arch}"
                " has not"
            )
