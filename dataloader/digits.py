"""DIGITS: the 1,797 handwritten digits of scikit-learn (UCI optical recognition). It needs no
download.
"""

import numpy as np

from utils import UserError


def load_digits():
    """(x_train, y_train, x_test, y_test): uint8 [N, 32, 32, 3], int64 [N].

    Every fifth image of a class is a test image.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UserError("--dataset DIGITS needs scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # from 8x8 pixels, 0..16
    images = np.repeat(images.repeat(4, 1).repeat(4, 2)[..., None], 3, -1)
    labels = digits.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[4::5]] = True
    return images[~test], labels[~test], images[test], labels[test]
