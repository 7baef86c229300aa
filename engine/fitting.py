"""One training as a stage of a run: its data, its records, its checkpoint, and how it goes on and
ends before the end.
"""

import dataclasses

import numpy as np

from dataloader.augment import augment
from engine.checkpoint import Checkpoint, check_parameters, first_not_finite
from engine.console import duration
from engine.feed import Feed
from engine.run import STREAM
from engine.training import Progress, train
from op_utils import Optimizer, training_step


def fit(
    run,
    name,
    network,
    options,
    loss,
    *,
    views=1,
    runtime=None,
    indices=None,
    augmented=True,
    bank=None,
    teacher=None,
    evaluate=True,
):
    """Trains a network as one stage of a run: the one loop of baseline, warm-up and fine-tuning.

    Args:
        run: Run.
        name: of the stage, which seeds its order and names its records and its checkpoint.
        network: Network, trained in place.
        options: TrainOptions.
        loss: loss(batch, logits float32 [b, V, C]) -> float32 [b], see op_utils.training_step.
        views: V, how many views of each image a step sees; colours are changed where there are
            several.
        runtime: where it runs, None for the run's.
        indices: int [n] of the images to train on, None for all.
        augmented: whether views are drawn at random.
        bank: memory bank, whose rows of a batch are batch["bank"]; None without one.
        teacher: Network, whose logits of the same views are batch["answers"]; None without one.
        evaluate: whether every epoch ends with an evaluation on the test set.
    """
    data, runtime = run.data, runtime or run.runtime
    prepare = lambda batch: augment(
        batch["images"], batch["draws"], data.augmentation, colour=views > 1
    )
    optimizer = Optimizer(network.trainable, runtime)
    arrays = {"images": data.x_train, "labels": data.y_train} | (
        {} if bank is None else {"bank": bank}
    )
    feed = Feed(arrays, runtime, run.options.feed.resident_mib, indices)
    step = training_step(network, optimizer, runtime, prepare, loss, feed.tables, teacher)
    checkpoint = Checkpoint(run.folder.unfinished, network, optimizer)
    hooks = _Hooks(
        run, name, options.epochs, feed.steps(options.batch_size), checkpoint, evaluate, bank
    )
    progress = hooks.begin()
    train(
        step,
        feed,
        options,
        seed=[run.options.seed, STREAM[name]],
        views=views,
        augmented=augmented,
        steps_per_call=run.options.feed.steps_per_call,
        progress=progress,
        bar=lambda label, total: run.console.bar((), f"{name} {label}", total),
        on_step=hooks.on_step,
        after_call=hooks.after_call,
        on_epoch=hooks.on_epoch,
        why=hooks.why,
        precision_flag=runtime.precision_flag,
    )
    # the step, which refers to itself, would keep them on the device until it is collected
    feed.tables.clear()


class _Hooks:
    """What happens between the calls of a training: its records, its checkpoint, its end before the
    end.
    """

    def __init__(self, run, name, epochs, steps, checkpoint, evaluate, bank):
        self.run, self.name, self.epochs, self.steps, self.checkpoint, self.bank = (
            run,
            name,
            epochs,
            steps,
            checkpoint,
            bank,
        )
        self.evaluator = run.evaluator(checkpoint.network) if evaluate else None
        self.progress = Progress()

    def begin(self):
        """The Progress to begin with: that of the checkpoint, if a former start has left one."""
        run = self.run
        if run.folder.begun(self.name):
            self.progress, seconds = self.checkpoint.restore(self.epochs, self.steps)
            run.folder.goes_on(seconds)
            step = f", step {self.progress.step} of the next" if self.progress.step else ""
            run.console.say(f"  {self.name} goes on after epoch {self.progress.epoch}{step}")
        run.check_same(dataclasses.asdict(self.progress), self.checkpoint.path)
        known = lambda line: line["stage"] != self.name or line["epoch"] <= self.progress.epoch
        with run.runtime.machines.together():
            run.folder.start_lines("training.jsonl", keep=known)
        return self.progress

    def save(self, progress):
        self.run.broken.save()
        if self.run.folder.writes:
            self.checkpoint.save(progress, self.run.folder.seconds)

    def on_step(self, number, figures):
        if self.run.options.log_every and number % self.run.options.log_every == 0:
            self.run.board.scalars(f"{self.name}/step", figures, number)

    def after_call(self, progress):
        self.progress = progress
        self.run.stop_if_asked(lambda: self.save(progress))

    def on_epoch(self, record, then):
        run, name, reached = self.run, self.name, self.progress
        stop = lambda: run.stop_if_asked(lambda: self.save(reached))
        test = ""
        check_parameters(self.checkpoint.network.parameters())
        if self.evaluator:
            track = lambda batches: run.console.bar(batches, f"{name} test", after=stop)
            record |= {
                f"test_{key}": value
                for key, value in self.evaluator(track).items()
                if key != "images"
            }
            test = f", test loss {record['test_loss']:.4f} top-1 {record['test_top1']:.2%}"
        if run.data.encoded:
            record["broken"] = run.broken.count()
        # The record comes first: one too many is dropped when the run goes on, one that is missing
        # would stay so.
        run.folder.add_line("training.jsonl", {"stage": name, **record})
        try:
            run.board.scalars(name, record, record["epoch"])
        finally:
            self.save(then)
        run.console.say(
            f"  {name} epoch {record['epoch']}/{self.epochs}: loss {record['loss']:.4f}, accuracy"
            f" {record['accuracy']:.2%}{test}, {duration(record['seconds'])}"
        )
        run.stop_if_asked()

    def why(self, images):
        """What is known of a loss that is not finite, and what to do: the first layer, or what was
        wrong with the data.
        """
        if self.bank is not None and not np.isfinite(self.bank[images]).all():
            return (
                ": its rows of the memory bank are not finite",
                "delete memory_bank.npy to build it again",
            )
        # After more steps in the same call the weights are lost, and every layer with them.
        layer = (
            first_not_finite(self.checkpoint.network)
            if self.run.options.feed.steps_per_call == 1
            else ""
        )
        return f", first in {layer}" if layer else "", ""
