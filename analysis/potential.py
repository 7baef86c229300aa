"""Potential performance of random sub-networks (METHOD 12), resumable per sub-network.

All sub-networks come from one supernet and have the same FLOPs. What can be known of them before
fine-tuning is compared with their test loss after it.
"""

import contextlib
import dataclasses
import gc

from analysis import pictures
from analysis.correlation import correlations
from analysis.folder import AnalysisFolder
from analysis.hessian import measure
from analysis.images import select, stratified
from analysis.options import CurvatureOptions
from analysis.setting import Setting, check_one_machine
from dataloader.augment import augment
from ekg import stages
from ekg.contrastive import plain_loss
from ekg.preparation import opened
from ekg.search_stage import search
from engine.feed import Feed
from engine.run_files import CONFIG, read_object
from engine.training import train
from op_utils import Optimizer, training_step
from utils import UserError, digest, write_json

STREAM = 5  # of random numbers: fine-tuning of sub-networks; the stages of a run have the others
PREDICTORS = ("val_loss", "condition_number")
ENTRY = {"digest": str, "test_loss": (int, float), "test_top1": (int, float)} | dict.fromkeys(
    PREDICTORS, (int, float)
)


@dataclasses.dataclass(frozen=True)
class PotentialOptions:
    """What decides the results besides the run.

    Args:
        curvature: CurvatureOptions.
        tuning_images: training images of the fine-tuning, stratified: the same number per class,
            as far as possible (analysis.images.stratified); 0 for all.
    """

    curvature: CurvatureOptions
    tuning_images: int


def measure_potential(options, asked, command):
    """Searches random sub-networks, measures and fine-tunes each, and writes the results.

    Args:
        options: Options of the run; its search is `random`; all sub-networks get its fine-tuning.
        asked: PotentialOptions.
        command: text of the command line.

    Raises UserError for mistakes in the command.
    """
    check_one_machine()
    with opened(options) as run:
        # Everything that can fail is tried before the first stage.
        setting = _setting(run, asked)
        indices = _tuning_images(run, asked)
        start = stages.baseline(run)
        supernet = stages.warm_up(run, start)
        history = search(run, supernet)
        folder = _folder(run, asked, supernet, history, command)
        with contextlib.closing(folder):
            entries = []
            where = _Place(run, setting, supernet, folder, asked, indices)
            for number, member in enumerate(history[1:]):
                new = not folder.has(_file(number))
                entries.append(_entry(where, number, member))
                run.console.say(_line(number, len(history) - 1, entries[-1]))
                if new or len(entries) == len(history) - 1:
                    _write(run, folder, entries)
                if new:
                    gc.collect()  # steps refer to themselves


def _folder(run, asked, supernet, history, command):
    """The AnalysisFolder of these sub-networks, in the run folder."""
    decisive = dataclasses.asdict(asked.curvature) | {"tuning_images": asked.tuning_images}
    del decisive["batch_size"]  # it changes no result
    # Results are kept by number: they are of exactly these sub-networks.
    masks = {f"{i}": member.masks(supernet.gate_sizes) for i, member in enumerate(history)}
    decisive["sub_networks"] = digest(supernet.parameters() | masks)
    decisive["data"] = run.data.digest
    path, overwrite = run.options.train_path, run.options.overwrite
    config = read_object(path, "config.json", CONFIG)
    decisive["run"] = config and config["options"]  # the fine-tuning is among them
    made_with = {"command": command}
    return AnalysisFolder(path, "potential", decisive, made_with, overwrite, flag="--train_path")


def _setting(run, asked):
    """The Setting of the Hessian, on the run's devices."""
    image = asked.curvature.image
    size = min(asked.curvature.batch_size, image.images)
    run.runtime.check_batch("--image_batch_size", size)
    images = select(run.data, image.split, image.images, image.seed, size)
    # Curvature in half precision would be another figure.
    runtime = dataclasses.replace(run.runtime, precision="float32", sync_bn=False)
    return Setting(run.data, runtime, image, images, run.console)


