"""The memory bank as a stage of a run (Eq. 10). It resumes after the last batch on disk."""

import contextlib
import functools

import numpy as np

from dataloader.images import in_batches
from dataloader.sampling import columns
from ekg import memory_bank
from ekg.contrastive import temperature
from ekg.sub_networks import SubNetworks
from engine.run import STREAM, stage
from engine.run_files import BANK, STAGES
from files.bank_file import BankFile, open_bank
from files.bank_rows import row_codec


@stage("memory_bank")
def build_bank(run, supernet, history):
    """Builds M, float16 [N, classes, K]: the logits of K sub-networks on all training images.

    Images are not augmented; batch norm uses batch statistics (METHOD 5). Returns the Bank in
    memory_bank.npy.
    """
    data, options, folder = run.data, run.options, run.folder
    path = folder.file(STAGES["memory_bank"])
    teachers = memory_bank.teachers_of(history, options.num_teacher)
    shape = len(data.y_train), supernet.classes, len(teachers)
    t = options.temperature or temperature(supernet.classes)
    codec = row_codec(*shape[1:], options.bank_top or None, t)
    if folder.done("memory_bank"):
        return open_bank(path, shape, codec)
    losses = ", ".join(f"{teacher.loss:.4f}" for teacher in teachers)
    run.console.say(
        f"memory bank: {len(teachers)} teachers with losses {losses}; {shape[0]:,} images"
    )
    # Teachers share few activations, so each one is a call of its own (most=1).
    predict = SubNetworks(supernet, run.search_runtime, run.normalised, 1)
    masks = np.stack([teacher.masks(supernet.gate_sizes) for teacher in teachers])
    slots, here = _slots(run)
    bank = BankFile(
        folder.file(BANK),
        folder.unfinished,
        shape,
        len(slots),
        memory_bank.plan_of(slots),
        codec=codec,
        machines=run.runtime.machines,
    )
    if bank.batches:
        folder.resumed_after(bank.seconds)
        run.console.say(f"  the memory bank resumes after {bank.batches} of {len(slots)} batches")
    _fill(run, bank, slots[bank.batches :], here, lambda batch: predict(batch, masks))
    run.broken.save()
    with folder.completes():
        bank.complete(path)
    return open_bank(path, shape, codec)


def _slots(run):
    """(slots, here): the batches in order, and bool [B], the slots that this machine computes.

    Each batch is (image indices int64 [B], own bool [B]), see memory_bank.bank_batches.
    """
    data, machines = run.data, run.runtime.machines
    count = len(machines.addresses)
    # Labels that are no classes may be sorted in any way.
    labels = data.y_train if data.y_train.ndim == 1 else np.zeros(len(data.y_train))
    order = memory_bank.build_order(labels, [run.options.seed, STREAM["memory_bank"]])
    owner = data.x_train.owner if data.encoded and count > 1 else None
    slots = memory_bank.bank_batches(order, run.options.val_batch_size, count, owner)
    here = np.zeros(len(slots[0][0]), bool)
    here[columns(len(here), count, machines.index)] = True
    return slots, here


def _fill(run, bank, slots, here, predict):
    """Adds the batches of `slots` to the bank.

    Args:
        run: Run.
        bank: BankFile.
        slots: the batches that are still missing, see _slots.
        here: bool [B], the slots that this machine computes.
        predict: function of a batch to its logits, float32 [B, K, classes].
    """

    def save():
        run.broken.save()
        bank.save(run.folder.seconds)

    def after_batch(bar):
        bar.to(bank.batches)
        if bank.batches % memory_bank.SAVE_EVERY == 0:
            save()
        run.stop_if_asked(save, loop="memory bank")

    found = in_batches(run.data.x_train, (ids for ids, _ in slots))
    # A broken image was replaced by another one. Its row is not written, and nothing reads it.
    batches = (
        (ids, own & here & (decoded == ids), {"images": images})
        for (ids, own), (decoded, images) in zip(slots, found)
    )
    bar = run.console.bar((), "memory bank", bank.batches + len(slots))
    with contextlib.closing(found), bar:
        memory_bank.build(bank, batches, predict, functools.partial(after_batch, bar))
