"""Selects images: D_val and D_subset of a training set, batches for training, and padded batches
for everything else.
"""

import numpy as np

from utils import UserError

LEAST_PER_CLASS = 32  # METHOD 0: images per class that D_subset needs, unless fewer are asked for


def whole_labels(labels, images, classes, source):
    """int64 [N]: `labels` as numbers of classes.

    Args:
        labels: array.
        images: N.
        classes: number of classes.
        source: names the data in messages.

    Raises UserError for labels that are not N integers.
    """
    expected = f"expected integers, the numbers of classes from 0 to {classes - 1}"
    if labels.shape == (images, classes) and images and classes > 1:
        raise UserError(
            f"{source}: labels are one row per image, {list(labels.shape)}, {expected}; save"
            " labels.argmax(1)"
        )
    if labels.size != images or images == 0:
        raise UserError(f"{source}: {labels.size} labels ({labels.dtype}) for {images} images")
    if labels.dtype.kind not in "iu":
        advice = "; round them and save them as int64" if labels.dtype.kind == "f" else ""
        raise UserError(f"{source}: labels are {labels.dtype}, {expected}{advice}")
    return labels.reshape(-1).astype(np.int64)


def select_subsets(labels, classes, val_per_class, subset_per_class, seed, names=None):
    """(val, subset): int64 indices into the training set, each shuffled once by `seed`.

    METHOD 0: D_val has the last `val_per_class` images of each class, in the order of the data set.
    D_subset has the first `subset_per_class`, or as many as D_val leaves.

    Args:
        labels: int64 [N].
        classes: number of classes.
        val_per_class, subset_per_class: images per class.
        seed: int.
        names: names of the classes for the error message; None for their numbers.

    Raises UserError if a class has too few images.
    """
    val, subset, small = [], [], []
    least = min(LEAST_PER_CLASS, subset_per_class)
    by_class = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[by_class], np.arange(classes + 1))
    for label in range(classes):
        members = by_class[ends[label] : ends[label + 1]]
        left = max(len(members) - val_per_class, 0)
        if left < least:
            small.append((label, len(members), left))
        val.append(members[left:])
        subset.append(members[: min(subset_per_class, left)])
    if small:
        label, count, left = min(small, key=lambda one: min(one[1], 2))
        name = names[label] if names else label
        if count < 2:
            raise UserError(
                f"class {name} has {count} training images, and each of the {classes} classes needs"
                " two at least, one for the search and one to train; add images of it, or leave"
                " the class out"
            )
        others = f" ({len(small) - 1} more classes are too small)" if len(small) > 1 else ""
        raise UserError(
            f"class {name} has {count} training images: --val_per_class"
            f" {val_per_class} leaves {left} of them for the subset, which needs {least}; ask for"
            f" fewer with --val_per_class or --subset_per_class{others}"
        )
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate(val)), rng.permutation(np.concatenate(subset))


def steps_of(count, batch_size):
    """Steps per epoch over `count` images. If the batch is larger than the set, it is the set."""
    return count // min(batch_size, count)


def shuffled_batches(count, batch_size, rng):
    """int64 [steps, B]: shuffled indices of one epoch, without those of a last partial batch."""
    batch_size, steps = min(batch_size, count), steps_of(count, batch_size)
    return rng.permutation(count)[: steps * batch_size].reshape(steps, batch_size)


def padded_batches(count, batch_size):
    """A list of (indices int64 [B], real): the images 0 .. count - 1 in batches of equal size B.

    The first `real` images of a batch count. A last partial batch is padded with images from the
    start (METHOD 4, 5). If the batch is larger than the set, it is the set.
    """
    batch_size = min(batch_size, count)
    starts = range(0, count, batch_size)
    return [(np.arange(s, s + batch_size) % count, min(batch_size, count - s)) for s in starts]


def columns(size, machines, index):
    """The slice of a batch of `size` images that machine `index` of `machines` processes."""
    return slice(index * size // machines, (index + 1) * size // machines)
