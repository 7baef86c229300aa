"""DIGITS: scikit-learn's images, each as 4 x 4 blocks, every fifth of a class for testing."""

import numpy as np
import pytest
from sklearn import datasets

from dataloader import load_dataset


@pytest.fixture(scope="module")
def digits():
    return load_dataset("DIGITS")


@pytest.fixture(scope="module")
def source():
    return datasets.load_digits()


def test_shapes_and_types(digits):
    assert digits.name == "DIGITS" and digits.classes == 10 and digits.input_size == 32
    for images, labels in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3)
        assert labels.dtype == np.int64 and set(labels) == set(range(10))


def test_all_1797_images_are_there(digits):
    assert len(digits.x_train) + len(digits.x_test) == 1797


def test_a_fifth_of_each_class_is_for_testing(digits, source):
    for digit in range(10):
        assert (digits.y_test == digit).sum() == (source.target == digit).sum() // 5


def test_pixels_are_those_of_the_source_in_blocks_of_four_by_four(digits, source):
    """Row and column order too: an image that is transposed or mirrored is another one."""
    images = np.concatenate([digits.x_train, digits.x_test])
    blocks = images.reshape(-1, 8, 4, 8, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1, :1]).all(), (
        "each block and all three channels are one value"
    )
    small = blocks[:, :, 0, :, 0, 0]
    written = np.rint(source.images * 255 / 16).astype(np.uint8)
    assert small.min() == 0 and small.max() == 255
    assert sorted(map(bytes, small)) == sorted(map(bytes, written))


def test_train_and_test_are_disjoint_and_keep_the_order_of_the_source(digits, source):
    """Every image of a class goes to exactly one side: the fifth, tenth, ... to the test set."""
    written = np.rint(source.images * 255 / 16).astype(np.uint8)
    for digit in range(10):
        members = written[source.target == digit]
        train = digits.x_train[digits.y_train == digit][:, ::4, ::4, 0]
        test = digits.x_test[digits.y_test == digit][:, ::4, ::4, 0]
        place = np.arange(len(members))
        np.testing.assert_array_equal(test, members[place % 5 == 4])
        np.testing.assert_array_equal(train, members[place % 5 != 4])


def test_digits_are_never_mirrored(digits):
    assert not digits.augmentation.flip
