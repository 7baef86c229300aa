"""The fixed set of images that an analysis looks at."""

import contextlib

import numpy as np

from dataloader.images import in_batches
from dataloader.sampling import padded_batches, select_subsets
from utils import UserError

VAL_PER_CLASS = 32  # of D_val, as in a search without further flags


def stratified(labels, count, seed):
    """int64 [count], ascending: `count` images, drawn by `seed`, the same number per class.

    If the classes do not divide `count`, or one has too few images, some others give one more each.

    labels: int64 [N]. Raises UserError if there are fewer than `count` images.
    """
    if count > len(labels):
        raise UserError(f"--images {count}: there are only {len(labels):,} images")
    order = np.random.default_rng(seed).permutation(len(labels))
    # Round k takes the k-th image of every class.
    rounds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rounds[members] = np.arange(len(members))
    by_round = order[np.argsort(rounds[order], kind="stable")]
    return np.sort(by_round[:count])


class Images:
    """Images in memory, in batches of equal size; the last one is filled up with weight 0.

    batches: list of dicts: images uint8 [B, S, S, 3], labels int64 [B], weights float32 [B]. The
    weights of the images are 1 / N and sum to 1: sums over batches are means over images.
    """

    def __init__(self, images, labels, batch_size):
        """images: uint8 [N, S, S, 3]; labels: int64 [N]."""
        self.labels, self.batches = labels, []
        share = np.float32(1 / len(labels))
        for indices, real in padded_batches(len(labels), batch_size):
            weights = np.where(np.arange(len(indices)) < real, share, np.float32(0))
            batch = {"images": images[indices], "labels": labels[indices], "weights": weights}
            self.batches.append(batch)

    def __len__(self):
        return len(self.labels)


def select(data, split, count, seed, batch_size):
    """The Images of an analysis.

    Args:
        data: Dataset.
        split: one of analysis.options.SPLITS. val: D_val of a search with the default flags, which
            lies in the training set.
        count: number of images.
        seed: draws them.
        batch_size: images per batch.

    Raises UserError for too many images, or one that cannot be read.
    """
    test = split == "test"
    source, labels = (data.x_test, data.y_test) if test else (data.x_train, data.y_train)
    among = np.arange(len(labels))
    if split == "val":
        among = np.sort(select_subsets(labels, data.classes, VAL_PER_CLASS, 1, 0)[0])
    chosen = among[stratified(labels[among], count, seed)]
    batches = in_batches(source, np.array_split(chosen, -(-count // batch_size)), strict=True)
    with contextlib.closing(batches):
        images = np.concatenate([images for _, images in batches])
    return Images(images, labels[chosen], batch_size)
