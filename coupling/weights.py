"""What a run through a model notes down: layers with weights, and the labels of their axes."""

import dataclasses
import typing

import numpy as np


@dataclasses.dataclass
class Weight:
    """A variable of a layer.

    variable: keras.Variable; path: its name in the model, as "block/conv/kernel".
    labels: dict axis (negative) -> int64 [size], the labels along it.
    normed: whether a kernel's output is read by batch norms alone, which undo its scale.
    """

    variable: typing.Any
    path: str
    labels: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    normed: bool = False


@dataclasses.dataclass
class Visited:
    """A layer with weights.

    path: its name in the model, as "block/conv"; layer: keras.Layer; weights: list of Weight.
    ruled: whether there was a rule for it.
    writes: list of (Weight of a kernel, the axis of its filters).
    reads: int64 [channels], the labels of what a layer that writes reads; None for others.
    macs: list of (Weight, n): n multiply-accumulates per image for each number in the weight.
    """

    path: str
    layer: typing.Any
    weights: list[Weight]
    ruled: bool = True
    writes: list[tuple[Weight, int]] = dataclasses.field(default_factory=list)
    reads: np.ndarray | None = None
    macs: list[tuple[Weight, int]] = dataclasses.field(default_factory=list)
