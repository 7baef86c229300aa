"""The loss around a network along two random directions (METHOD 12), resumable row by row."""

import numpy as np

from analysis.curvature import loss_step, mean_loss
from ekg.extraction import sliced
from ekg.importance import split
from files.npz import load_npz
from nets import build_network
from utils import UserError, digest, whole_file, write_json

AXES = 2  # d1 and d2


def filter_normalised(direction, kernel, axis):
    """`direction` with every filter scaled to the norm of the filter of `kernel` that it moves.

    direction, kernel: arrays of one shape; axis: along which the filters lie. A filter of zeros
    does not move.
    """
    others = tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim)
    norm = lambda array: np.sqrt(np.sum(np.square(array, dtype=np.float64), others, keepdims=True))
    length = norm(direction)
    return direction * np.divide(norm(kernel), length, where=length > 0, out=np.zeros_like(length))


def directions(loaded, whole, seed):
    """d1 and d2: a list of two dicts variable name -> float32 array, for the kernels alone.

    They are drawn for the unpruned shapes of `whole` and sliced to the filters that the network
    has, so networks with other filters move along the same directions.

    Args:
        loaded: analysis.subjects.Loaded.
        whole: Network with all filters.
        seed: int.
    """
    keep = kept(loaded, whole)
    layers = {layer.path: layer for layer in loaded.network.network_layers}
    drawn = []
    for axis in range(AXES):
        rng, arrays = np.random.default_rng([seed, axis]), {}
        for layer in whole.network_layers:
            if "kernel" not in layer.arrays:
                continue
            full = rng.standard_normal(layer.arrays["kernel"].shape)
            if layer.path not in layers or "kernel" not in layers[layer.path].arrays:
                continue  # drawn all the same, so that the layers behind it move alike
            kernel = layers[layer.path].arrays["kernel"].numpy()
            part = sliced(full, layer.gated["kernel"], keep)
            arrays[layer.path] = filter_normalised(part, kernel, layer.filter_axis)
        drawn.append(arrays)
    return drawn


def kept(loaded, whole):
    """list of bool [C], one per gate of `whole`: the filters that the network has.

    If they are unknown, they count as the first of their gate.
    """
    if loaded.masks is not None:
        return [mask > 0 for mask in split(loaded.masks, whole.gate_sizes)]
    # By name: a network may lack blocks, and the gates inside them.
    own = {gate.name: gate.size for gate in loaded.network.gates}
    return [np.arange(gate.size) < own.get(gate.name, 0) for gate in whole.gates]


def whole_of(loaded):
    """The Network whose shapes directions are drawn for."""
    network = loaded.network
    if loaded.supernet is not None:
        return loaded.supernet
    shape = network.arch, network.classes, network.input_size
    variant = dict(padding=network.padding, width_multiplier=network.width_multiplier)
    return build_network(*shape, **variant)


def axis(options):
    """float64 [points], the grid along a direction; its middle is exactly 0."""
    half = options.points // 2
    return options.range * np.arange(-half, half + 1) / half


class Surface:
    """The loss of a network at theta + a d1 + b d2.

    Args:
        network: Network.
        moves: from `directions`.
        step: from analysis.curvature.loss_step, of this network.
        images: Images.
    """

    def __init__(self, network, moves, step, images):
        kernels = {
            layer.path: layer.arrays["kernel"]
            for layer in network.network_layers
            if layer.path in moves[0]
        }
        self.moved = [
            (kernel, kernel.numpy(), *(move[path] for move in moves))
            for path, kernel in kernels.items()
        ]
        self.step, self.images = step, images

    def __call__(self, a, b):
        """The mean cross-entropy at (a, b), float. The network is as before afterwards."""
        try:
            for kernel, origin, d1, d2 in self.moved:
                kernel.assign((origin + a * d1 + b * d2).astype(np.float32))
            return mean_loss(self.step, self.images)
        finally:
            for kernel, origin, *_ in self.moved:
                kernel.assign(origin)


def measure(setting, found, options, folder):
    """dict of `networks` and arrays `alpha` [A], `beta` [A], `loss` [n, A, A]; written as grid.npz
    and result.json.

    Args:
        setting: analysis.setting.Setting.
        found: list of Subject.
        options: LandscapeOptions.
        folder: AnalysisFolder.
    """
    along = axis(options)
    loss = np.full((len(found), len(along), len(along)), np.nan)
    networks = []
    for i, subject in enumerate(found):
        loaded = setting.load(subject)
        path = folder.file(f"{subject.name}-{loaded.digest[:8]}.npz")
        loss[i] = _rows(setting, loaded, options, path)
        file = subject.described.path
        origin = float(loss[i][len(along) // 2, len(along) // 2])
        networks.append(
            {"name": subject.name, "file": file, "digest": loaded.digest, "loss": origin}
        )
    folder.delete("result.json")  # it would name former networks beside the new grid
    with whole_file(folder.file("grid.npz")) as file:
        np.savez(file, alpha=along, beta=along, loss=loss, complete=True)
    result = {"networks": networks, "seed": options.seed, "range": options.range}
    result |= {"points": options.points, "images": len(setting.images)}
    result |= {"split": setting.image.split}
    write_json(folder.file("result.json"), result)
    return {"networks": networks, "alpha": along, "beta": along, "loss": loss}


def _rows(setting, loaded, options, path):
    """float64 [A, A], the losses of one network, computed row by row; `path` keeps them."""
    along = axis(options)
    loss = np.full((len(along), len(along)), np.nan)
    done = 0
    moves = directions(loaded, whole_of(loaded), options.seed)
    # Which filters a network kept decides its directions; the digest in the name does not tell.
    identity = digest(
        {f"{i} {name}": a for i, move in enumerate(moves) for name, a in move.items()}
    )
    try:
        saved = load_npz(path, ("loss", "rows", "directions"))
        done, rows = int(saved["rows"]), saved["loss"]
        if rows.shape != loss.shape or not 0 <= done <= len(along):
            raise ValueError(f"it has {rows.shape[0]} rows")
        if str(saved["directions"]) == identity:
            loss = rows.astype(np.float64)
        else:
            done = 0
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to start again") from error
    step = loss_step(loaded.network, setting.runtime, setting.prepare)
    surface = Surface(loaded.network, moves, step, setting.images)
    points = len(along) ** 2
    with setting.bar(loaded.subject.name, points) as progress:
        for row in range(done, len(along)):
            for column in range(len(along)):
                loss[row, column] = surface(along[row], along[column])
                progress.show(loss=float(loss[row, column]))
                progress.to(row * len(along) + column + 1)
            with whole_file(path) as file:
                np.savez(file, loss=loss, rows=row + 1, directions=np.array(identity))
    return loss
