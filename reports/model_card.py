"""The model card of a network: what it is, how good it is, how it was made."""

import os
import shlex

from reports import values
from reports.settings import shown, unusual

TRAININGS = {"baseline": ("baseline",), "pruned": ("baseline", "warm_up", "fine_tuning")}


def name_of(run, side):
    """The name of a network's file, without its ending; a baseline's is where runs look for it.

    side: one of engine.run_files.SIDES.
    """
    width = run.options["width_multiplier"] or 1
    width = "" if width == 1 else f"-{width:g}"
    name = f"{run.options['arch']}{width}_{run.options['dataset']}"
    return name if side == "baseline" else f"{name}-{round(100 * run.flops_left)}"


def command_of(run, program, defaults):
    """The command line that makes the run `run` again.

    program: name of the program; defaults: its options, as in a config.json.
    """
    words = []
    for flag, value, _ in unusual(run.options, defaults):
        if isinstance(value, list):
            words += [f"--{flag}", *map(shown, value)]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", shown(value)]
    return shlex.join(["python", f"{program}.py", *words])


def card(run, side, file, measured, images, command, licence):
    """The text (Markdown) of the card.

    Args:
        run: Run.
        side: one of engine.run_files.SIDES, the network of the run that the file holds.
        file: dict: path, bytes, sha256.
        measured: dict: top1, top5 and loss on the test images; flops and params; flops_rate.
        images: (number of training images, number of test images).
        command: that made the run.
        licence: of the file.
    """
    name = os.path.basename(file["path"])
    what = f"{run.title}"
    if side == "pruned":
        what += f", pruned to {values.percent(measured['flops_rate'], 1)} of the FLOPs"
    train, test = map(values.count, images)
    rows = [
        ("file", f"`{name}`, float16, {values.count(file['bytes'])} bytes"),
        ("SHA-256", f"`{file['sha256']}`"),
        ("top-1", f"**{values.percent(measured['top1'])}**, moving averages"),
        ("top-5, loss", f"{values.percent(measured['top5'])}, {measured['loss']:.4f}"),
        ("FLOPs", f"{values.count(measured['flops'])} multiply-accumulates per image"),
        ("parameters", values.count(measured["params"])),
        ("data", f"{run.options['dataset']}: {train} images for training, {test} for the test"),
        ("epochs", _epochs(run, side)),
        ("time", _time(run, side)),
        ("made with", ", ".join(f"{key} {text}" for key, text in run.versions.items())),
        ("licence", licence),
    ]
    lines = [f"# {what}", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {text} |" for key, text in rows if text]
    lines += ["", "The command of the run, and the one that measures the network:", "", "```"]
    lines += [command, f"python test.py --trained_param {file['path']} --data_path DATA", "```"]
    return "\n".join(lines) + "\n"


def _epochs(run, side):
    counts = {stage: len(run.epochs_of(stage)) for stage in TRAININGS[side]}
    return ", ".join(
        f"{count} {stage.replace('_', ' ')}" for stage, count in counts.items() if count
    )


def _time(run, side):
    """The time of the stages that lead to the network."""
    stages = [stage for stage in run.stages if side == "pruned" or stage.name == "baseline"]
    seconds = sum(stage.seconds or 0 for stage in stages)
    return values.time(seconds) if seconds else None
