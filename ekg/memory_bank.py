"""The memory bank: the logits of K interim sub-networks on every training image (Eq. 10)."""

import zlib

import numpy as np

from dataloader.sampling import columns, padded_batches

SAVE_EVERY = 16  # batches between two saves: the most that a killed run computes again


def choose_teachers(losses, num_teacher):
    """Indices of the K = min(num_teacher, len(losses)) teachers in the history (METHOD 5).

    Teacher 0 has the lowest loss. Teacher j is the sub-network not yet taken with the loss nearest
    to target j.

    losses: float [n], of the history without Theta*.
    """
    losses = np.asarray(losses, np.float64)
    count = min(num_teacher, len(losses))
    free, chosen = list(range(len(losses))), []
    for j in range(count):
        # Eq. 10, as published (METHOD 5): targets L_min + j (L_max - L_min) / K
        target = losses.min() + j * (losses.max() - losses.min()) / count
        nearest = min(free, key=lambda i: abs(losses[i] - target))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen


def teachers_of(history, num_teacher):
    """The teachers of a search: K of the sub-networks in its history (METHOD 5)."""
    # Theta* teaches only if it is the unpruned network itself.
    members = history[:-1] or history
    return [members[i] for i in choose_teachers([m.loss for m in members], num_teacher)]


def build_order(labels, seed):
    """The order in which images pass through the teachers: int64 [N] (METHOD 5).

    Batch statistics need mixed batches. If the labels are sorted, in any order of classes, the
    images are permuted by `seed`; otherwise they keep their order. Rows are stored by image either
    way.

    labels: int [N]. seed: a sequence of integers.
    """
    # Even with only two classes, every second label changes in a random order.
    changes = np.count_nonzero(np.diff(labels))
    if changes < len(labels) / 4:
        return np.random.default_rng([*seed, len(labels)]).permutation(len(labels))
    return np.arange(len(labels))


def bank_batches(order, batch_size, machines=1, owner=None):
    """The batches that pass through the teachers: a list of (ids int64 [B], own bool [B]).

    All batches have the same size. `own` is true once per image; it is false for the filler images
    of a last batch. Machine w computes the `columns` w of each batch. With an owner, the images of
    a machine fill its columns in their order; a machine with fewer images repeats its first ones.

    order: int [N], image indices.
    batch_size: B; a batch size larger than the set is the set.
    machines: the number of machines.
    owner: int [N], the machine that can read each image; None if every machine can read all.

    Raises ValueError for a machine without columns or images.
    """
    order = np.asarray(order, np.int64)
    size = min(batch_size, len(order))
    if owner is None:
        slots = padded_batches(len(order), size)
        return [(order[slot], np.arange(size) < real) for slot, real in slots]
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
    """A checksum of `bank_batches`, int. A bank resumes only with the same batches.

    With other batches some images would be left out.
    """
    checksum = 0
    for ids, own in batches:
        checksum = zlib.crc32(own.tobytes(), zlib.crc32(ids.tobytes(), checksum))
    return checksum


def build(bank, batches, predict, after_batch=lambda: None):
    """Fills the memory bank M batch by batch, so that it is never in memory as a whole.

    bank: BankFile of M. M[n, :, k] are the logits of teacher k for training image n (Eq. 10).
    batches: iterable of (rows, mine, batch). rows: int [B], the images in the batch. mine: bool
        [B], the rows that this machine writes; every image is written once, by one machine.
    predict: function of a batch to the teachers' logits, float32 [B, K, classes].
    after_batch: called after every batch.

    Raises FloatingPointError if any logit is not finite in float16, including those that other
    machines write, so that all machines raise it.
    """
    for rows, mine, batch in batches:
        with np.errstate(over="ignore"):
            logits = predict(batch).astype(np.float16)
        bad = ~np.isfinite(logits).all((0, 2))  # bool [K]
        if bad.any():
            raise FloatingPointError(
                f"teacher {bad.argmax()} gives logits that are not finite in float16"
            )
        bank.add(rows[mine], logits[mine])  # Eq. 10
        after_batch()
