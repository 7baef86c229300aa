"""Which images go where: D_val and D_subset of a training set, batches for training, padded batches
for everything else.
"""

import numpy as np

from utils import UserError

LEAST_PER_CLASS = 32  # images of a class in D_subset, unless fewer are asked for


def select_subsets(labels, classes, val_per_class, subset_per_class, seed, names=None):
    """(val, subset): indices into the training set, int64, each shuffled once by `seed`.

    D_val: the last `val_per_class` images of each class in data-set order; D_subset: the first
    `subset_per_class`, or as many as D_val leaves. names: what the classes are called, None for
    their numbers. Raises UserError where a class is too small.
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
        label, count, left = small[0]
        others = f" ({len(small) - 1} more classes are too small)" if len(small) > 1 else ""
        raise UserError(
            f"class {names[label] if names else label} has {count} training images: --val_per_class"
            f" {val_per_class} leaves {left} of them for the subset, which needs {least}; ask for"
            f" fewer with --val_per_class or --subset_per_class{others}"
        )
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate(val)), rng.permutation(np.concatenate(subset))


def steps_of(count, batch_size):
    """Steps of an epoch over `count` images; a batch size larger than the set is the set."""
    return count // min(batch_size, count)


def shuffled_batches(count, batch_size, rng):
    """int64 [steps, B]: the indices of one epoch; the images that fill no whole batch wait for
    another epoch.
    """
    batch_size, steps = min(batch_size, count), steps_of(count, batch_size)
    return rng.permutation(count)[: steps * batch_size].reshape(steps, batch_size)


def padded_batches(count, batch_size):
    """A list of (indices int64 [B], real): the images 0 .. count - 1 in order, all batches of one
    size B.

    The first `real` of a batch are its own; a last partial batch is filled up with images from the
    start. A batch size larger than the set is the set.
    """
    batch_size = min(batch_size, count)
    starts = range(0, count, batch_size)
    return [(np.arange(s, s + batch_size) % count, min(batch_size, count - s)) for s in starts]


def columns(size, machines, index):
    """The slice of a batch of `size` images that machine `index` of `machines` computes."""
    return slice(index * size // machines, (index + 1) * size // machines)
