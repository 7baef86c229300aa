"""ResNets: costs, gates, and how they open parameter files."""

import numpy as np
import pytest

from ekg.extraction import extract
from ekg.filter_rule import filters_kept
from ekg.importance import masks
from nets import build_network, unpruned_cost, variant_of
from utils import UserError


@pytest.mark.parametrize(
    "arch, flops, params",
    [
        ("ResNet-8", 12673664, 78714),
        ("ResNet-20", 41214592, 274042),
        ("ResNet-56", 126837376, 860026),
    ],
)
def test_costs(arch, flops, params):
    assert build_network(arch, 10, 32).cost() == (flops, params)


@pytest.mark.long
@pytest.mark.parametrize(
    "arch, width, sizes",
    [
        ("ResNet-20", 2, [32] * 4 + [64] * 4 + [128] * 4),
        ("ResNet-20", 0.25, [8] * 8 + [16] * 4),
        ("ResNet-18", 0.3, [24] * 3 + [40] * 3 + [80] * 3 + [152] * 3),
    ],
)
def test_a_width_multiplier_scales_every_width(arch, width, sizes):
    """To multiples of 8, which keep to 90 % at least: 0.3 times 64, 128, 256 and 512 are 19.2,
    38.4, 76.8 and 153.6.
    """
    network = build_network(arch, 10, 32, width_multiplier=width)
    assert sorted(gate.size for gate in network.gates) == sizes
    assert [gate.uses for gate in network.gates] == [
        gate.uses for gate in build_network(arch, 10, 32).gates
    ]
    assert unpruned_cost(arch, 10, 32, width) == network.cost() != unpruned_cost(arch, 10, 32)


def test_no_file_is_wider_than_its_network():
    wide, whole = (
        build_network("ResNet-20", 10, 32, width_multiplier=width).parameters() for width in (2, 1)
    )
    said = (
        r"does not fit ResNet-20: conv/kernel:0 is \[3, 3, 3, 32\], expected \[3, 3, 3, up to 16\]"
    )
    with pytest.raises(UserError, match=said):
        build_network("ResNet-20", 10, 32, wide)
    with pytest.raises(
        UserError, match=r"does not fit ResNet-20 of width 0.5: conv/kernel:0 .*, up to 8\]"
    ):
        build_network("ResNet-20", 10, 32, whole, width_multiplier=0.5)
    assert build_network("ResNet-20", 10, 32, whole, width_multiplier=2).cost() == unpruned_cost(
        "ResNet-20", 10, 32
    )


@pytest.mark.parametrize("width", ["wide", None, True, 0, -1, 16.5, float("nan"), [0.5]], ids=str)
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(
        UserError,
        match=r"^mine.pkl was saved for width multiplier '.*', not one above 0 and at most 16$",
    ):
        variant_of({"width_multiplier": width}, "mine.pkl")


def test_the_variant_is_the_files():
    """Or the one asked for, where the file says nothing of its width."""
    assert variant_of({}, "mine.pkl") == {"padding": "SAME", "width_multiplier": 1}
    assert variant_of({}, "mine.pkl", 0.5) == {"padding": "SAME", "width_multiplier": 0.5}
    said = {"padding": "symmetric", "width_multiplier": 0.5}
    assert variant_of(said, "mine.pkl") == variant_of(said, "mine.pkl", 0.5) == said
    with pytest.raises(
        UserError, match=r"mine\.pkl was saved for --width_multiplier 0\.5, not 1\.0"
    ):
        variant_of(said, "mine.pkl", 1.0)


def test_gates_of_resnet_56():
    network = build_network("ResNet-56", 10, 32)
    names = [gate.name for gate in network.gates]
    assert len(names) == 30
    assert (
        names[0] == "conv"
        and names[1] == "BasicBlock0.0/conv1"
        and names[10:12] == ["BasicBlock1.0/conv3", "BasicBlock1.0/conv1"]
    )
    uses = {gate.name: gate.uses for gate in network.gates}
    assert [uses[name] for name in ("conv", "BasicBlock1.0/conv3", "BasicBlock2.0/conv3")] == [
        10,
        10,
        10,
    ]
    assert sum(uses.values()) == 30 + 27


