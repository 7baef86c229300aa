"""How a row of the memory bank is stored: whole, or the largest logits of each teacher and one
number for the others.

A codec has the `dtype` and `shape` of a stored row, `encode` and `decode`.
"""

import numpy as np


class Dense:
    """All logits: float16 [classes, K] a row."""

    dtype = np.dtype(np.float16)

    def __init__(self, classes, teachers):
        self.shape = classes, teachers

    def encode(self, logits):
        """Stored rows [n, classes, K] of logits float16 [n, K, classes]."""
        return np.ascontiguousarray(logits.transpose(0, 2, 1))

    def decode(self, rows):
        """Logits float16 [n, classes, K] of stored rows."""
        return rows


class Top:
    """The `top` < classes largest logits of each teacher, and one for all others, that keeps their
    probability.

    A row is K records of `top` class numbers (uint16 up to 65,536 classes, else uint32), their
    logits in float16, the largest first and of equal ones the lower class, and `rest` = T
    log(sum_others exp(l / T) / (classes - top)): the softmax at temperature T gives the top classes
    what it gave them, up to float16, and the others equal shares of what is left.
    """

    def __init__(self, classes, teachers, top, temperature):
        if not 0 < top < classes:
            raise ValueError(f"top is {top}, expected 1 to {classes - 1}")
        self.classes, self.top, self.temperature, self.shape = (
            classes,
            top,
            temperature,
            (teachers,),
        )
        number = np.uint16 if classes <= 2**16 else np.uint32
        self.dtype = np.dtype(
            [("classes", number, (top,)), ("logits", np.float16, (top,)), ("rest", np.float16)]
        )

    def encode(self, logits):
        """Stored rows [n, K] of finite logits float16 [n, K, classes]."""
        rows = np.empty(logits.shape[:2], self.dtype)
        for k in range(
            logits.shape[1]
        ):  # teacher by teacher: what this takes besides is several times their logits
            top = _largest(logits[:, k], self.top)
            rows["classes"][:, k] = top
            rows["logits"][:, k] = np.take_along_axis(logits[:, k], top, 1)
            rows["rest"][:, k] = self._rest(logits[:, k], top)
        return rows

    def _rest(self, logits, top):
        others = logits.astype(np.float32)
        np.put_along_axis(others, top, -np.inf, 1)
        largest = others.max(
            1
        )  # subtracted, so that the sum is 1 at least and its logarithm finite
        others = np.exp((others - largest[:, None]) / self.temperature).sum(1)
        return largest + self.temperature * np.log(others / (self.classes - self.top))

    def decode(self, rows):
        """Logits float16 [n, classes, K] of stored rows. Raises IndexError for a class that is
        none.
        """
        logits = np.empty((*rows.shape, self.classes), np.float16)
        logits[:] = rows["rest"][..., None]
        np.put_along_axis(logits, rows["classes"].astype(np.int64), rows["logits"], 2)
        return np.ascontiguousarray(logits.transpose(0, 2, 1))


def row_codec(classes, teachers, top=None, temperature=None):
    """How rows of [classes, K] are stored: the `top` largest logits of each teacher, kept at
    `temperature`; or all of them.
    """
    return (
        Dense(classes, teachers)
        if top is None or top >= classes
        else Top(classes, teachers, top, temperature)
    )


def _largest(logits, count):
    """int64 [n, count]: the classes of the largest of finite logits float16 [n, classes], falling;
    of equal ones the lower first.

    Each logit and its class make one whole number, larger where it comes first, so that no two are
    equal and a partition has one result.
    """
    classes = logits.shape[1]
    bits = np.ascontiguousarray(logits).view(
        np.int16
    )  # sign and magnitude, which rises with the number; -0 becomes 0
    order = (bits & np.int16(0x7FFF)) * (bits >> 15 | 1)
    keys = order.astype(np.int32 if classes <= 2**16 else np.int64) * classes + np.arange(
        classes - 1, -1, -1, np.int32
    )
    largest = -np.sort(
        -np.partition(keys, classes - count, 1)[:, classes - count :].astype(np.int64), 1
    )
    return classes - 1 - largest % classes
