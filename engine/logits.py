"""Functions of logits that run on the host."""

import numpy as np


def log_softmax(logits):
    """float64 [N, C], from logits [N, C]."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def check_finite(logits, whose, flag="--precision"):
    """Raises FloatingPointError for logits that are not finite.

    Without this check NaN would look like a hit: no other class compares as greater than NaN.
    """
    if not np.isfinite(logits).all():
        raise FloatingPointError(
            f"{whose} logits are not finite; in float16 or bfloat16, try {flag} float32"
        )
