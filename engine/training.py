"""The training loop of baseline, warm-up and fine-tuning."""

import contextlib
import dataclasses
import math
import time

import numpy as np

from dataloader.augment import draw
from engine.console import Silent
from utils import learning_rate_at

NEUTRAL = 0.5  # this draw flips nothing, crops the middle and leaves colours alone


@dataclasses.dataclass
class Progress:
    """How far a training is: whole epochs; steps of the epoch under way, with the sums of their
    figures and their seconds.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0

    def add(self, figures):
        self.step += 1
        self.loss += figures["loss"]
        self.accuracy += figures["accuracy"]

    def means(self):
        return {"loss": self.loss / self.step, "accuracy": self.accuracy / self.step}


def _nothing(*_):
    pass


def train(
    step,
    feed,
    options,
    *,
    seed,
    views=1,
    augmented=True,
    steps_per_call=1,
    progress=None,
    bar=lambda label, total: Silent(),
    on_step=_nothing,
    after_call=_nothing,
    on_epoch=_nothing,
    why=lambda images: ("", ""),
    precision_flag="--precision",
):
    """Trains with `step` (op_utils.training_step) on `feed` (engine.feed.Feed) for options.epochs
    epochs.

    Order and draws of an epoch depend on (seed, epoch) alone, seed a sequence of integers.
    steps_per_call: steps that run in one call of the device, to the same result. bar(label, total)
    shows the steps of an epoch. on_step(number, figures) is called for every step, on_epoch(record,
    next) after every epoch, record with epoch (from 1), learning_rate, loss, accuracy, seconds.
    after_call(progress) is called where the training may end, to go on another time: started with
    that Progress, or with `next`, it ends as if it had never been interrupted. Raises
    FloatingPointError when the loss or an activation is not finite; why(images) -> (reason, advice)
    says in words what is known of it, from the indices of that step's images. precision_flag: the
    option that says what the step computes in, for advice.
    """
    progress = progress or Progress()
    while progress.epoch < options.epochs:
        began = time.perf_counter() - progress.seconds
        rng = np.random.default_rng([*seed, progress.epoch])
        order = feed.order(options.batch_size, rng)
        rates = [
            learning_rate_at(progress.epoch + (k + 0.5) / len(order), options)
            for k in range(len(order))
        ]
        together = math.ceil(
            len(order) / math.ceil(len(order) / steps_per_call)
        )  # evenly: the last call is filled up with few
        draws = _draws(rng, order, views, augmented, feed.draws)
        for _ in range(progress.step):
            next(draws)  # the steps done before have taken theirs
        calls = [
            range(k, min(k + together, len(order)))
            for k in range(progress.step, len(order), together)
        ]
        drawn = (_filled([next(draws) for _ in steps], together) for steps in calls)
        groups = (_filled([order[k] for k in steps], together) for steps in calls)
        batches = feed.batches(groups, drawn, augmented)
        shown = bar(f"epoch {progress.epoch + 1}/{options.epochs}", len(order))
        with shown, contextlib.closing(batches):
            for steps, batch in zip(calls, batches):
                learning_rate = _filled([np.float32(rates[k]) for k in steps], together)
                results = _call(
                    step, batch, len(steps), together, learning_rate, options.weight_decay
                )
                for k, figures in zip(steps, results):
                    where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
                    _check(figures, where, why, order[k], f"try {precision_flag} bfloat16")
                    progress.add(figures)
                    on_step(progress.epoch * len(order) + progress.step, figures)
                progress.seconds = time.perf_counter() - began
                shown.show(**progress.means())
                shown.to(progress.step)
                after_call(progress)
        record = {"epoch": progress.epoch + 1, "learning_rate": rates[0], **progress.means()}
        record["seconds"] = round(progress.seconds, 3)
        progress = Progress(progress.epoch + 1)
        on_epoch(record, progress)


def _draws(rng, order, views, augmented, draws):
    """float32 [B, views, draws] for each step of an epoch."""
    for indices in order:
        shape = len(indices), views, draws
        yield draw(rng, *shape) if augmented else np.full(shape, NEUTRAL, np.float32)


def _filled(values, together):
    """The value of a call of one step; of several [together, ...], the last repeated as long as
    steps are missing: one trace.
    """
    return (
        values[0] if together == 1 else np.stack([*values, *values[-1:] * (together - len(values))])
    )


def _call(step, batch, count, together, learning_rate, weight_decay):
    """A dict of floats for each of the `count` steps whose data `batch` holds, run in one call of
    the device.
    """
    shared = {"weight_decay": np.float32(weight_decay)}
    if together == 1:
        results = step(batch, learning_rate=learning_rate, **shared)[0]
        return [{name: float(value) for name, value in results.items()}]
    results = step.several(batch, count, {"learning_rate": learning_rate}, **shared)
    series = {name: np.asarray(values).tolist() for name, values in results.items()}
    return [dict(zip(series, values)) for values in zip(*series.values())]


def _check(figures, where, why, images, half):
    """Raises FloatingPointError for a step that went wrong; half: advice for float16."""
    wrong = f"the loss is {figures['loss']}" if not math.isfinite(figures["loss"]) else None
    if not math.isfinite(figures.pop("sum_of_statistics", 0)):
        wrong = wrong or "activations are not finite"
    if wrong:
        reason, advice = why(images)
        hint = f", or {half}" if "loss_scale" in figures else ""
        raise FloatingPointError(
            f"{wrong} in {where}{reason}; {advice or f'try a lower learning rate{hint}'}"
        )
    if figures.get("loss_scale", 1) < 1:
        raise FloatingPointError(
            f"the gradients overflow float16 at any loss scale, {where}; {half}"
        )