def _tuning_images(run, asked):
    """int64 [n], the images of the fine-tuning; None for all."""
    if not asked.tuning_images:
        return None
    if asked.tuning_images > len(run.data.y_train):
        raise UserError(
            f"--tuning_images {asked.tuning_images}: there are only {len(run.data.y_train):,}"
            " training images"
        )
    return stratified(run.data.y_train, asked.tuning_images, run.options.seed)


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the sub-networks share: see `measure_potential`."""

    run: object
    setting: Setting
    supernet: object
    folder: AnalysisFolder
    asked: PotentialOptions
    indices: object


def _file(number):
    """The name of the file with the results of a sub-network."""
    return f"sub-network-{number:03d}.json"


def _entry(where, number, member):
    """dict (JSON) about one sub-network; read if an earlier start has measured it.

    member: ekg.history.SubNetwork.
    """
    name = f"sub-network-{number:03d}"
    known = where.folder.read(_file(number), ENTRY)
    if known is not None:
        return known
    run = where.run
    network = stages.extracted(run, where.supernet, member)
    identity = digest(network.parameters())
    options = where.asked.curvature.hessian
    hessian = where.setting.hessian(network, options.hessian_over, bar=_stoppable(run))
    facts = {"digest": identity, "number": number}
    curvature = measure(hessian, options, where.folder, f"{name}.hessian", facts, where.setting.bar)
    _fine_tune(run, network, where.indices)
    tested = run.evaluator(network)(lambda batches: run.bar(batches, "evaluation"))
    entry = {
        **facts,
        "flops_rate": network.cost()[0] / where.supernet.cost()[0],
        "val_loss": member.loss,  # of the masked network on D_val, as the search sees it
        "condition_number": curvature["condition_number"],
        "curvature": {key: curvature[key] for key in CURVATURE},
        "test_loss": tested["loss"],
        "test_top1": tested["top1"],
    }
    write_json(where.folder.file(_file(number)), entry)
    where.folder.delete(f"{name}.hessian.json")
    return entry


CURVATURE = ("loss", "lambda_max", "lambda_min", "residual_max", "residual_min", "converged")


def _stoppable(run):
    """A function of a list of batches that yields them, and stops on a signal between two."""

    def batches(items):
        for item in items:
            yield item
            run.stop_if_asked(loop="images")

    return batches


def _fine_tune(run, network, indices):
    """The fine-tuning that all sub-networks are given, with the same draws: labels, one view.

    It is not saved: a resumed start begins it again.
    """
    data, runtime, options = run.data, run.runtime, run.options.fine_tuning
    prepare = lambda batch: augment(
        batch["images"], batch["draws"], data.augmentation, colour=False
    )
    loss = lambda batch, logits: plain_loss(batch, logits, options.label_smoothing)
    arrays = {"images": data.x_train, "labels": data.y_train}
    feed = Feed(arrays, runtime, run.options.feed.resident_mib, indices)
    optimizer = Optimizer(network.trainable, runtime)
    step = training_step(network, optimizer, runtime, prepare, loss, feed.tables)
    train(
        step,
        feed,
        options,
        seed=[run.options.seed, STREAM],
        steps_per_call=run.options.feed.steps_per_call,
        bar=lambda label, total: run.console.bar((), f"fine-tuning {label}", total),
        after_call=lambda progress: run.stop_if_asked(loop="fine-tuning"),
        precision_flag=runtime.precision_flag,
    )
    feed.tables.clear()  # the step refers to itself and keeps its tables otherwise


def _line(number, count, entry):
    return (
        f"  sub-network {number + 1}/{count}: validation loss {entry['val_loss']:.4f}, condition"
        f" number {entry['condition_number']:.4f}; fine-tuned: test loss {entry['test_loss']:.4f},"
        f" top-1 {entry['test_top1']:.2%}"
    )


def _write(run, folder, entries):
    """Writes correlations and scatter plots of the sub-networks so far."""
    potential = [entry["test_loss"] for entry in entries]
    found = {key: correlations([entry[key] for entry in entries], potential) for key in PREDICTORS}
    write_json(folder.file("correlations.json"), {"n": len(entries), **found})
    text = pictures.draw_potential(folder.file("potential.png"), entries, found)
    if len(entries) == run.options.search.samples:
        for key, label in zip(PREDICTORS, ("validation loss", "condition number")):
            for name, value in found[key].items():
                run.console.say(f"  {label:17} {name:9} {_interval(value)}")
        run.console.say(f"  {text}\nresults in {folder.path}")


def _interval(found):
    if found is None:
        return "not known: too few sub-networks, or all alike"
    return f"{found['value']:+.2f}  [{found['low']:+.2f}, {found['high']:+.2f}]  n = {found['n']}"
