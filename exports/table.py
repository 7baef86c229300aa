"""Four cells: a dense and a pruned network, in float32 and int8, as TFLite files."""

import contextlib
import os
import tempfile

import numpy as np

from exports.evaluation import Exported, evaluated
from exports.exporting import export
from exports.formats import TFLITE
from exports.process import Running
from exports.targets import size_of

TYPES = ("float32", "int8")
UNTIMED = 3  # calls before the timed ones
CALLS = 5  # timed calls of one file, until it is the next one's turn
LEAST_ROUNDS = 10


def cells(exportables, data, samples, *, threads, seconds, batch_size, track):
    """list of dicts, one per network and type: network, type, top1, images, bytes, ms.

    ms is the median time of a call with one image. The files take turns, each in its own process,
    so that other load on the machine affects them alike.

    Args:
        exportables: dict "dense" or "pruned" -> Exportable.
        data: Dataset, for its test set.
        samples: (images to check with, representative images), uint8 [N, H, W, C].
        threads: of the interpreter.
        seconds: timed seconds per file.
        batch_size: images per call of the evaluation.
        track: function of a list and a label, see engine.console.Console.bar.
    """
    found = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        opened = []
        for name, exportable in exportables.items():
            for kind in TYPES:
                path = os.path.join(folder, f"{name}{TFLITE[kind].ending}")
                result = export(exportable, TFLITE[kind], path, *samples)
                running = stack.enter_context(Running(path, "tflite", threads))
                metrics = evaluated(
                    Exported(running, path),
                    data.x_test,
                    data.y_test,
                    batch_size,
                    lambda groups, name=name, kind=kind: track(groups, f"{name}, {kind}"),
                )
                cell = {"network": name, "type": kind, "top1": metrics["top1"]}
                cell |= {"images": metrics["images"], "bytes": size_of(path)}
                found.append(cell | {"difference": result.difference})
                opened.append(running)
        for cell, ms in zip(found, medians_ms(opened, samples[0][:1], seconds)):
            cell["ms"] = ms
    return found


def medians_ms(opened, images, seconds):
    """list of floats: the median time of a call with `images`. opened: list of Running."""
    for running in opened:
        running.answers(images)
        running.milliseconds(UNTIMED)
    times: list[list[float]] = [[] for _ in opened]
    spent = 0.0
    while len(times[0]) < LEAST_ROUNDS * CALLS or spent < 1e3 * seconds * len(opened):
        for own, running in zip(times, opened):
            own.extend(running.milliseconds(CALLS))
            spent += sum(own[-CALLS:])
    return [float(np.median(own)) for own in times]


def table(found):
    """The cells as text, a line per network."""
    lines = ["", *(f"  {name}" for name in dict.fromkeys(cell["network"] for cell in found))]
    for kind in TYPES:
        column = [cell for cell in found if cell["type"] == kind]
        texts = [
            f"{cell['top1']:.2%}  {cell['bytes']:>10,} bytes  {cell['ms']:>8.2f} ms"
            for cell in column
        ]
        width = max(map(len, lines))
        lines = [f"{line:<{width}}    {text}" for line, text in zip(lines, [kind, *texts])]
    return "\n".join(line.rstrip() for line in lines)
