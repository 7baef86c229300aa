"""Random inputs of the shapes that a model takes."""

import numpy as np

from utils import UserError

SIZE = 224  # height and width where a model leaves them open


def sample_inputs(model, size=None, batch=2, seed=0):
    """list of arrays, one per input of a functional model: normal numbers, or 0 for integers.

    size: what open dimensions are: int, or a tuple for all but the batch; None: SIZE. Raises
    UserError for inputs of other types.
    """
    random = np.random.default_rng(seed)
    inputs = []
    for tensor in model.inputs:
        known = tensor.shape[1:]
        sizes = size if isinstance(size, tuple) else (size or SIZE,) * len(known)
        shape = [batch, *(n or m for n, m in zip(known, sizes))]
        kind = str(tensor.dtype)
        if kind.startswith(("float", "bfloat")):
            inputs.append(random.standard_normal(shape, np.float32))
        elif kind.startswith(("int", "uint", "bool")):
            inputs.append(np.zeros(shape, kind))
        else:
            raise UserError(f"input {tensor.name} of the model takes {kind}; numbers are needed")
    return inputs
