"""Landscapes: directions, surfaces that are known, resuming."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny
from networks import randomised
from small_network import FLAT, Small

from analysis.folder import AnalysisFolder
from analysis.images import Images
from analysis.landscape import Surface, axis, directions, filter_normalised, measure, whole_of
from analysis.options import ImageOptions, LandscapeOptions
from analysis.subjects import Loaded
from ekg.extraction import extract
from ekg.importance import first_filters, split
from engine.console import Silent
from nets import build_network
from nets.gates import Context
from utils import UserError

pytestmark = pytest.mark.long


def supernet():
    return Small(randomised(Small().parameters(), 1))


def pruned(flat=FLAT):
    """A Loaded sub-network of the small network."""
    whole = supernet()
    return Loaded(None, Small(extract(whole, flat)), whole, flat)


def unpruned():
    whole = supernet()
    return Loaded(None, whole, whole, np.ones(len(FLAT), np.float32))


FILTER_AXES = {"a": 3, "b": 2, "c": 3, "fc": 1}  # a convolution, depthwise, 1x1, fully connected


def kernels(network):
    return {name: network.parameters()[f"{name}/kernel:0"] for name in FILTER_AXES}


def filters(array, axis):
    """float64 [filters, weights of each]"""
    return np.moveaxis(np.float64(array), axis, 0).reshape(array.shape[axis], -1)


# --------------------------------------------------------------------------------------- directions


@pytest.mark.parametrize("points, end", [(3, 1.0), (51, 1.0), (7, 0.3), (101, 0.7)])
def test_the_middle_of_an_axis_is_exactly_0(points, end):
    along = axis(LandscapeOptions(points, end, 0))
    assert len(along) == points and along[points // 2] == 0
    assert (along[0], along[-1]) == (-end, end)
    np.testing.assert_array_equal(along, -along[::-1])
    np.testing.assert_allclose(np.diff(along), 2 * end / (points - 1), rtol=1e-12)


@pytest.mark.parametrize("loaded", [pruned, unpruned])
def test_every_filter_of_a_direction_has_the_norm_of_the_filter_it_moves(loaded):
    loaded = loaded()
    moves = directions(loaded, whole_of(loaded), 0)
    assert len(moves) == 2
    for move in moves:
        assert move.keys() == FILTER_AXES.keys()
        for name, kernel in kernels(loaded.network).items():
            assert move[name].shape == kernel.shape
            ours = np.linalg.norm(filters(move[name], FILTER_AXES[name]), axis=1)
            theirs = np.linalg.norm(filters(kernel, FILTER_AXES[name]), axis=1)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_filter_of_zeros_does_not_move():
    kernel = np.ones((3, 3, 2, 4), np.float32)
    kernel[..., 1] = 0
    moved = filter_normalised(np.random.default_rng(0).standard_normal(kernel.shape), kernel, -1)
    assert np.isfinite(moved).all() and not moved[..., 1].any() and moved[..., 0].all()


def test_directions_follow_the_seed_and_are_almost_orthogonal():
    loaded = unpruned()
    flat = lambda move: np.concatenate([array.reshape(-1) for array in move.values()])
    first, second = map(flat, directions(loaded, loaded.supernet, 0))
    again, _ = map(flat, directions(loaded, loaded.supernet, 0))
    other, _ = map(flat, directions(loaded, loaded.supernet, 1))
    np.testing.assert_array_equal(again, first)
    for another in (second, other):
        cosine = first @ another / np.linalg.norm(first) / np.linalg.norm(another)
        assert abs(cosine) < 0.3


def test_directions_of_a_sub_network_are_slices_of_those_of_the_whole():
    """Up to the norm of each filter: networks of other widths move along the same directions."""
    small, whole = pruned(), unpruned()
    a, c = (mask > 0 for mask in split(FLAT, [8, 6]))
    slices = {
        "a": np.ix_(range(3), range(3), range(3), a),
        "b": np.ix_(range(3), range(3), a, [0]),
        "c": np.ix_([0], [0], a, c),
        "fc": np.ix_(c, range(5)),
    }
    ours = directions(small, whole_of(small), 5)
    theirs = directions(whole, whole_of(whole), 5)
    for move, full in zip(ours, theirs):
        for name, places in slices.items():
            part = full[name][places]
            # In the whole kernel a filter was scaled by one factor, here by another one.
            ratio = filters(move[name], FILTER_AXES[name]) / filters(part, FILTER_AXES[name])
            np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], ratio.shape[1], 1), rtol=1e-5)
            assert (ratio > 0).all()


def test_unknown_filters_count_as_the_first_of_their_gate():
    first = np.concatenate([np.arange(8) < 5, np.arange(6) < 4]).astype(np.float32)
    known = pruned(first)
    unknown = Loaded(None, known.network)
    for ours, theirs in zip(
        directions(unknown, known.supernet, 0), directions(known, known.supernet, 0)
    ):
        for name in FILTER_AXES:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_network_without_a_block_moves_as_the_whole_one_elsewhere():
    """Whether the filters that it kept are known, or it is a file from nowhere."""
    whole = build_network("ResNet-8", 10, 32)
    whole = build_network("ResNet-8", 10, 32, randomised(whole.parameters(), 0))
    filters = whole.gate_sizes.copy()
    filters[whole.branches.index("BasicBlock1.0")] = 0
    flat = first_filters(whole.gate_sizes, filters)
    less = build_network("ResNet-8", 10, 32, extract(whole, flat))
    known, unknown = Loaded(None, less, whole, flat), Loaded(None, less)
    of_whole = Loaded(None, whole, whole, np.ones_like(flat))
    for ours, theirs, full in zip(
        directions(known, whole, 0), directions(unknown, whole, 0), directions(of_whole, whole, 0)
    ):
        gone = {"BasicBlock1.0/conv1", "BasicBlock1.0/conv2"}
        assert ours.keys() == theirs.keys() == full.keys() - gone
        for name, move in ours.items():
            np.testing.assert_array_equal(move, theirs[name])
            np.testing.assert_allclose(move, full[name], rtol=1e-5)  # these filters are all there


def test_the_whole_of_a_network_from_nowhere_is_as_wide_as_its_architecture():
    whole = whole_of(Loaded(None, tiny.resnet_8()))
    assert whole.gate_sizes.tolist() == [16, 16, 32, 32, 64, 64]


# ----------------------------------------------------------------------------------------- surfaces


class Quadratic:
    """Two kernels and a bias, with the loss 1 + sum(weights * kernel^2) in two batches."""

    def __init__(self):
        rng = np.random.default_rng(0)
        layer = lambda path, size: types.SimpleNamespace(
            path=path,
            arrays={
                "kernel": tf.Variable(rng.normal(size=size).astype(np.float32)),
                "biases": tf.Variable(np.ones((1, 4), np.float32)),
            },
        )
        self.network_layers = [layer("one", (2, 3)), layer("two", (3, 3, 2, 2))]
        self.weights = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3, 2, 2))]
        self.moves = [
            {
                layer.path: rng.normal(size=layer.arrays["kernel"].shape)
                for layer in self.network_layers
            }
            for _ in range(2)
        ]
        self.images = Images(np.zeros((4, 1, 1, 3), np.uint8), np.arange(4), 2)

    def kernels(self):
        return [layer.arrays["kernel"].numpy() for layer in self.network_layers]

    def step(self, batch):
        squares = sum(
            np.sum(w * k.astype(float) ** 2) for w, k in zip(self.weights, self.kernels())
        )
        return {"loss": (1 + squares) * batch["weights"].sum()}, {}

    def at(self, a, b):
        moved = [
            k + a * self.moves[0][layer.path] + b * self.moves[1][layer.path]
            for k, layer in zip(self.kernels(), self.network_layers)
        ]
        return 1 + sum(np.sum(w * k**2) for w, k in zip(self.weights, moved))


def test_a_quadratic_has_its_known_surface():
    toy = Quadratic()
    surface = Surface(toy, toy.moves, toy.step, toy.images)
    for a, b in ((0, 0), (1, 0), (0, 1), (-0.5, 0.25), (0.7, -1)):
        assert surface(a, b) == pytest.approx(toy.at(a, b), rel=1e-5)
    assert surface(0.3, 0.6) != pytest.approx(surface(0.6, 0.3), rel=1e-3), "a is d1's"


def test_the_network_is_as_before_after_every_point_and_after_a_failure():
    toy, before = Quadratic(), Quadratic().kernels()
    surface = Surface(toy, toy.moves, toy.step, toy.images)
    surface(0.5, -0.5)

    def fails(batch):
        assert any((k != b).any() for k, b in zip(toy.kernels(), before)), "it has moved"
        raise KeyboardInterrupt

    surface.step = fails
    with pytest.raises(KeyboardInterrupt):
        surface(1, 1)
    for kernel, array in zip(toy.kernels(), before):
        np.testing.assert_array_equal(kernel, array)


class Place:
    """A Setting (analysis.setting) of networks that are there already."""

    def __init__(self, runtime, *loaded):
        self.runtime, self.images, self.prepare = runtime, tiny.images(), tiny.given
        self.image = ImageOptions(12, "train", 0)
        self.loaded = dict(zip("xyz", loaded))

    @property
    def found(self):
        described = types.SimpleNamespace(path="file.pkl")
        return [types.SimpleNamespace(name=name, described=described) for name in self.loaded]

    def load(self, subject):
        loaded = self.loaded[subject.name]
        return Loaded(subject, loaded.network, loaded.supernet, loaded.masks)

    def bar(self, label, total):
        return Silent()


OPTIONS = LandscapeOptions(5, 0.5, 3)


def measured(path, place, options=OPTIONS):
    folder = AnalysisFolder(str(path), "landscape", {}, {})
    try:
        return measure(place, place.found, options, folder)
    finally:
        folder.close()


def test_the_origin_has_the_loss_of_the_network(runtime, tmp_path):
    networks = [pruned(), Loaded(None, tiny.depthwise()), unpruned()]
    with pytest.MonkeyPatch.context() as patches:  # this architecture is in no catalogue
        patches.setattr("analysis.landscape.build_network", lambda *_, **__: Small())
        grid = measured(tmp_path, Place(runtime, *networks))
    for entry, loss, loaded in zip(grid["networks"], grid["loss"], networks):
        expected = float(tiny.mean_loss(loaded.network))
        assert loss[2, 2] == entry["loss"] == pytest.approx(expected, rel=1e-5)
        assert np.isfinite(loss).all() and len(np.unique(loss)) == 25
        assert entry["digest"] == loaded.digest
    with np.load(tmp_path / "landscape" / "grid.npz") as saved:
        np.testing.assert_array_equal(saved["loss"], grid["loss"])
        np.testing.assert_array_equal(saved["alpha"], axis(OPTIONS))
        np.testing.assert_array_equal(saved["beta"], axis(OPTIONS))


def test_rows_are_d1_and_columns_d2(runtime, tmp_path):
    loaded = pruned()
    grid = measured(tmp_path, Place(runtime, loaded))
    for row, column in ((0, 4), (3, 1)):
        moved = dict(loaded.network.parameters())
        for scale, move in zip(
            (grid["alpha"][row], grid["beta"][column]),
            directions(loaded, loaded.supernet, OPTIONS.seed),
        ):
            for name, part in move.items():
                moved[f"{name}/kernel:0"] = np.float32(moved[f"{name}/kernel:0"] + scale * part)
        expected = float(tiny.mean_loss(Small(moved)))
        assert grid["loss"][0, row, column] == pytest.approx(expected, rel=1e-4)


def test_kernels_alone_move(runtime, tmp_path, monkeypatch):
    """Biases and vectors of batch norm are as they were at every point, and all is afterwards."""
    loaded, points = pruned(), []
    before = loaded.network.parameters()

    def loss(step, images):
        points.append(loaded.network.parameters())
        return 1.0

    monkeypatch.setattr("analysis.landscape.mean_loss", loss)
    measured(tmp_path, Place(runtime, loaded))
    assert len(points) == 25
    for name, array in before.items():
        np.testing.assert_array_equal(loaded.network.parameters()[name], array)
        moved = [(point[name] != array).any() for point in points]
        assert sum(moved) == (24 if "kernel" in name else 0), name


# ----------------------------------------------------------------------------------------- resuming


def test_interrupted_rows_go_on_with_equal_results(runtime, tmp_path, monkeypatch):
    from analysis import landscape

    networks = pruned(), unpruned()
    whole = measured(tmp_path / "whole", Place(runtime, *networks))
    count, compute = [0], landscape.mean_loss

    def counted(*arguments):
        count[0] += 1
        if count[0] in (13, 30):
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(landscape, "mean_loss", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path, Place(runtime, *networks))
    grid = measured(tmp_path, Place(runtime, *networks))
    np.testing.assert_array_equal(grid["loss"], whole["loss"])
    assert grid["networks"] == whole["networks"]
    # 2 whole rows were there, then 5: only the rest of a row was computed again.
    assert count[0] == 13 + 17 + (50 - 25)
    measured(tmp_path, Place(runtime, *networks))
    assert count[0] == 55, "all rows are there"


def test_rows_along_other_directions_are_computed_anew(runtime, tmp_path):
    """A file of rows is named by the network alone. Its directions follow from the seed, and from
    the filters of the supernet that the network has.
    """
    first = np.concatenate([np.arange(8) < 5, np.arange(6) < 4]).astype(np.float32)
    last = np.concatenate([np.arange(8) >= 3, np.arange(6) >= 2]).astype(np.float32)
    loaded = pruned(first)
    others = Loaded(None, loaded.network, loaded.supernet, last)  # equal arrays, other filters
    assert loaded.digest == others.digest
    seed = dataclasses.replace(OPTIONS, seed=OPTIONS.seed + 1)
    before = measured(tmp_path, Place(runtime, loaded))["loss"]
    for name, network, options in (("seed", loaded, seed), ("filters", others, OPTIONS)):
        fresh = measured(tmp_path / name, Place(runtime, network), options)["loss"]
        again = measured(tmp_path, Place(runtime, network), options)["loss"]
        np.testing.assert_array_equal(again, fresh)
        assert (again != before)[0].any(axis=1).all(), "no row is a former one"


def spoil(path, **changes):
    with np.load(path) as saved:
        arrays = dict(saved) | changes
    np.savez(path, **arrays)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "another grid": lambda path: spoil(path, loss=np.zeros((7, 7))),
    "no grid": lambda path: spoil(path, loss=np.float64(3)),
    "too many rows": lambda path: spoil(path, rows=9),
    "negative rows": lambda path: spoil(path, rows=-1),
    "rows without number": lambda path: spoil(path, rows=np.zeros(3)),
    "words": lambda path: spoil(path, loss=np.full((5, 5), "high")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_rows_is_refused(runtime, tmp_path, damage):
    place = Place(runtime, pruned())
    measured(tmp_path, place)
    (path,) = (tmp_path / "landscape").glob("x-????????.npz")
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=rf"{path.name} is damaged .*; delete it to start again"):
        measured(tmp_path, place)


def test_a_loss_that_is_not_finite_is_a_point_of_the_landscape(runtime, tmp_path):
    loaded = pruned()
    gamma = loaded.network.variables_by_name()["c_bn/gamma:0"]
    gamma.assign(np.full(gamma.shape, 1e38, np.float32))
    grid = measured(tmp_path, Place(runtime, loaded))
    assert not np.isfinite(grid["loss"]).all()
    again = measured(tmp_path, Place(runtime, loaded))
    np.testing.assert_array_equal(again["loss"], grid["loss"])


def test_moving_averages_are_those_of_the_network(runtime, tmp_path):
    """Not the statistics of the batch: one image's loss does not depend on the others."""
    loaded = pruned()
    moving = float(tiny.mean_loss(loaded.network))
    batch = float(tiny.mean_loss(loaded.network, Context("batch")))
    grid = measured(tmp_path, Place(runtime, loaded))
    assert grid["networks"][0]["loss"] == pytest.approx(moving, rel=1e-5) != pytest.approx(batch)
