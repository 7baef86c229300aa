"""Which images go where (METHOD, section 0), and the batches of an epoch."""

import numpy as np
import pytest

from dataloader.sampling import padded_batches, select_subsets, shuffled_batches, whole_labels
from utils import UserError

# 4 classes of 40, 60, 50 and 45 images, mixed
LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(4), [40, 60, 50, 45]))


def of_class(indices, label):
    """The chosen images of a class, in data-set order."""
    return sorted(i for i in indices if LABELS[i] == label)


# ------------------------------------------------------------------------------------------ subsets


@pytest.mark.parametrize(
    "val_per_class, subset_per_class", [(1, 3), (8, 5), (5, 32), (8, 36), (8, 256), (0, 4)]
)
def test_val_is_the_last_of_each_class_and_subset_the_first(val_per_class, subset_per_class):
    val, subset = select_subsets(LABELS, 4, val_per_class, subset_per_class, seed=0)
    for label in range(4):
        members = np.flatnonzero(LABELS == label).tolist()
        left = len(members) - val_per_class
        assert of_class(val, label) == members[left:]
        assert of_class(subset, label) == members[: min(subset_per_class, left)]


@pytest.mark.parametrize("subset_per_class", [1, 32, 256])
def test_val_and_subset_are_disjoint_and_without_repeats(subset_per_class):
    val, subset = select_subsets(LABELS, 4, 8, subset_per_class, seed=0)
    both = np.concatenate([val, subset])
    assert len(set(both.tolist())) == len(both)


def test_indices_are_whole_numbers():
    val, subset = select_subsets(LABELS, 4, 8, 8, seed=0)
    assert val.dtype == np.int64 and subset.dtype == np.int64


def test_seed_alone_decides_the_order():
    first = select_subsets(LABELS, 4, 8, 16, seed=3)
    np.random.seed(11)  # noqa: NPY002 - the global generator must not matter
    for again in (
        select_subsets(LABELS, 4, 8, 16, seed=3),
        select_subsets(LABELS.astype(np.int32), 4, 8, 16, seed=3),
    ):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])


def test_another_seed_is_another_order_of_the_same_images():
    (val, subset), (other_val, other_subset) = (
        select_subsets(LABELS, 4, 8, 16, seed) for seed in (0, 1)
    )
    assert set(val) == set(other_val) and set(subset) == set(other_subset)
    assert not np.array_equal(val, other_val) and not np.array_equal(subset, other_subset)


def test_classes_are_mixed():
    """A batch of one class would spoil the batch statistics."""
    for indices in select_subsets(LABELS, 4, 8, 16, seed=0):
        changes = np.count_nonzero(np.diff(LABELS[indices]))
        assert changes > len(indices) / 2


@pytest.mark.parametrize(
    "val_per_class, subset_per_class, label",
    [
        (9, 256, 0),  # leaves 31 of 40
        (9, 32, 0),
        (40, 1, 0),
        (14, 256, 0),
        (1000, 5, 0),
    ],
)
def test_class_too_small_is_refused_with_its_number(val_per_class, subset_per_class, label):
    with pytest.raises(UserError) as refusal:
        select_subsets(LABELS, 4, val_per_class, subset_per_class, seed=0)
    message = str(refusal.value)
    assert (
        f"class {label} " in message
        and f"--val_per_class {val_per_class}" in message
        and "--subset_per_class" in message
    )
    assert len(message.splitlines()) == 1 and "-" not in message.replace("--", "")


def test_fewer_than_32_are_enough_where_fewer_are_asked_for():
    val, subset = select_subsets(LABELS, 4, 20, 20, seed=0)
    assert len(val) == len(subset) == 80


def test_class_without_images_is_refused():
    with pytest.raises(UserError, match="class 4 has 0"):
        select_subsets(LABELS, 5, 1, 1, seed=0)


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    "count, size, steps", [(10, 3, 3), (12, 4, 3), (7, 7, 1), (1, 1, 1), (1000, 128, 7)]
)
def test_shuffled_batches_have_no_repeats_and_drop_the_rest(count, size, steps):
    batches = shuffled_batches(count, size, np.random.default_rng(0))
    assert batches.shape == (steps, size) and batches.dtype == np.int64
    assert len(np.unique(batches)) == steps * size
    assert batches.min() >= 0 and batches.max() < count


