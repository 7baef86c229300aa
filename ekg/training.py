"""The training loop of baseline, warm-up and fine-tuning."""

import math
import time

import numpy as np

from dataloader.augment import DRAWS, draw
from dataloader.sampling import shuffled_batches
from utils import learning_rate_at

NEUTRAL = 0.5  # this draw flips nothing, crops the middle and leaves colours alone


def train(step, images, labels, options, *, seed, views=1, augmented=True, bank=None, bar, on_step=None, on_epoch=None):
    """Trains with `step` (op_utils.training_step) for options.epochs epochs.

    images uint8 [N, S, S, 3], labels int64 [N]; bank: M float16 [N, C, K] or None, its rows travel with their images. Order
    and draws of an epoch depend on (seed, epoch) alone, seed a sequence of integers. bar(items, label) wraps the batches of
    an epoch; on_step(number, figures) is called after every step, on_epoch(record) after every epoch, with epoch (from 1),
    learning_rate, loss, accuracy, seconds. Raises FloatingPointError when the loss is not finite.
    """
    number = 0
    for epoch in range(options.epochs):
        begin = time.perf_counter()
        rng = np.random.default_rng([*seed, epoch])
        schedule = options.learning_rate, options.decay_points, options.decay_rate
        learning_rate = learning_rate_at(epoch, options.epochs, *schedule)
        shared = {"learning_rate": np.float32(learning_rate), "weight_decay": np.float32(options.weight_decay)}
        steps, totals, means = 0, {"loss": 0.0, "accuracy": 0.0}, {}
        progress = bar(shuffled_batches(len(labels), options.batch_size, rng), f"epoch {epoch + 1}/{options.epochs}")
        for indices in progress:
            batch = {"images": images[indices], "labels": labels[indices]}
            shape = (len(indices), views, DRAWS)
            batch["draws"] = draw(rng, len(indices), views) if augmented else np.full(shape, NEUTRAL, np.float32)
            if bank is not None:
                batch["bank"] = bank[indices]
            figures = {name: float(value) for name, value in step(batch, **shared)[0].items()}
            number, steps = number + 1, steps + 1
            if not math.isfinite(figures["loss"]):
                hint = " or --precision bfloat16" if "loss_scale" in figures else ""
                raise FloatingPointError(
                    f"the loss is {figures['loss']} in epoch {epoch + 1}, step {steps}; try a lower learning rate{hint}"
                )
            if figures.get("loss_scale", 1) < 1:
                raise FloatingPointError(
                    f"the gradients overflow float16 at any loss scale, epoch {epoch + 1}, step {steps}; try --precision bfloat16"
                )
            totals = {name: total + figures[name] for name, total in totals.items()}
            means = {name: total / steps for name, total in totals.items()}
            progress.show(**means)
            if on_step is not None:
                on_step(number, figures)
        record = {"epoch": epoch + 1, "learning_rate": learning_rate, **means}
        record["seconds"] = round(time.perf_counter() - begin, 3)
        if on_epoch is not None:
            on_epoch(record)
