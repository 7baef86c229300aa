"""The time of a network as the sum of its layers' times, measured on a grid of widths (METHOD 13).

engine.layer_timing measures; here is what follows from it, and the file.
"""

import dataclasses
import json

import numpy as np

from files.guards import refusals
from utils import UserError, write_json

# Milliseconds of a network that was not used to find `scale` and `layer_ms`: predicted, measured;
# and those of the dense network, which was.
CHECKED = ("predicted_ms", "measured_ms", "dense_ms")
LARGEST_DEVIATION = 0.1  # of the sum of layers from the whole network


def timed_layers(network):
    """The layers of a network that have a time of their own, in network order."""
    return [layer for layer in network.network_layers if "kernel" in layer.arrays]


def key_of(layer):
    """Text that is equal for layers of a network that take the same time at the same widths."""
    shape = "x".join(map(str, layer.kernel.shape))
    size = getattr(layer, "in_size", 1), getattr(layer, "strides", 1)
    what = f"{type(layer).__name__} {shape}, input {size[0]}, strides {size[1]}"
    after = layer.after.__name__
    return f"{what}, {after}{', shortcut' if layer.adds else ''}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """Milliseconds of one kind of layer.

    Args:
        ins, outs: widths, ascending; one entry where a width cannot change.
        ms: milliseconds, [ins][outs].
        constant_ms: [outs], of what is left where the branch before the shortcut is gone; empty
            for layers without a shortcut.
    """

    ins: list
    outs: list
    ms: list
    constant_ms: list

    def check(self):
        """Raises ValueError unless these are times of ascending widths."""
        for widths in (self.ins, self.outs):
            if not widths or sorted(set(widths)) != list(widths) or widths[0] < 1:
                raise ValueError(f"widths {widths} do not ascend")
        shape = len(self.ins), len(self.outs)
        times = np.array(self.ms, float)
        if times.shape != shape or not np.isfinite(times).all() or times.min() < 0:
            raise ValueError(f"a grid is not {shape[0]} x {shape[1]} times")
        constant = np.array(self.constant_ms, float)
        if constant.shape not in ((0,), shape[1:]) or not np.isfinite(constant).all():
            raise ValueError(f"{len(self.constant_ms)} times of constants for {shape[1]} widths")

    def at(self, width_in, width_out):
        """Milliseconds at these widths, bilinear between points of the grid."""
        by_out = [np.interp(width_in, self.ins, column) for column in zip(*self.ms)]
        return float(np.interp(width_out, self.outs, by_out))

    def constant_at(self, width_out):
        """Milliseconds of what is left without the branch."""
        return float(np.interp(width_out, self.outs, self.constant_ms)) if self.constant_ms else 0.0


def check_line(times):
    """Text: how well the sum of LayerTimes predicts the time of another network."""
    predicted, measured = times.check["predicted_ms"], times.check["measured_ms"]
    off = times.deviation
    text = (
        f"with half of the filters their sum is {predicted:.2f} ms, measured are {measured:.2f} ms"
        f" ({off:+.1%})"
    )
    if times.is_off:
        text += "; more than 10 % apart: is the machine busy?"
    return text


class LayerTimes:
    """Predicts milliseconds per call of a network, at any number of filters.

    setting: dict (JSON), what was measured: network, machine, batch size, precision, threads.
    block: widths are rounded up to a multiple of it, as a pass does.
    scale: factor of all times of the grids.
    layer_ms: what each layer takes within a network in addition, wherever it is.
    grids: dict key (key_of) -> Grid.
    check: dict of float, see CHECKED.
    """

    def __init__(self, setting, block, grids, scale=1.0, layer_ms=0.0, check=None):
        self.setting, self.block, self.grids, self.check = setting, block, grids, check
        self.scale, self.layer_ms = scale, layer_ms
        self._found: dict[tuple, float] = {}

    def ms(self, network, filters=None):
        """Milliseconds per call of `network` when gate i keeps filters[i] filters.

        filters: int [G]; None: as it is.
        """
        return sum(self._layer_ms(layer, filters) for layer in timed_layers(network))

    def _layer_ms(self, layer, filters):
        width = lambda gate: int(gate.size if filters is None else filters[gate.index])
        gates = layer.in_gate, layer.out_gate
        widths = [gate and -(-width(gate) // self.block) * self.block for gate in gates]
        entry = layer.path, *widths
        if entry not in self._found:
            grid = self.grids[key_of(layer)]
            width_in, width_out = (
                side[-1] if width is None else width
                for side, width in zip((grid.ins, grid.outs), widths)
            )
            if not width_in:  # METHOD 13: the branch is gone
                self._found[entry] = self.scale * grid.constant_at(width_out)
            elif not width_out:
                self._found[entry] = 0.0
            else:
                self._found[entry] = self.scale * grid.at(width_in, width_out) + self.layer_ms
        return self._found[entry]

    @property
    def deviation(self):
        """How far the prediction for another network than the dense one was off; 0.1: 10 %."""
        return self.check["predicted_ms"] / self.check["measured_ms"] - 1

    @property
    def is_off(self):
        """Whether that is too much to search by."""
        return abs(self.deviation) > LARGEST_DEVIATION

    def described(self):
        """The JSON of the file."""
        grids = {key: dataclasses.asdict(grid) for key, grid in self.grids.items()}
        own = {"setting": self.setting, "block": self.block, "scale": self.scale}
        return own | {"layer_ms": self.layer_ms, "check": self.check, "layers": grids}

    def save(self, path):
        write_json(path, self.described())

    @classmethod
    def of(cls, described):
        """LayerTimes of the JSON of a file. Raises ValueError for anything else."""
        try:
            grids = {key: Grid(**grid) for key, grid in described["layers"].items()}
            for grid in grids.values():
                grid.check()
            check = {key: float(described["check"][key]) for key in CHECKED}
            scale, layer_ms = float(described["scale"]), float(described["layer_ms"])
            block = int(described["block"])
            if block < 1 or not 0 < scale < np.inf or not 0 <= layer_ms < np.inf:
                raise ValueError(f"block {block}, scale {scale}, layer_ms {layer_ms}")
            return cls(dict(described["setting"]), block, grids, scale, layer_ms, check)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    @classmethod
    def load(cls, path, asked):
        """Reads a file. Raises UserError if it is damaged, or was measured for something else.

        asked: dict, the entries of `setting` that must be those of the file. The machine may be
        another one: then the search is for that machine.
        """
        try:
            with open(path, "rb") as file, refusals():
                times = cls.of(json.load(file))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"{path} holds no times of layers: {error}") from error
        for name, value in asked.items():
            if times.setting.get(name) != value:
                raise UserError(
                    f"{path} was measured for {name} {times.setting.get(name)}, not {value}; choose"
                    " another file, or leave it out to measure here"
                )
        return times
