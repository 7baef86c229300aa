"""Compares an exported file, run in another process, with the network that it was made from."""

import dataclasses

import numpy as np

from exports.process import Running
from utils import UserError

BATCHES = 1, 7  # images per call, in turn: one, and another number


@dataclasses.dataclass(frozen=True)
class Check:
    """What the comparison found.

    Args:
        difference: the greatest one, relative to the largest logit.
        agreement: share of images with the same top-1.
        images: their number.
    """

    difference: float
    agreement: float
    images: int

    @property
    def line(self):
        return (
            f"greatest difference {self.difference:.1e} of the largest logit, top-1 agrees on"
            f" {round(self.agreement * self.images)} of {self.images}"
        )


def check(exportable, wanted, path, images):
    """The Check of the file at `path`.

    Args:
        exportable: Exportable.
        wanted: Format.
        path: str.
        images: uint8 [N, H, W, C], at least two.

    Raises UserError if the file cannot be run, or differs more than its Format allows.
    """
    with Running(path, wanted.opener, called=f"the {wanted.name} file") as running:
        found = answers(running, images)
    expected = exportable.expected(images)
    largest = float(np.abs(expected["logits"]).max())
    # A softmax or sigmoid changes its outputs by no more than its inputs change.
    scales = {"logits": largest, "probabilities": max(1.0, largest)}
    logits = True
    if wanted.opener == "keras":
        logits = exportable.gives_logits
        kind = "logits" if logits else "probabilities"
        expected, scales = {"outputs": expected[kind]}, {"outputs": scales[kind]}
    shapes = lambda named: {name: array.shape for name, array in named.items()}
    if shapes(found) != shapes(expected):
        raise UserError(f"the {wanted.name} file has other outputs than the network; not written")
    main = next(iter(expected))
    off = lambda name: float(np.abs(found[name] - expected[name]).max()) / scales[name]
    difference = max(map(off, expected))
    equal = top1(found[main], logits) == top1(expected[main], logits)
    result = Check(difference, float(equal.mean()), len(images))
    # `not <=`: NaN counts as different.
    if not difference <= wanted.largest_difference or not agree(equal, wanted):
        raise UserError(
            f"the {wanted.name} file differs from the network: {result.line}, where"
            f" {wanted.largest_difference:g} and {wanted.least_agreement:.0%} are the limits; it is"
            " not written"
        )
    return result


def agree(equal, wanted):
    """Whether top-1 is the same often enough. equal: bool [N]; wanted: Format.

    One image may always differ: two of its logits may be nearly equal.
    """
    return (~equal).sum() <= max(1, (1 - wanted.least_agreement) * len(equal))


def answers(running, images):
    """dict name -> array [N, ...] for all images, in calls of BATCHES images in turn."""
    found: list[dict] = []
    start = 0
    while start < len(images):
        size = BATCHES[len(found) % len(BATCHES)]
        found.append(running.answers(images[start : start + size]))
        start += size
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def top1(outputs, logits=True):
    """int [N]: the class of outputs, float32 [N, classes]. logits: whether they are logits.

    A single output is that of class 1, and class 0 is the rest.
    """
    if outputs.shape[-1] > 1:
        return outputs.argmax(-1)
    return (outputs[:, 0] > (0.0 if logits else 0.5)).astype(int)