@pytest.mark.long
def test_initial_values():
    """He-normal over fan-out; the last BN of a block has gamma 0; seeds give other values."""
    parameters = build_network("ResNet-56", 10, 32, seed=1).parameters()
    kernel = parameters["BasicBlock2.3/conv1/kernel:0"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert (
        not parameters["BasicBlock0.0/bn2/gamma:0"].any()
        and parameters["BasicBlock0.0/bn1/gamma:0"].all()
    )
    assert parameters["fc/kernel:0"].std() == pytest.approx(0.01, rel=0.1)
    again, other = (build_network("ResNet-56", 10, 32, seed=seed).parameters() for seed in (1, 2))
    np.testing.assert_array_equal(again["conv/kernel:0"], parameters["conv/kernel:0"])
    assert (other["conv/kernel:0"] != parameters["conv/kernel:0"]).all()


def test_a_pruned_file_opens_with_no_further_word(network):
    rng = np.random.default_rng(2)
    sizes = network.gate_sizes
    rates = rng.uniform(0.1, 1, len(sizes))
    order = np.concatenate([rng.permutation(n) for n in sizes])
    pruned = extract(network, masks(sizes, filters_kept(sizes, rates), order))
    opened = build_network("ResNet-20", 10, 32, pruned)
    assert opened.cost()[0] < network.cost()[0]
    for name, array in opened.parameters().items():
        np.testing.assert_array_equal(array, pruned[name])


def _without(parameters):
    del parameters["BasicBlock1.0/bn3/beta:0"]


def _other_width(parameters):
    parameters["BasicBlock1.1/conv2/kernel:0"] = parameters["BasicBlock1.1/conv2/kernel:0"][
        ..., :20
    ]


def _flat(parameters):
    parameters["bn/gamma:0"] = parameters["bn/gamma:0"].reshape(-1)


def _empty(parameters):
    parameters["BasicBlock0.0/conv1/kernel:0"] = parameters["BasicBlock0.0/conv1/kernel:0"][..., :0]


@pytest.mark.parametrize(
    "damage, said",
    [
        (_without, "has no BasicBlock1.0/bn3/beta:0"),
        (
            _other_width,
            r"BasicBlock1.1/conv2/kernel:0 is \[3, 3, 32, 20\], expected \[3, 3, 32, 32\]",
        ),
        (_flat, r"bn/gamma:0 is \[16\], expected \[1, 1, 1, 16\]"),
        (
            _empty,
            r"BasicBlock0.0/conv1/kernel:0 is \[3, 3, 16, 0\], expected \[3, 3, 16, up to 16\]",
        ),
    ],
)
def test_a_file_that_does_not_fit_names_the_first_mismatch(network, damage, said):
    parameters = network.parameters()
    damage(parameters)
    with pytest.raises(UserError, match=said):
        build_network("ResNet-20", 10, 32, parameters)


def test_another_depth_is_no_fit(network):
    deep = build_network("ResNet-56", 10, 32).parameters()
    with pytest.raises(
        UserError, match=r"has BasicBlock0.3/conv1/kernel:0, which ResNet-20 does not have"
    ):
        build_network("ResNet-20", 10, 32, deep)
    with pytest.raises(UserError, match=r"has no BasicBlock0.3/conv1/kernel:0"):
        build_network("ResNet-56", 10, 32, network.parameters())


def test_other_keys_are_none_of_ours(network):
    parameters = network.parameters() | {"global_step": np.zeros(1), "sgd/momentum": np.zeros(3)}
    build_network("ResNet-20", 10, 32, parameters)
