"""One training as a stage of a run: its data, records and checkpoint; how it resumes and how it
stops early.
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

LATE = 10  # steps whose figures are fetched together from a GPU


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
    """Trains a network as one stage of a run: baseline, warm-up or fine-tuning.

    Args:
        run: Run.
        name: of the stage; it selects the random stream, the records and the checkpoint file.
        network: Network, trained in place.
        options: TrainOptions.
        loss: loss(batch, logits float32 [b, V, C]) -> float32 [b], see op_utils.training_step.
        views: V, views of each image per step; colours are changed only if V > 1.
        runtime: where it runs, None for run.runtime.
        indices: int [n] of the images to train on, None for all.
        augmented: whether views are drawn at random.
        bank: memory bank, its rows are batch["bank"]; None without one.
        teacher: Network, its logits of the same views are batch["answers"]; None without one.
        evaluate: whether to evaluate on the test set after every epoch.
    """
    data, runtime = run.data, runtime or run.runtime
    colour = views > 1 and data.augmentation.colour
    prepare = lambda batch: augment(batch["images"], batch["draws"], data.augmentation, colour)
    optimizer = Optimizer(network.trainable, runtime)
    arrays = {"images": data.x_train, "labels": data.y_train} | (
        {} if bank is None else {"bank": bank}
    )
    feed = Feed(arrays, runtime, run.options.feed.resident_mib, indices)
    parts = prepare, loss, feed.tables, teacher, run.networks.task.right
    step = training_step(network, optimizer, runtime, *parts)
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
        late=hooks.late,
    )
    # The step refers to itself: without this its tables stay on the device until the garbage
    # collector runs.
    feed.tables.clear()


class _Hooks:
    """What happens between the calls of a training: records, checkpoints, stopping on a signal.

    Args:
        run: Run.
        name: of the stage.
        epochs: number of epochs.
        steps: steps per epoch.
        checkpoint: Checkpoint of the training.
        evaluate: whether to evaluate on the test set after every epoch.
        bank: memory bank, None without one.
    """

    def __init__(self, run, name, epochs, steps, checkpoint, evaluate, bank):
        self.run, self.name, self.epochs, self.steps = run, name, epochs, steps
        self.checkpoint, self.bank = checkpoint, bank
        self.evaluator = run.evaluator(checkpoint.network) if evaluate else None
        self.progress = Progress()
        # A CPU has computed a step when its call returns, so nothing waits.
        self.late = max(1, LATE // run.options.feed.steps_per_call) if run.runtime.gpu else 1

    def begin(self):
        """The Progress to start from: that of the checkpoint, if an earlier start has left one."""
        run = self.run
        if run.folder.begun(self.name):
            self.progress, seconds = self.checkpoint.restore(self.epochs, self.steps)
            run.folder.resumed_after(seconds)
            step = f", step {self.progress.step} of the next" if self.progress.step else ""
            run.console.say(f"  {self.name} resumes after epoch {self.progress.epoch}{step}")
        run.check_same(dataclasses.asdict(self.progress), self.checkpoint.path)
        known = lambda line: line["stage"] != self.name or line["epoch"] <= self.progress.epoch
        with run.runtime.machines.together():
            run.folder.start_lines("training.jsonl", keep=known)
        return self.progress

    def save(self, progress):
        self.run.broken.save()
        if self.run.folder.writes:
            self.checkpoint.save(progress, self.run.folder.seconds)

    def on_step(self, number, metrics):
        if self.run.options.log_every and number % self.run.options.log_every == 0:
            self.run.board.scalars(f"{self.name}/step", metrics, number)

    def after_call(self, progress):
        self.progress = progress

        def save():
            progress.settle()
            self.save(progress)

        self.run.stop_if_asked(save, loop=self.name)

    def on_epoch(self, record, then):
        run, name, reached = self.run, self.name, self.progress
        stop = lambda: run.stop_if_asked(lambda: self.save(reached), loop=f"{name} test")
        test = ""
        check_parameters(self.checkpoint.network.parameters())
        if self.evaluator:
            track = lambda batches: run.console.bar(batches, f"{name} test", after=stop)
            record |= {
                f"test_{key}": value
                for key, value in self.evaluator(track).items()
                if key != "images"
            }
            name_of = run.networks.task.accuracy_name
            test = f", test loss {record['test_loss']:.4f} {name_of} {record['test_top1']:.2%}"
        if run.data.encoded:
            record["broken"] = run.broken.count()
        # Order matters: the record is written before the checkpoint. A resumed run drops a record
        # too many, but cannot make up a missing one.
        run.folder.add_line("training.jsonl", {"stage": name, **record})
        try:
            run.board.scalars(name, record, record["epoch"])
        finally:
            self.save(then)
        run.console.say(
            f"  {name} epoch {record['epoch']}/{self.epochs}: loss {record['loss']:.4f}, accuracy"
            f" {record['accuracy']:.2%}{test}, {duration(record['seconds'])}"
        )
        if record["epoch"] == self.epochs > 1 and run.folder.writes:
            self._warn_if_worse()
        run.stop_if_asked(loop=f"{name} epoch")

    def _warn_if_worse(self):
        """Says so if the last epoch was worse than the first, in loss and in accuracy."""
        lines = self.run.folder.lines("training.jsonl")
        first, *_, last = (line for line in lines if line["stage"] == self.name)
        if last["loss"] > first["loss"] and last["accuracy"] < first["accuracy"]:
            self.run.console.say(
                f"  {self.name} made the network worse: in its first epoch loss"
                f" {first['loss']:.4f}, accuracy {first['accuracy']:.2%}, in its last"
                f" {last['loss']:.4f}, {last['accuracy']:.2%}; try a lower learning rate"
            )

    def why(self, images):
        """(reason, advice) for a loss that is not finite: its first layer, or faulty data."""
        if self.bank is not None and not np.isfinite(self.bank[images]).all():
            return (
                ": its rows of the memory bank are not finite",
                "delete memory_bank.npy to build it again",
            )
        # Where figures of several steps come together, later steps have spoilt every layer by now.
        alone = self.run.options.feed.steps_per_call == self.late == 1
        layer = first_not_finite(self.checkpoint.network) if alone else ""
        return f", first in {layer}" if layer else "", ""
