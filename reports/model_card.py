"""The model card of a network: what it is, how good it is, how it was made."""

import os
import shlex

from reports import values
from reports.runs import called

TRAININGS = {"baseline": ("baseline",), "pruned": ("baseline", "warm_up", "fine_tuning")}


def card(run, side, file, figures, images, command, licence):
    """The text (Markdown) of the card.

    Args:
        run: Run.
        side: one of engine.run_files.SIDES, the network of the run that the file holds.
        file: dict: path, bytes, sha256.
        figures: dict: top1, top5 and loss on the test images; flops, params, flops_rate.
        images: (number of training images, number of test images).
        command: of the run.
        licence: of the file, None if it has none.
    """
    title = run.title
    if side == "pruned":
        title += f", pruned to {values.percent(figures['flops_rate'], 1)} of the FLOPs"
    train, test = map(values.count, images)
    options = run.options
    rows = [
        (
            "file",
            f"`{os.path.basename(file['path'])}`, float16, {values.count(file['bytes'])} bytes",
        ),
        ("SHA-256", f"`{file['sha256']}`"),
        ("top-1", f"**{values.percent(figures['top1'])}**, with moving averages"),
        ("top-5, loss", f"{values.percent(figures['top5'])}, {figures['loss']:.4f}"),
        ("FLOPs", f"{values.count(figures['flops'])} multiply-accumulates per image"),
        ("parameters", values.count(figures["params"])),
        ("data", f"{options['dataset']}: {train} images for training, {test} for testing"),
        ("starts from", run.starts_from),
        ("epochs", _epochs(run, side)),
        ("time", _time(run, side)),
        ("made with", ", ".join(f"{key} {text}" for key, text in run.versions.items())),
        ("licence", licence),
    ]
    lines = [f"# {title}", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {text} |" for key, text in rows if text]
    lines += ["", "The command of the run, and the one that measures this file:", "", "```"]
    lines += [command, _test_command(file["path"], options), "```"]
    return "\n".join(lines) + "\n"


def _test_command(path, options):
    folder, name = os.path.split(os.path.abspath(path))
    path = os.path.join(os.path.basename(folder), name)
    words = ["python", "test.py", "--trained_param", path]
    if options["dataset"] != "DIGITS":
        words += ["--data_path", "DATA"]
    if (options.get("files") or {}).get("val_labels"):
        words += ["--val_labels", "FILE"]
    return shlex.join(words)


def _epochs(run, side):
    counts = {stage: len(run.epochs_of(stage)) for stage in TRAININGS[side]}
    return ", ".join(f"{count} {called(stage)}" for stage, count in counts.items() if count)


def _time(run, side):
    """The time of the stages that lead to the network."""
    stages = [stage for stage in run.stages if side == "pruned" or stage.name == "baseline"]
    return values.time(sum(stage.seconds or 0 for stage in stages) or None)
