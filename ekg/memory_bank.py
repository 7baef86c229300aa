"""The memory bank: what K interim sub-networks say of every training image (Eq. 10)."""

import functools
import zlib

import numpy as np

from dataloader.sampling import columns, padded_batches

SHARD = 16  # batches after which the bank is saved: what a killed run computes again at most


def choose_teachers(losses, num_teacher):
    """Indices into the history of K = min(num_teacher, len(losses)) distinct sub-networks, teacher
    0 (lowest loss) first.

    losses: of the history without Theta*. Teacher j is the one not yet taken whose loss is nearest
    to L_min + j (L_max - L_min) / K.
    """
    losses = np.asarray(losses, np.float64)
    count = min(num_teacher, len(losses))
    free, chosen = list(range(len(losses))), []
    for j in range(count):
        target = losses.min() + j * (losses.max() - losses.min()) / count
        nearest = min(free, key=lambda i: abs(losses[i] - target))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen


def teachers_of(history, num_teacher):
    """The sub-networks of a search's history that teach; Theta* teaches only where it is the
    unpruned network itself.
    """
    members = history[:-1] or history
    return [members[i] for i in choose_teachers([m.loss for m in members], num_teacher)]


def build_order(labels, seed):
    """int64 [N]: the order in which images pass through the teachers.

    Batch statistics need mixed batches: where labels lie sorted, in any order of classes, a
    permutation by `seed`, a sequence of integers; else as they lie. Rows are stored by image either
    way.
    """
    if (
        np.count_nonzero(np.diff(labels)) < len(labels) / 4
    ):  # of two classes in no order every second label changes
        return np.random.default_rng([*seed, len(labels)]).permutation(len(labels))
    return np.arange(len(labels))


def bank_batches(order, batch_size, machines=1, owner=None):
    """A list of (ids int64 [B], own bool [B]): the images `order`, int [N], in batches of one size,
    as they pass the teachers.

    Every image is an entry's own once; what fills a last batch up is not. Machine w of W computes
    the `columns` w of each batch. owner: int [N] by image, which machine can read it; its images
    fill its columns in the order they have, those of a machine that has fewer followed by its first
    again. None: every machine can read all, and images lie in order. A batch size larger than the
    set is the set. Raises ValueError for a machine without columns or images.
    """
    order = np.asarray(order, np.int64)
    size = min(batch_size, len(order))
    if owner is None:
        return [
            (order[slot], np.arange(size) < real) for slot, real in padded_batches(len(order), size)
        ]
    parts = [columns(size, machines, w) for w in range(machines)]
    members = [order[owner[order] == w] for w in range(machines)]
    for w, (part, images) in enumerate(zip(parts, members)):
        if part.start == part.stop or not len(images):
            raise ValueError(
                f"machine {w} of {machines} has {part.stop - part.start} of {size} columns,"
                f" {len(images)} images"
            )
    count = max(-(-len(images) // (part.stop - part.start)) for part, images in zip(parts, members))
    ids, own = np.empty((count, size), np.int64), np.empty((count, size), bool)
    for part, images in zip(parts, members):
        places = np.arange(count * (part.stop - part.start)).reshape(count, -1)
        ids[:, part], own[:, part] = images[places % len(images)], places < len(images)
    return list(zip(ids, own))


def plan_of(batches):
    """A number that tells `bank_batches` from others: a bank goes on with the same, or images would
    be left out.
    """
    return functools.reduce(
        lambda sum, batch: zlib.crc32(batch[1].tobytes(), zlib.crc32(batch[0].tobytes(), sum)),
        batches,
        0,
    )


def build(bank, batches, predict, after_batch=lambda: None):
    """Fills M, `bank`, a BankFile, batch by batch and never in memory as a whole.

    batches: an iterable of (rows, mine, batch), rows int [B] being the images that the batch's
    entries show, and mine bool [B] those of them that this machine writes, each image once on one
    machine. predict(batch) -> float32 [B, K, classes], the teachers' logits. M[n, :, k] are those
    of teacher k for training image n. Raises FloatingPointError where a logit is not finite in
    float16; of any entry, so that all machines do.
    """
    for rows, mine, batch in batches:
        with np.errstate(over="ignore"):
            logits = predict(batch).astype(np.float16)
        bad = ~np.isfinite(logits).all((0, 2))  # bool [K]
        if bad.any():
            raise FloatingPointError(
                f"teacher {bad.argmax()} gives logits that are not finite in float16"
            )
        bank.add(rows[mine], logits[mine])
        after_batch()