def test_shuffled_batch_larger_than_the_set_is_the_set():
    batches = shuffled_batches(5, 128, np.random.default_rng(0))
    assert batches.shape == (1, 5) and sorted(batches[0]) == [0, 1, 2, 3, 4]


def test_shuffles_follow_the_generator():
    same = [shuffled_batches(50, 8, np.random.default_rng(2)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    rng = np.random.default_rng(2)
    one, two = (shuffled_batches(50, 8, rng) for _ in range(2))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one.reshape(-1), np.arange(48))


def test_over_many_epochs_every_image_has_its_turn():
    rng = np.random.default_rng(0)
    seen = np.concatenate([shuffled_batches(10, 4, rng).reshape(-1) for _ in range(50)])
    assert set(seen) == set(range(10))


@pytest.mark.parametrize(
    "count, size", [(10, 3), (12, 4), (7, 7), (1, 1), (5, 128), (9, 8), (100, 1)]
)
def test_padded_batches_hold_every_image_once_as_real_in_order_and_in_one_size(count, size):
    batches = padded_batches(count, size)
    real = np.concatenate([indices[:n] for indices, n in batches])
    np.testing.assert_array_equal(real, np.arange(count))
    assert {len(indices) for indices, _ in batches} == {min(size, count)}
    assert len(batches) == -(-count // size)


def test_fillers_come_from_the_start():
    (first, first_real), (last, last_real) = padded_batches(5, 3)
    assert (first.tolist(), first_real) == ([0, 1, 2], 3)
    assert (last.tolist(), last_real) == ([3, 4, 0], 2)


def test_whole_batches_need_no_fillers():
    assert [(indices.tolist(), real) for indices, real in padded_batches(4, 2)] == [
        ([0, 1], 2),
        ([2, 3], 2),
    ]


def test_classes_that_are_too_small_are_counted_and_the_first_is_named():
    labels = np.repeat(np.arange(4), [40, 3, 40, 5])
    with pytest.raises(
        UserError, match=r"^class n2 has 3 .* leaves 1 of them .*\(1 more classes are too small\)$"
    ):
        select_subsets(labels, 4, 2, 8, 0, names=["n1", "n2", "n3", "n4"])


def test_subsets_do_not_depend_on_the_order_of_classes():
    """Of each class the last ones and the first ones, in data-set order."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 50))
    val, subset = select_subsets(labels, 3, 5, 32, 0)
    for label in range(3):
        members = np.flatnonzero(labels == label)
        assert sorted(val[labels[val] == label]) == members[-5:].tolist()
        assert sorted(subset[labels[subset] == label]) == members[:32].tolist()


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_that_no_flag_can_help_is_not_answered_with_flags(count):
    labels = np.repeat([0, 1, 2], [40, count, 40])
    with pytest.raises(UserError, match=f"^class 1 has {count} training images, and each of the 3"):
        select_subsets(labels, 3, 1, 1, 0)
    with pytest.raises(UserError) as refusal:  # the class is named even if others are too small
        select_subsets(labels, 3, 39, 32, 0, ["a", "b", "c"])
    assert "class b" in str(refusal.value) and "--" not in str(refusal.value)


WRONG = {
    "floats": (np.zeros(4, np.float32), "labels are float32, expected integers, .* 0 to 2; round"),
    "one-hot": (
        np.eye(4, 3, dtype=int),
        r"one row per image, \[4, 3\], expected .* save labels",
    ),
    "too few": (np.zeros(3, int), r"3 labels \(int64\) for 4 images"),
    "words": (np.array(["a"] * 4), "labels are <U1, expected integers"),
    "none": (np.zeros((0, 3), int), r"0 labels \(int64\) for 4 images"),
}


@pytest.mark.parametrize("what", WRONG)
def test_labels_that_are_none_are_named(what):
    labels, said = WRONG[what]
    with pytest.raises(UserError, match=f"^file: .*{said}"):
        whole_labels(labels, 4, 3, "file")
