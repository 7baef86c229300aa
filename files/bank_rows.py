"""How a row of the memory bank is stored: all logits, or each teacher's largest ones and one number
for the rest.

A codec has `dtype` and `shape` of a stored row, and the methods `encode` and `decode`.
"""

import numpy as np


class Dense:
    """All logits: float16 [classes, K] per row."""

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
    """The `top` < classes largest logits of each teacher, and one logit `rest` for all others.

    A row is K records: `top` class numbers (uint16 up to 65,536 classes, else uint32), their logits
    in float16, and `rest` in float16. Classes are sorted by falling logit, ties by class number.
    rest = T log(sum_others exp(l / T) / (classes - top)), so the softmax at temperature T keeps the
    probability of each top class, up to float16, and shares the remainder equally among the others.
    """

    def __init__(self, classes, teachers, top, temperature):
        if not 0 < top < classes:
            raise ValueError(f"top is {top}, expected 1 to {classes - 1}")
        self.classes, self.top, self.temperature = classes, top, temperature
        self.shape = (teachers,)
        number = np.uint16 if classes <= 2**16 else np.uint32
        self.dtype = np.dtype(
            [("classes", number, (top,)), ("logits", np.float16, (top,)), ("rest", np.float16)]
        )

    def encode(self, logits):
        """Stored rows [n, K] of finite logits float16 [n, K, classes]."""
        rows = np.empty(logits.shape[:2], self.dtype)
        # One teacher at a time: the temporary arrays are several times as large as its logits.
        for k in range(logits.shape[1]):
            top = _largest(logits[:, k], self.top)
            rows["classes"][:, k] = top
            rows["logits"][:, k] = np.take_along_axis(logits[:, k], top, 1)
            rows["rest"][:, k] = self._rest(logits[:, k], top)
        return rows

    def _rest(self, logits, top):
        """float32 [n]: the logit that stands for all classes not in `top`, int [n, top]."""
        others = logits.astype(np.float32)
        np.put_along_axis(others, top, -np.inf, 1)
        # Subtract the largest: the sum is then at least 1, and its logarithm finite.
        largest = others.max(1)
        others = np.exp((others - largest[:, None]) / self.temperature).sum(1)
        return largest + self.temperature * np.log(others / (self.classes - self.top))

    def decode(self, rows):
        """Logits float16 [n, classes, K] of stored rows. Raises IndexError for an invalid class
        number, from a damaged file.
        """
        logits = np.empty((*rows.shape, self.classes), np.float16)
        logits[:] = rows["rest"][..., None]
        np.put_along_axis(logits, rows["classes"].astype(np.int64), rows["logits"], 2)
        return np.ascontiguousarray(logits.transpose(0, 2, 1))


def row_codec(classes, teachers, top=None, temperature=None):
    """The codec for rows [classes, K]: Top, exact at `temperature`; Dense if `top` is None or not
    below `classes`.
    """
    if top is None or top >= classes:
        return Dense(classes, teachers)
    return Top(classes, teachers, top, temperature)


def _largest(logits, count):
    """int64 [n, count]: the classes of the largest logits, by falling logit, ties by class number.

    logits: float16 [n, classes], finite. Each logit and its class are combined into one integer
    key. All keys differ, so the result of the partition is unique.
    """
    classes = logits.shape[1]
    # float16 is sign and magnitude; as an integer, the magnitude has the same order. -0 becomes 0.
    bits = np.ascontiguousarray(logits).view(np.int16)
    order = (bits & np.int16(0x7FFF)) * (bits >> 15 | 1)
    keys = order.astype(np.int32 if classes <= 2**16 else np.int64) * classes + np.arange(
        classes - 1, -1, -1, np.int32
    )
    largest = -np.sort(
        -np.partition(keys, classes - count, 1)[:, classes - count :].astype(np.int64), 1
    )
    return classes - 1 - largest % classes
