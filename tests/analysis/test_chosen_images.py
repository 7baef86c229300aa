"""The images of an analysis: all classes alike, repeatable, from the set asked for."""

import numpy as np
import pytest

import train_cifar
from analysis.images import Images, select, stratified
from dataloader import load_dataset
from dataloader.sampling import select_subsets
from utils import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [3, 20, 20, 20]))


def per_class(chosen, labels=LABELS):
    return np.bincount(labels[chosen], minlength=labels.max() + 1).tolist()


@pytest.mark.parametrize("count", [4, 8, 12])
def test_all_classes_are_alike(count):
    assert per_class(stratified(LABELS, count, 0)) == [count // 4] * 4


def test_a_remainder_goes_to_some_classes_once_each():
    for count in (1, 2, 3, 5, 10, 11):
        found = per_class(stratified(LABELS, count, 7))
        assert sum(found) == count and set(found) <= {count // 4, count // 4 + 1}
    first = {int(LABELS[stratified(LABELS, 1, seed)[0]]) for seed in range(30)}
    assert first == {0, 1, 2, 3}, "the seed decides which ones"


def test_a_small_class_gives_all_its_images_and_the_others_more():
    assert per_class(stratified(LABELS, 33, 0)) == [3, 10, 10, 10]
    assert per_class(stratified(LABELS, 63, 0)) == [3, 20, 20, 20]


def test_the_seed_draws_them():
    first = stratified(LABELS, 20, 0)
    assert len(set(first.tolist())) == 20 and (np.diff(first) > 0).all()
    np.testing.assert_array_equal(stratified(LABELS, 20, 0), first)
    assert (stratified(LABELS, 20, 1) != first).any()
    # More images are the same ones and further ones.
    assert set(first) < set(stratified(LABELS, 33, 0))


def test_more_images_than_there_are():
    with pytest.raises(UserError, match="--images 64: there are only 63 images"):
        stratified(LABELS, 64, 0)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_batches_are_of_one_size_and_every_image_counts_once(batch_size):
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    images = Images(pixels, np.arange(10), batch_size)
    assert len(images) == 10
    sizes = {len(array) for batch in images.batches for array in batch.values()}
    assert sizes == {min(batch_size, 10)}
    together = {
        key: np.concatenate([batch[key] for batch in images.batches])
        for key in ("images", "labels", "weights")
    }
    counts = np.bincount(together["labels"], weights=together["weights"])
    np.testing.assert_allclose(counts, np.full(10, 0.1), rtol=1e-6)
    np.testing.assert_array_equal(together["images"].reshape(-1), together["labels"])


@pytest.fixture(scope="module")
def digits():
    return load_dataset("DIGITS")


def rows(images):
    return {batch["images"][i].tobytes() for batch in images.batches for i in range(len(images))}


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_images_come_from_the_set_asked_for_with_their_labels(digits, split):
    images = select(digits, split, 50, 0, 50)
    assert np.bincount(images.labels).tolist() == [5] * 10
    source, labels = (
        (digits.x_test, digits.y_test) if split == "test" else (digits.x_train, digits.y_train)
    )
    among = np.arange(len(labels))
    if split == "val":
        usual = train_cifar.parse([]).subsets
        sizes = usual.val_per_class, usual.subset_per_class
        among = select_subsets(labels, 10, *sizes, usual.seed)[0]
        assert len(among) == 320
    there = {(source[i].tobytes(), int(labels[i])) for i in among}
    (batch,) = images.batches
    found = [
        (image.tobytes(), int(label)) for image, label in zip(batch["images"], batch["labels"])
    ]
    assert set(found) <= there
    np.testing.assert_array_equal(batch["labels"], images.labels)


def test_the_whole_of_d_val_and_one_more(digits):
    assert len(select(digits, "val", 320, 0, 128)) == 320
    with pytest.raises(UserError, match="--images 321: there are only 320 images"):
        select(digits, "val", 321, 0, 128)


def test_the_batch_size_changes_no_image(digits):
    one, other = select(digits, "train", 45, 3, 45), select(digits, "train", 45, 3, 7)
    np.testing.assert_array_equal(one.labels, other.labels)
    joined = np.concatenate([batch["images"] for batch in other.batches])[:45]
    np.testing.assert_array_equal(one.batches[0]["images"], joined)
