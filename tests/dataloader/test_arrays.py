"""Images of one's own: what is read, how views may differ, and what is refused in one line."""

import numpy as np
import pytest
import tensorflow as tf

from dataloader.arrays import checked, load_own, own_dataset
from utils import UserError

RNG = np.random.default_rng(0)


def images(count=20, size=(8, 8, 3), dtype=np.uint8):
    x = RNG.integers(0, 256, (count, *size)).astype(dtype)
    return x, np.arange(count) % 2


def saved(path, **arrays):
    np.savez(path / "data.npz", **arrays)
    return str(path / "data.npz")


def test_one_hot_labels_and_bool_labels_are_classes(tmp_path):
    x, y = images()
    path = saved(tmp_path, x_train=x, y_train=np.eye(2)[y], x_test=x, y_test=y == 1)
    data = load_own(path, (8, 8, 3))
    assert data.classes == 2 and data.y_train.dtype == np.int64
    np.testing.assert_array_equal(data.y_train, y)
    np.testing.assert_array_equal(data.y_test, y)


@pytest.mark.parametrize(
    "rows", [[1, 1], [0, 0], [0.5, 0.5], [2, 0]], ids=["two", "none", "soft", "counts"]
)
def test_labels_that_are_not_one_class_are_refused(rows):
    x, y = images()
    y = np.eye(2)[y]
    y[3] = rows
    with pytest.raises(UserError, match="its rows are not one-hot"):
        checked("x", "y", x, y)


@pytest.mark.parametrize(
    "x, y, line",
    [
        (np.zeros((4, 8)), np.zeros(4), r"x is float64 \[4, 8\]"),
        (np.zeros((4, 8, 8, 3)), np.zeros(3), "x has 4 images, but y 3 class numbers"),
        (
            np.zeros((4, 8, 8, 3)),
            np.full(4, 0.5),
            "y is float64, but no class numbers; for other labels",
        ),
        (np.full((4, 8, 8, 3), np.nan), np.zeros(4), "NaN"),
        (np.zeros((4, 8, 8, 3)), np.array([0, 1, -1, 0]), "the label -1"),
    ],
    ids=["vectors", "fewer labels", "halves", "NaN", "negative"],
)
def test_what_is_no_image_or_label_is_refused(x, y, line):
    with pytest.raises(UserError, match=line):
        checked("x", "y", x, y)


@pytest.mark.parametrize("other", [(4, 8, 3), np.float32], ids=["size", "dtype"])
def test_test_images_are_like_training_images(other):
    train = images()
    test = images(size=other) if isinstance(other, tuple) else images(dtype=other)
    with pytest.raises(UserError, match=r"training images are uint8 \[8, 8, 3\], but test images"):
        own_dataset("data", train, test, ())


@pytest.mark.parametrize(
    "x, colour, why",
    [
        (images()[0], True, None),
        (images(size=(8, 8, 1))[0], True, None),
        (images(size=(8, 8, 4))[0], False, "have 4 channels"),
        (images(dtype=np.float32)[0] - 128, False, "are below 0"),
    ],
    ids=["colour", "grey", "four channels", "negative"],
)
def test_views_differ_in_colour_where_that_means_something(x, colour, why):
    data = own_dataset("data", (x, np.arange(20) % 2), (x, np.arange(20) % 2), ("colour",))
    assert data.augmentation.colour == colour
    assert (why is None) == (not data.notes) and (why is None or why in data.notes[0])


@pytest.mark.parametrize("size, pad", [((32, 32, 3), 4), ((64, 3, 1), 1), ((8, 1, 1), 0)])
def test_crops_pad_no_further_than_reflection_goes(size, pad):
    data = own_dataset("data", images(size=size), None, ("crop",))
    assert data.augmentation.pad == pad


def test_folders_of_classes(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((6, 6, 3), 100 * label + i, np.uint8)
                path = tmp_path / split / name / f"{i}.png"
                path.write_bytes(tf.io.encode_png(pixels).numpy())
    data = load_own(str(tmp_path), (4, 4, 3))
    assert data.class_names == ["cat", "dog"] and data.x_train.shape == (6, 4, 4, 3)
    np.testing.assert_array_equal(data.y_train, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1\.png is no image that can be read"):
        load_own(str(tmp_path), (4, 4, 3))
