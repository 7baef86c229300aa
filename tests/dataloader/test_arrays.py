"""Images of one's own: what is read, how views may differ, and what is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from dataloader.arrays import checked, own_dataset
from dataloader.formats import DECODES_WEBP
from dataloader.own import load_own
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


def save(path, value, mode="RGB", size=6):
    """An image of one value, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), (value,) * len(mode)).save(path)


def folders(root, splits=("train", "test"), names=("cat", "dog"), counts=(3, 2)):
    """PNGs, each with one value: 100 * class + number."""
    for split, count in zip(splits, counts):
        for label, name in enumerate(names):
            for i in range(count):
                save(root / split / name / f"{i}.png", 100 * label + i)


@pytest.mark.long
def test_folders_of_classes(tmp_path):
    folders(tmp_path)
    data = load_own(str(tmp_path), (4, 4, 3))
    assert data.class_names == ["cat", "dog"] and data.x_train.shape == (6, 4, 4, 3)
    np.testing.assert_array_equal(data.y_train, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0], [0, 1, 2, 100, 101, 102])
    np.testing.assert_array_equal(data.x_test[:, 0, 0, 0], [0, 1, 100, 101])
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat/1\.png cannot be read: neither a JPEG nor a PNG"):
        load_own(str(tmp_path), (4, 4, 3))


@pytest.mark.long
def test_folders_of_classes_without_splits_are_split(tmp_path):
    folders(tmp_path, splits=("",), counts=(5,))
    data = load_own(str(tmp_path), (6, 6, 3))
    np.testing.assert_array_equal(data.x_test[:, 0, 0, 0], [4, 104])
    assert any("every 5th image" in note for note in data.notes)


@pytest.mark.long
@pytest.mark.parametrize("channels", (1, 3))
def test_every_kind_of_image_is_read_in_colour_and_in_grey(tmp_path, channels):
    folders(tmp_path)
    kinds = "BMP", "jpg", "gif", *["webp"] * DECODES_WEBP
    for kind in kinds:
        save(tmp_path / "train" / "cat" / f"a.{kind}", 77)
    data = load_own(str(tmp_path), (6, 6, channels))
    cats = data.x_train[data.y_train == 0]
    assert data.x_train.shape[1:] == (6, 6, channels)
    assert (np.ptp(cats, axis=(1, 2, 3)) == 0).all()
    assert sorted(cats[:, 0, 0, 0].tolist()) == [0, 1, 2, *[77] * len(kinds)]


@pytest.mark.long
def test_images_with_alpha_are_read_for_models_of_four_channels(tmp_path):
    folders(tmp_path)
    save(tmp_path / "train" / "cat" / "a.png", 50, "RGBA")
    x = load_own(str(tmp_path), (6, 6, 4)).x_train
    np.testing.assert_array_equal(x[[0, -1], 0, 0, 3], [255, 255])
    assert (x == 50).all((1, 2, 3)).sum() == 1


@pytest.mark.long
def test_what_is_no_image_is_skipped_and_named(tmp_path):
    folders(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "train" / "dog" / "one.tiff").write_bytes(b"II*")
    data = load_own(str(tmp_path), (4, 4, 3))
    assert data.class_names == ["cat", "dog"] and len(data.y_train) == 6
    note = " ".join(data.notes)
    assert "1 .tiff" in note and ".ipynb_checkpoints" in note and "Thumbs.db" in note


def test_a_class_without_images_is_named(tmp_path):
    folders(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(UserError, match="emu has no images"):
        load_own(str(tmp_path), (4, 4, 3))
