"""Times of layers: their sum at any widths, their file, and that they are measured."""

import json

import numpy as np
import pytest
from layer_times_by_hand import times_of

from ekg.extraction import extract
from ekg.filter_rule import filters_kept
from ekg.importance import first_filters
from engine.layer_times import LayerTimes, key_of, timed_layers
from engine.layer_timing import measure, setting_of
from nets import build_network
from utils import UserError


@pytest.fixture(scope="module")
def network():
    return build_network("ResNet-8", 10, 32)


def expected(network, filters, scale=1.0, layer_ms=0.0):
    total = 0.0
    for layer in timed_layers(network):
        sizes = layer.kernel.shape[-2:]
        gates = zip((layer.in_gate, layer.out_gate), sizes)
        a, b = (size if gate is None else filters[gate.index] for gate, size in gates)
        if a and b:
            total += scale * (a + 10 * b) + layer_ms
        elif b:
            total += scale * b
    return total


def test_the_sum_follows_the_widths(network):
    rng = np.random.default_rng(0)
    numbers = dict(scale=0.5, layer_ms=3.0)
    times = times_of(network, **numbers)
    assert times.ms(network) == pytest.approx(expected(network, network.gate_sizes, **numbers))
    for _ in range(5):
        filters = [rng.integers(1, size + 1) for size in network.gate_sizes]
        assert times.ms(network, filters) == pytest.approx(expected(network, filters, **numbers))


def test_widths_are_rounded_up_as_in_a_pass(network):
    times = times_of(network, block=8)
    filters = [9] * len(network.gates)
    assert times.ms(network, filters) == pytest.approx(expected(network, [16] * len(filters)))


def test_a_block_that_is_gone_takes_the_time_of_its_constant(network):
    filters = network.gate_sizes.copy()
    filters[network.branches.index("BasicBlock1.0")] = 0
    assert times_of(network).ms(network, filters) == pytest.approx(expected(network, filters))


def test_the_file_holds_everything(network, tmp_path):
    times = times_of(network, block=8, scale=0.9, layer_ms=0.1)
    path = str(tmp_path / "layers.json")
    times.save(path)
    again = LayerTimes.load(path, {"arch": "ResNet-8"})
    assert again.described() == times.described()
    assert again.ms(network) == times.ms(network)
    assert again.deviation == pytest.approx(-0.1)


def test_a_file_of_something_else_is_refused(network, tmp_path):
    path = str(tmp_path / "layers.json")
    times_of(network).save(path)
    with pytest.raises(UserError, match="measured for arch ResNet-8, not ResNet-20"):
        LayerTimes.load(path, {"arch": "ResNet-20"})
    with pytest.raises(UserError, match="No such file"):
        LayerTimes.load(str(tmp_path / "missing.json"), {})
    whole = json.load(open(path))
    grid = next(iter(whole["layers"].values()))
    damaged = [
        "garbage",
        json.dumps([]),
        json.dumps({name: value for name, value in whole.items() if name != "layers"}),
        json.dumps(whole | {"layers": {"a": grid | {"ms": [[1.0]]}}}),
        json.dumps(whole | {"layers": {"a": grid | {"ms": [["x"] * len(grid["outs"])]}}}),
        json.dumps(whole | {"check": {}}),
        json.dumps(whole | {"block": 0}),
        json.dumps(whole | {"scale": 0.0}),
        json.dumps(whole | {"layer_ms": -1.0}),
        json.dumps(whole | {"layers": {"a": grid | {"constant_ms": [1.0]}}}),
        json.dumps(whole | {"layers": {"a": grid | {"outs": grid["outs"][::-1]}}}),
        json.dumps(whole | {"layers": {"a": grid | {"ins": []}}}),
    ]
    for text in damaged:
        (tmp_path / "layers.json").write_text(text)
        with pytest.raises(UserError, match="holds no times of layers"):
            LayerTimes.load(path, {})


@pytest.mark.long
@pytest.mark.parametrize("arch", ["ResNet-8", "MobileNet-v2"])
def test_layers_are_measured(arch, runtime, monkeypatch):
    """By construction the sum is right for the dense network; other widths are in the grids."""
    monkeypatch.setattr("engine.layer_timing.POINTS", 1)
    monkeypatch.setattr("engine.layer_timing.COPIES", ((1e6, 2), (float("inf"), 1)))
    monkeypatch.setattr("engine.layer_timing.SECONDS", 0.0)
    monkeypatch.setattr("engine.layer_timing.SECONDS_WHOLE", 0.0)
    width = 0.1 if arch == "MobileNet-v2" else 1.0
    network = build_network(arch, 10, 32, width_multiplier=width)
    sizes = network.gate_sizes
    filters = filters_kept(sizes, [0.5] * len(sizes))
    arrays = extract(network, first_filters(sizes, filters))
    half = build_network(arch, 10, 32, arrays, width_multiplier=width)
    tracked = []
    times = measure(
        network, (filters, half), runtime, 2, lambda kinds: tracked.extend(kinds) or kinds
    )
    assert (
        len(tracked) == len(times.grids) == len({key_of(layer) for layer in timed_layers(network)})
    )
    assert times.ms(network) == pytest.approx(times.check["dense_ms"], rel=1e-6)
    assert times.setting.items() >= setting_of(network, runtime, 2).items()
    assert times.setting["threads"] >= 1 and times.setting["hardware"]
    for layer in timed_layers(network):
        grid = times.grids[key_of(layer)]
        assert np.shape(grid.ms) == (len(grid.ins), len(grid.outs))
        assert len(grid.constant_ms) == (len(grid.outs) if layer.adds else 0)
        if layer.in_gate is not None:
            assert all(width % times.block == 0 for width in grid.ins)
            assert grid.ins[-1] >= layer.in_gate.size
    json.dumps(times.described())
