"""The training loop of baseline, warm-up and fine-tuning."""

import math
import time

import numpy as np

from dataloader.augment import DRAWS, draw
from dataloader.sampling import shuffled_batches
from utils import learning_rate_at

NEUTRAL = 0.5  # this draw flips nothing, crops the middle and leaves colours alone


def train(step, feed, options, *, seed, views=1, augmented=True, steps_per_call=1, bar, on_step=None, on_epoch=None):
    """Trains with `step` (op_utils.training_step) on `feed` (ekg.feed.Feed) for options.epochs epochs.

    Order and draws of an epoch depend on (seed, epoch) alone, seed a sequence of integers. steps_per_call: steps that run in
    one call of the device, to the same result. bar(items, label) wraps the batches of an epoch; on_step(number, figures) is
    called for every step, on_epoch(record) after every epoch, with epoch (from 1), learning_rate, loss, accuracy, seconds.
    Raises FloatingPointError when the loss is not finite.
    """
    number = 0
    for epoch in range(options.epochs):
        begin = time.perf_counter()
        rng = np.random.default_rng([*seed, epoch])
        schedule = options.learning_rate, options.decay_points, options.decay_rate
        learning_rate = learning_rate_at(epoch, options.epochs, *schedule)
        shared = {"learning_rate": np.float32(learning_rate), "weight_decay": np.float32(options.weight_decay)}
        steps, totals, means, waiting = 0, {"loss": 0.0, "accuracy": 0.0}, {}, []
        order = shuffled_batches(feed.count, options.batch_size, rng)
        calls = math.ceil(len(order) / steps_per_call)
        together = math.ceil(len(order) / calls)  # evenly, so that the last call is filled up with few
        progress = bar(order, f"epoch {epoch + 1}/{options.epochs}")
        for indices in progress:
            shape = (len(indices), views, DRAWS)
            waiting.append((indices, draw(rng, len(indices), views) if augmented else np.full(shape, NEUTRAL, np.float32)))
            if len(waiting) < together and steps + len(waiting) < len(order):
                continue
            for figures in _call(step, feed, waiting, together, shared):
                number, steps = number + 1, steps + 1
                _check(figures, f"epoch {epoch + 1}, step {steps}")
                totals = {name: total + figures[name] for name, total in totals.items()}
                if on_step is not None:
                    on_step(number, figures)
            waiting = []
            means = {name: total / steps for name, total in totals.items()}
            progress.show(**means)
        record = {"epoch": epoch + 1, "learning_rate": learning_rate, **means}
        record["seconds"] = round(time.perf_counter() - begin, 3)
        if on_epoch is not None:
            on_epoch(record)


def _call(step, feed, waiting, together, shared):
    """A dict of floats for each of the steps that `waiting` holds the (indices, draws) of, run in one call."""
    if together == 1:
        ((indices, draws),) = waiting
        return [{name: float(value) for name, value in step({**feed(indices), "draws": draws}, **shared)[0].items()}]
    filled = waiting + waiting[-1:] * (together - len(waiting))  # one shape, one trace
    indices, draws = (np.stack(arrays) for arrays in zip(*filled))
    figures = step.several({**feed(indices), "draws": draws}, len(waiting), **shared)
    series = {name: np.asarray(values).tolist() for name, values in figures.items()}
    return [dict(zip(series, values)) for values in zip(*series.values())]


def _check(figures, where):
    if not math.isfinite(figures["loss"]):
        hint = " or --precision bfloat16" if "loss_scale" in figures else ""
        raise FloatingPointError(f"the loss is {figures['loss']} in {where}; try a lower learning rate{hint}")
    if figures.get("loss_scale", 1) < 1:
        raise FloatingPointError(f"the gradients overflow float16 at any loss scale, {where}; try --precision bfloat16")
