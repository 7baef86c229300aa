"""ResNets for ImageNet: costs, gates, initial values, masked equals extracted, paddings."""

import numpy as np
import pytest
import tensorflow as tf
from networks import flat_masks, randomised

from ekg.extraction import extract
from ekg.filter_rule import filters_kept
from ekg.importance import masks
from nets import build_network
from nets.gates import Context
from nets.tcl import Conv2d, conv_padding, max_pool
from utils import UserError

pytestmark = pytest.mark.long

ARCHITECTURES = ("ResNet-18", "ResNet-34", "ResNet-50")
SIZE = 40  # 20, 10, 5, 3, 2: even and odd
COSTS = {  # MACs at 224 with 2 a value of batch norm, parameters, moving averages
    "ResNet-18": (1_819_040_768, 11_689_512, 9_600),
    "ResNet-34": (3_671_237_632, 21_797_672, 17_024),
    "ResNet-50": (4_111_412_224, 25_557_032, 53_120),
}


@pytest.fixture(scope="module")
def whole():
    """dict arch -> the unpruned network of 1,000 classes at 224."""
    return {arch: build_network(arch, 1000, 224) for arch in ARCHITECTURES}


@pytest.fixture(scope="module", params=["SAME", "symmetric"])
def small(request):
    """A ResNet-50 of a quarter of the width, 7 classes, every array random."""
    network = build_network("ResNet-50", 7, SIZE, padding=request.param)
    sizes = network.gate_sizes
    kept = filters_kept(sizes, np.full(len(sizes), 0.25))
    quarter = masks(sizes, kept, np.concatenate([np.arange(n) for n in sizes]))
    return build_network(
        "ResNet-50", 7, SIZE, randomised(extract(network, quarter), 3), padding=request.param
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((8, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_costs(whole, arch):
    """Papers' parameters leave the moving averages out."""
    flops, params, averages = COSTS[arch]
    assert whole[arch].cost() == (flops, params + averages)
    assert whole[arch].moving_averages() == averages
    assert whole[arch].cost()[1] == sum(array.size for array in whole[arch].parameters().values())


def gates_of(blocks, inner, project_first, expansion):
    """(name, size, uses) of every gate, as section 1a of the method has them."""
    gates = [("conv", 64, 1 if project_first else 1 + blocks[0])]
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, width = f"BasicBlock{stage}.{block}", 64 << stage
            if block == 0 and (stage > 0 or project_first):
                gates.append((f"{name}/conv3", expansion * width, 1 + count))
            gates += [(f"{name}/{conv}", width, 1) for conv in inner]
    return gates


GATES = {
    "ResNet-18": gates_of((2, 2, 2, 2), ["conv1"], False, 1),
    "ResNet-34": gates_of((3, 4, 6, 3), ["conv1"], False, 1),
    "ResNet-50": gates_of((3, 4, 6, 3), ["conv0", "conv1"], True, 4),
}


@pytest.mark.parametrize("arch, count", list(zip(ARCHITECTURES, (12, 20, 37))))
def test_gates(whole, arch, count):
    gates = [(gate.name, gate.size, gate.uses) for gate in whole[arch].gates]
    assert gates == GATES[arch] and len(gates) == count
    # Every convolution writes through one gate, so that each of them can be dropped from.
    assert sum(uses for *_, uses in gates) == sum(
        isinstance(layer, Conv2d) for layer in whole[arch].network_layers
    )


def test_gates_of_the_first_blocks_of_resnet_50(whole):
    """Written out, against a mistake that the list above shares."""
    assert [(gate.name, gate.size, gate.uses) for gate in whole["ResNet-50"].gates][:10] == [
        ("conv", 64, 1),
        ("BasicBlock0.0/conv3", 256, 4),
        ("BasicBlock0.0/conv0", 64, 1),
        ("BasicBlock0.0/conv1", 64, 1),
        ("BasicBlock0.1/conv0", 64, 1),
        ("BasicBlock0.1/conv1", 64, 1),
        ("BasicBlock0.2/conv0", 64, 1),
        ("BasicBlock0.2/conv1", 64, 1),
        ("BasicBlock1.0/conv3", 512, 5),
        ("BasicBlock1.0/conv0", 128, 1),
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_last_batch_norm_of_a_block_starts_at_gamma_0(whole, arch):
    zero = [bn.path for bn in whole[arch].batch_norms if not bn.arrays["gamma"].numpy().any()]
    assert zero == [
        f"{part.layers[0].path.partition('/')[0]}/bn2" for part in whole[arch].parts[1:-1]
    ]


def test_sizes(whole):
    """The stride of a bottleneck is its conv1's."""
    layers = {layer.path: layer for layer in whole["ResNet-50"].network_layers}
    assert layers["conv"].out_size == 112 and whole["ResNet-50"].parts[0].out_size == 56
    assert [layers[f"BasicBlock1.0/conv{n}"].out_size for n in (3, 0, 1, 2)] == [28, 56, 28, 28]
    assert layers["BasicBlock3.2/conv2"].out_size == 7


@pytest.mark.parametrize("seed", range(2))
def test_masked_equals_extracted(small, x, seed):
    rates, flat = flat_masks(small, seed)
    pruned = build_network("ResNet-50", 7, SIZE, extract(small, flat), padding=small.padding)
    masked = small(x, Context("batch", small.split_masks(flat))).numpy()
    extracted = pruned(x, Context("batch")).numpy()
    assert np.abs(masked - extracted).max() <= 1e-4 * np.abs(masked).max()
    assert masked.std(0).max() > 1e-3  # the images tell
    filters = filters_kept(small.gate_sizes, rates)
    assert pruned.cost() == small.cost(
        filters
    ) and pruned.moving_averages() == small.moving_averages(filters)
    left_out = small(x, Context("batch", small.split_masks(flat), drop=True, multiple=8)).numpy()
    assert np.abs(masked - left_out).max() <= 1e-4 * np.abs(masked).max()


def test_a_probe_at_every_place_where_a_gate_masks(small, x):
    """One at an inner convolution, one a block at a stream's gate; the stem's own where a
    projection follows it.
    """
    _, flat = flat_masks(small, 0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        ctx = Context("batch", small.split_masks(flat), tape)
        loss = tf.reduce_sum(small(x, ctx) ** 2)
    places = {
        gate.name: gate.uses - gate.name.endswith("conv3") for gate in small.gates
    }  # a projection's output adds none
    assert [len(probes) for probes in ctx.probes] == list(places.values())
    for probes, mask in zip(tape.gradient(loss, ctx.probes), small.split_masks(flat)):
        score = np.sum(probes, 0)
        assert score[mask.numpy() > 0].any() and not score[mask.numpy() == 0].any()


def test_probes_of_a_stream_that_begins_at_the_stem():
    network = build_network("ResNet-18", 7, 32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        ctx = Context("batch", network.split_masks(tf.ones([network.gate_sizes.sum()])), tape)
        network(np.zeros((2, 32, 32, 3), np.float32), ctx)
    assert [len(probes) for probes in ctx.probes] == [3, 1, 1, *[2, 1, 1] * 3]


@pytest.mark.parametrize("size", [32, 33, 57, 64])
def test_any_size_from_32_up(small, size):
    images = np.random.default_rng(2).standard_normal((2, size, size, 3)).astype(np.float32)
    network = build_network("ResNet-50", 7, size, small.parameters(), padding=small.padding)
    x, ctx = tf.constant(images), Context("moving")
    for part in network.parts[:-1]:
        x = part(x, ctx)
        assert x.shape == [2, part.out_size, part.out_size, part.out_gate.size]
    assert np.isfinite(network.parts[-1](x, ctx)).all()


@pytest.mark.parametrize(
    "small", [pytest.param("SAME", marks=pytest.mark.slow), "symmetric"], indirect=True
)
def test_compiled_equals_eager(small, x):
    compiled = tf.function(lambda images: small(images, Context("batch")), jit_compile=True)
    eager = small(x, Context("batch")).numpy()
    assert np.abs(compiled(x) - eager).max() <= 1e-3 * np.abs(eager).max()


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kernel_size", [3, 7])
def test_symmetric_padding_is_the_same_on_all_sides(kernel_size, size):
    """By hand: the output at (i, j) is the sum of the window around (2i, 2j)."""
    x = np.random.default_rng(0).standard_normal((1, size, size, 1)).astype(np.float32)
    ones, half = np.ones((kernel_size, kernel_size, 1, 1), np.float32), kernel_size // 2
    y = tf.nn.conv2d(x, ones, 2, conv_padding("symmetric", kernel_size, 2)).numpy()[0, ..., 0]
    pooled = max_pool(np.abs(x), kernel_size, 2, "symmetric").numpy()[0, ..., 0]
    padded = np.pad(x[0, ..., 0], half)
    assert y.shape == pooled.shape == ((size + 1) // 2,) * 2
    for (i, j), value in np.ndenumerate(y):
        window = padded[2 * i : 2 * i + kernel_size, 2 * j : 2 * j + kernel_size]
        assert (
            value == pytest.approx(window.sum(), abs=1e-4) and pooled[i, j] == np.abs(window).max()
        )


def test_paddings_differ_at_even_sizes(whole):
    """Or a file built in the wrong one would never be noticed."""
    x = np.random.default_rng(4).standard_normal((2, 64, 64, 3)).astype(np.float32)
    parameters = randomised(build_network("ResNet-18", 7, 64).parameters(), 5)
    same, symmetric = (
        build_network("ResNet-18", 7, 64, parameters, padding=padding)(x, Context("moving")).numpy()
        for padding in ("SAME", "symmetric")
    )
    assert np.abs(same - symmetric).max() > 0.01 * np.abs(same).max()
    assert (
        build_network("ResNet-20", 10, 32, padding="symmetric").cost()
        == build_network("ResNet-20", 10, 32).cost()
    )


def test_an_unknown_padding_is_refused():
    with pytest.raises(
        UserError, match=r"mine.pkl was saved for padding 'VALID', not SAME or symmetric"
    ):
        build_network("ResNet-20", 10, 32, origin="mine.pkl", padding="VALID")
