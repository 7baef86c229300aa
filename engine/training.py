"""The training loop of baseline, warm-up and fine-tuning."""

import contextlib
import dataclasses
import itertools
import math
import time

import numpy as np

from dataloader.augment import draw
from engine.console import Silent
from utils import learning_rate_at

NEUTRAL = 0.5  # the draw that flips nothing, crops the centre and leaves colours unchanged


@dataclasses.dataclass
class Progress:
    """How far a training is: finished epochs, and the steps done in the current epoch, with the
    sums of their metrics and their seconds.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0

    def add(self, metrics):
        self.step += 1
        self.loss += metrics["loss"]
        self.accuracy += metrics["accuracy"]

    def settle(self):
        """Waits for the figures of all steps so far, which `train` may fetch later than the steps.

        Call it before the Progress is saved. Raises FloatingPointError as `train` does.
        """

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
    late=1,
):
    """Trains for options.epochs epochs.

    The order and the random draws of an epoch depend only on (seed, epoch).

    Args:
        step: op_utils.training_step.
        feed: engine.feed.Feed.
        options: TrainOptions.
        seed: sequence of integers.
        views: V, views of each image per step.
        augmented: whether views are drawn at random; if not, images are only cropped to their
            centre.
        steps_per_call: steps per call of the device; it does not change the result.
        progress: Progress to start from, None for the beginning.
        bar: bar(label, total) shows the steps of an epoch.
        on_step: on_step(number, metrics), called after every step.
        after_call: after_call(progress), called after every call of the device, where the training
            may be interrupted. Started again with that Progress, once it is settled, it gives the
            same result as without the interruption.
        on_epoch: on_epoch(record, next), called after every epoch. record: epoch (from 1),
            learning_rate, loss, accuracy, seconds; next: the Progress to resume from.
        why: why(images) -> (reason, advice): texts for the error about a loss that is not finite;
            images: indices of that step's images.
        precision_flag: option that sets the precision of the step, for the advice.
        late: calls whose figures are fetched together. A device that computes while the host goes
            on need not wait then; on_step and the error come so many calls late at most.

    While the device computes, the batch of the next call is built. Raises FloatingPointError when
    the loss or an activation is not finite.
    """
    progress = progress or Progress()
    while progress.epoch < options.epochs:
        began = time.perf_counter() - progress.seconds
        rng = np.random.default_rng([*seed, progress.epoch])
        order = feed.order(options.batch_size, rng)
        rates = _learning_rates(progress.epoch, len(order), options)
        # Skip the draws of the steps done before, so that the other steps get their own draws.
        draws = _draws(rng, order, views, augmented, feed.draws)
        draws = itertools.islice(draws, progress.step, None)
        calls, per_call = _calls(progress.step, len(order), steps_per_call)
        batches = _batches(feed, order, draws, calls, per_call, augmented)
        figures = _Figures(progress, order, per_call, late, (on_step, why, precision_flag))
        progress_bar = bar(f"epoch {progress.epoch + 1}/{options.epochs}", len(order))
        with progress_bar, contextlib.closing(batches):
            batch = next(batches, None)
            for steps in calls:
                learning_rate = _filled([np.float32(rates[k]) for k in steps], per_call)
                results = _call(
                    step, batch, len(steps), per_call, learning_rate, options.weight_decay
                )
                batch = next(batches, None)  # before anything waits for the results
                figures.add(steps, results)
                progress.seconds = time.perf_counter() - began
                if progress.step:
                    progress_bar.show(**progress.means())
                progress_bar.to(steps[-1] + 1)
                after_call(progress)
            figures.fetch()
        record = {"epoch": progress.epoch + 1, "learning_rate": rates[0], **progress.means()}
        record["seconds"] = round(progress.seconds, 3)
        progress = Progress(progress.epoch + 1)
        on_epoch(record, progress)


def _learning_rates(epoch, steps, options):
    """The learning rate of each step of an epoch, taken at the middle of the step."""
    return [learning_rate_at(epoch + (k + 0.5) / steps, options) for k in range(steps)]


def _calls(first, steps, steps_per_call):
    """(list of ranges of steps, one per call; steps per call), for the steps from `first` on.

    The steps are spread evenly over the calls, so that the last call needs little padding.
    """
    per_call = math.ceil(steps / math.ceil(steps / steps_per_call))
    calls = [range(k, min(k + per_call, steps)) for k in range(first, steps, per_call)]
    return calls, per_call


def _batches(feed, order, draws, calls, per_call, augmented):
    """Yields the batch of each call, see Feed.batches. order: int64 [steps, B]."""
    drawn = (_filled([next(draws) for _ in steps], per_call) for steps in calls)
    groups = (_filled([order[k] for k in steps], per_call) for steps in calls)
    return feed.batches(groups, drawn, augmented)


def _draws(rng, order, views, augmented, draws):
    """float32 [B, views, draws] for each step of an epoch."""
    for indices in order:
        shape = len(indices), views, draws
        yield draw(rng, *shape) if augmented else np.full(shape, NEUTRAL, np.float32)


def _filled(values, per_call):
    """The argument of a call: one value for a call of one step, else an array [per_call, ...].

    If steps are missing, the last value is repeated, so that every call has the same shape and
    there is one trace.
    """
    if per_call == 1:
        return values[0]
    return np.stack([*values, *values[-1:] * (per_call - len(values))])


def _call(step, batch, count, per_call, learning_rate, weight_decay):
    """Runs `count` steps in one call of the device; returns a dict of tensors [] or [count].

    A device of its own may still be computing them.

    Args:
        step: op_utils.training_step.
        batch: dict of the arrays of one step, or of per_call steps, [per_call, ...].
        count: number of steps to run, at most per_call; the rest is padding.
        per_call: steps per call.
        learning_rate: float32, or float32 [per_call].
        weight_decay: float.
    """
    shared = {"weight_decay": np.float32(weight_decay)}
    if per_call == 1:
        return step(batch, learning_rate=learning_rate, **shared)[0]
    return step.several(batch, count, {"learning_rate": learning_rate}, **shared)


class _Figures:
    """The figures of an epoch's steps, on their way from the device to the Progress.

    Args:
        progress: Progress of the epoch, which is settled by fetching them.
        order: int64 [steps, B], the images of each step.
        per_call: steps per call.
        late: calls whose figures are fetched together.
        hooks: on_step, why and precision_flag, see `train`.
    """

    def __init__(self, progress, order, per_call, late, hooks):
        self.progress, self.order, self.per_call, self.late = progress, order, per_call, late
        self.on_step, self.why, self.precision_flag = hooks
        self.waiting = []  # (steps of a call, its results)
        progress.settle = self.fetch

    def add(self, steps, results):
        self.waiting.append((steps, results))
        if len(self.waiting) >= self.late:
            self.fetch()

    def fetch(self):
        """Waits for all figures. Raises FloatingPointError for the first step with a wrong one."""
        waiting, self.waiting = self.waiting, []
        for steps, results in waiting:
            for k, metrics in zip(steps, _floats(results, self.per_call)):
                self._take(k, metrics)

    def _take(self, k, metrics):
        progress = self.progress
        where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
        _check(metrics, where, self.why, self.order[k], f"try {self.precision_flag} bfloat16")
        progress.add(metrics)
        self.on_step(progress.epoch * len(self.order) + progress.step, metrics)


def _floats(results, per_call):
    """A list of dicts of floats, one per step, from the results of _call. Waits for the device."""
    if per_call == 1:
        return [{name: float(value) for name, value in results.items()}]
    series = {name: np.asarray(values).tolist() for name, values in results.items()}
    return [dict(zip(series, values)) for values in zip(*series.values())]


def _check(metrics, where, why, images, float16_advice):
    """Raises FloatingPointError if the loss, activations or gradients of a step are not finite.

    Args:
        metrics: dict of floats, from _floats.
        where: epoch and step, for the message.
        why: see train.
        images: int [B], indices of the images of the step.
        float16_advice: what to do in float16.
    """
    wrong = f"the loss is {metrics['loss']}" if not math.isfinite(metrics["loss"]) else None
    if not math.isfinite(metrics.pop("sum_of_statistics", 0)):
        wrong = wrong or "activations are not finite"
    if wrong:
        reason, advice = why(images)
        hint = f", or {float16_advice}" if "loss_scale" in metrics else ""
        raise FloatingPointError(
            f"{wrong} in {where}{reason}; {advice or f'try a lower learning rate{hint}'}"
        )
    if metrics.get("loss_scale", 1) < 1:
        raise FloatingPointError(
            f"the gradients overflow float16 at any loss scale, {where}; {float16_advice}"
        )
