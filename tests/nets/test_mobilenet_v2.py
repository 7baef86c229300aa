"""MobileNet-v2: costs, gates, shortcuts, masked equals extracted, scores against plain arithmetic,
widths.
"""

import numpy as np
import pytest
import tensorflow as tf
from networks import flat_masks, randomised

from ekg.extraction import extract
from ekg.filter_rule import filters_kept
from ekg.importance import importance, masks
from ekg.sub_networks import SubNetworks
from nets import build_network
from nets.batch_norm import BN_EPSILON, BatchNorm
from nets.gates import Context
from nets.tcl import Conv2d, DepthwiseConv2d, conv_padding

pytestmark = pytest.mark.long

SMALL_IMAGES, IMAGENET = "MobileNet-v2", "MobileNet-v2-ImageNet"
COSTS = {  # MACs with 2 a value of batch norm, parameters, moving averages
    (IMAGENET, 1000, 224, 1.0): (314_130_496, 3_504_872, 34_112),
    (IMAGENET, 1000, 224, 0.5): (104_412_064, 1_968_680, 18_544),
    (IMAGENET, 1000, 224, 1.4): (601_342_672, 6_108_776, 47_936),
    (SMALL_IMAGES, 10, 32, 1.0): (91_256_320, 2_236_682, 34_112),
    (SMALL_IMAGES, 10, 32, 0.5): (29_805_568, 700_490, 18_544),
}
GATES = [  # name, size, uses
    ("conv", 32, 2),
    ("0.0/conv2", 16, 1),
    ("1.0/conv0", 96, 2),
    ("1.0/conv2", 24, 2),
    ("1.1/conv0", 144, 2),
    ("2.0/conv0", 144, 2),
    ("2.0/conv2", 32, 3),
    ("2.1/conv0", 192, 2),
    ("2.2/conv0", 192, 2),
    ("3.0/conv0", 192, 2),
    ("3.0/conv2", 64, 4),
    *((f"3.{block}/conv0", 384, 2) for block in (1, 2, 3)),
    ("4.0/conv0", 384, 2),
    ("4.0/conv2", 96, 3),
    *((f"4.{block}/conv0", 576, 2) for block in (1, 2)),
    ("5.0/conv0", 576, 2),
    ("5.0/conv2", 160, 3),
    *((f"5.{block}/conv0", 960, 2) for block in (1, 2)),
    ("6.0/conv0", 960, 2),
    ("6.0/conv2", 320, 1),
    ("conv_last", 1280, 1),
]
SHORTCUTS = [0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0]  # of the 17 blocks at width 1


def gates_of(network):
    return [
        (gate.name.removeprefix("InvertedResidual"), gate.size, gate.uses) for gate in network.gates
    ]


def shortcuts_of(network):
    return [part.shortcut for part in network.parts[1:-2]]


@pytest.fixture(scope="module")
def whole():
    """dict arch -> the unpruned network at width 1."""
    return {
        arch: build_network(arch, classes, size)
        for arch, classes, size, width in COSTS
        if width == 1
    }


@pytest.fixture(
    scope="module", params=[(SMALL_IMAGES, 16, "SAME"), (IMAGENET, 40, "symmetric")], ids=str
)
def small(request):
    """A tenth of the width, 7 classes, every array random."""
    arch, size, padding = request.param
    settings = dict(padding=padding, width_multiplier=0.1)
    return build_network(
        arch,
        7,
        size,
        randomised(build_network(arch, 7, size, **settings).parameters(), 3),
        **settings,
    )


def like(network, parameters):
    """The network of `parameters` in what else makes `network`."""
    settings = dict(padding=network.padding, width_multiplier=network.width_multiplier)
    return build_network(network.arch, network.classes, network.input_size, parameters, **settings)


def images_for(network, count=8):
    size = network.input_size
    return np.random.default_rng(2).standard_normal((count, size, size, 3)).astype(np.float32)


# --------------------------------------------------------------------------------------- what it is


@pytest.mark.parametrize("which", COSTS, ids=str)
def test_costs(which):
    """Papers' parameters leave the moving averages out."""
    arch, classes, size, width = which
    network = build_network(arch, classes, size, width_multiplier=width)
    flops, params, averages = COSTS[which]
    assert network.cost() == (flops, params + averages) and network.moving_averages() == averages
    assert network.cost()[1] == sum(array.size for array in network.parameters().values())


def test_costs_without_batch_norm_are_the_reference_implementations(whole):
    layers = whole[IMAGENET].network_layers
    assert sum(layer.macs() for layer in layers if not isinstance(layer, BatchNorm)) == 300_774_272


@pytest.mark.parametrize("arch", [SMALL_IMAGES, IMAGENET])
def test_gates(whole, arch):
    network = whole[arch]
    assert gates_of(network) == GATES
    convs = [
        layer for layer in network.network_layers if isinstance(layer, (Conv2d, DepthwiseConv2d))
    ]
    assert sum(gate.uses for gate in network.gates) == len(convs) == 52  # each writes through one


def test_layers_of_a_block(whole):
    """Each once, as they are called in parameter files; kernels of depthwise convolutions are [3,
    3, C, 1].
    """
    blocks = {part.layers[0].path.partition("/")[0]: part for part in whole[IMAGENET].parts[1:-2]}
    assert (
        list(blocks)[:3] == ["InvertedResidual0.0", "InvertedResidual1.0", "InvertedResidual1.1"]
        and len(blocks) == 17
    )
    names = lambda block: [layer.path.partition("/")[2] for layer in blocks[block].layers]
    assert names("InvertedResidual0.0") == ["conv1", "bn1", "conv2", "bn2"]
    assert names("InvertedResidual1.0") == ["conv0", "bn0", "conv1", "bn1", "conv2", "bn2"]
    assert blocks["InvertedResidual1.0"].layers[2].arrays["kernel"].shape == [3, 3, 96, 1]
    ends = [layer.path for part in whole[IMAGENET].parts[-2:] for layer in part.layers]
    assert ends == ["conv_last", "bn_last", "fc"]


@pytest.mark.parametrize(
    "arch, sizes",
    [
        (SMALL_IMAGES, [32, 32, 32, 16, 8, 8, 4, 4, 4]),
        (IMAGENET, [112, 112, 56, 28, 14, 14, 7, 7, 7]),
    ],
)
def test_sizes(whole, arch, sizes):
    """Of the stem, the first block of each stage, the last convolution; the depthwise convolution
    carries the stride.
    """
    stem, *blocks, last, _ = whole[arch].parts
    first = [block for block in blocks if block.layers[0].path.partition("/")[0].endswith(".0")]
    assert [part.out_size for part in (stem, *first, last)] == sizes
    assert [block.layers[0].out_size for block in first[1:]] == sizes[1:-2]


@pytest.mark.parametrize("arch", [SMALL_IMAGES, IMAGENET])
def test_blocks_with_a_shortcut_start_as_the_identity(whole, arch):
    zero = {bn.path for bn in whole[arch].batch_norms if not bn.arrays["gamma"].numpy().any()}
    assert shortcuts_of(whole[arch]) == [bool(has) for has in SHORTCUTS]
    blocks = whole[arch].parts[1:-2]
    assert zero == {block.bn2.path for block, has in zip(blocks, SHORTCUTS) if has}


# ------------------------------------------------------------------------------------------- widths


def test_runs_join_where_widths_are_equal():
    """At 0.1 all of 32, 16, 24, 32 and 64 channels are 8, and both 96 and 160 are 16; strides still
    end a run.
    """
    network = build_network(SMALL_IMAGES, 10, 32, width_multiplier=0.1)
    streams = [gate for gate in gates_of(network) if not gate[0].endswith("conv0")]
    # The stem's: its own, the depthwise convolution behind it, and the projections of 0.0, 1.0 and
    # 1.1.
    expected = [
        ("conv", 8, 5),
        ("2.0/conv2", 8, 3),
        ("3.0/conv2", 8, 4),
        ("4.0/conv2", 16, 3),
        ("5.0/conv2", 16, 3),
    ]
    assert streams == [*expected, ("6.0/conv2", 32, 1), ("conv_last", 1280, 1)]
    on_imagenet = build_network(IMAGENET, 10, 32, width_multiplier=0.1)
    assert gates_of(on_imagenet)[0] == ("conv", 8, 3) and gates_of(on_imagenet)[2] == (
        "1.0/conv2",
        8,
        2,
    )


@pytest.mark.parametrize(
    "width, streams",
    [(0.75, (24, 16, 24, 24, 48, 72, 120, 240)), (1.4, (48, 24, 32, 48, 88, 136, 224, 448))],
)
def test_widths_are_the_reference_implementations(width, streams):
    """Multiples of 8 that lose no more than a tenth; the last convolution is never narrower than
    1280.
    """
    sizes = {
        name: size
        for name, size, _ in gates_of(build_network(IMAGENET, 10, 32, width_multiplier=width))
    }
    names = ("conv", *(f"{stage}.0/conv2" for stage in range(7)))
    found = [sizes.get(name) for name in names]
    assert found == list(streams)
    assert (
        sizes["conv_last"] == max(1280, int(1280 * width)) and sizes["1.0/conv0"] == 6 * streams[1]
    )


def test_shortcuts_do_not_depend_on_pruned_widths(whole):
    """Every stream pruned to 8 filters: blocks that change the stream's width still have no
    shortcut.
    """
    network = whole[SMALL_IMAGES]
    network = like(network, randomised(network.parameters(), 2))
    sizes = network.gate_sizes
    rates = [
        min(1, 8 / size) if gate.name.endswith(("conv", "conv2")) else 0.25
        for gate, size in zip(network.gates, sizes)
    ]
    flat = masks(sizes, filters_kept(sizes, rates), np.concatenate([np.arange(n) for n in sizes]))
    pruned = like(network, extract(network, flat))
    assert {gate.size for gate in pruned.gates if gate.name.endswith(("conv", "conv2"))} == {8}
    assert shortcuts_of(pruned) == shortcuts_of(network)
    x = images_for(network, 4)
    masked = network(x, Context("batch", network.split_masks(flat))).numpy()
    assert np.abs(masked - pruned(x, Context("batch"))).max() <= 1e-4 * np.abs(masked).max()


def test_another_width_is_another_network():
    """Of the same arrays, or a file built at the wrong width would never be noticed."""
    narrow = build_network(SMALL_IMAGES, 7, 16, width_multiplier=0.1)
    parameters, x = randomised(narrow.parameters(), 2), images_for(narrow)
    ours, wrong = (
        build_network(SMALL_IMAGES, 7, 16, parameters, width_multiplier=w)(x, Context("batch"))
        for w in (0.1, 1.0)
    )
    assert np.abs(ours - wrong).max() > 0.1 * np.abs(ours).max()


# ------------------------------------------------------------------------------------------ pruning


@pytest.mark.parametrize("seed", range(2))
def test_masked_equals_extracted(small, seed):
    x, (rates, flat) = images_for(small), flat_masks(small, seed)
    pruned = like(small, extract(small, flat))
    masked = small(x, Context("batch", small.split_masks(flat))).numpy()
    assert np.abs(masked - pruned(x, Context("batch"))).max() <= 1e-4 * np.abs(masked).max()
    assert masked.std(0).max() > 1e-3  # the images tell
    filters = filters_kept(small.gate_sizes, rates)
    assert pruned.cost() == small.cost(
        filters
    ) and pruned.moving_averages() == small.moving_averages(filters)
    assert pruned.layer_filters() == small.layer_filters(filters)
    left_out = small(x, Context("batch", small.split_masks(flat), drop=True, multiple=8)).numpy()
    assert np.abs(masked - left_out).max() <= 1e-4 * np.abs(masked).max()


def plainly(network, flat, x, tape):
    """(logits, dict gate name -> masked activations [B, H, W, C], one a use): section 1a of the
    method word by word.

    Masks lie on kernels and on activations, and on nothing of batch norm.
    """
    p = {name.removesuffix(":0"): value for name, value in network.parameters().items()}
    mask = {gate.name: value for gate, value in zip(network.gates, network.split_masks(flat))}
    uses = {name: [] for name in mask}

    def masked(y, gate):
        y = y * mask[gate]
        tape.watch(y)
        uses[gate].append(y)
        return y

    def kernel(name, before, behind):
        k = p[f"{name}/kernel"]
        left = (
            k
            * (mask[before].numpy()[:, None] if before else 1)
            * (mask[behind].numpy() if behind else 1)
        )
        return left * np.linalg.norm(k) / np.linalg.norm(left)

    def norm(y, name):
        mean, variance = tf.nn.moments(y, [0, 1, 2])
        return tf.nn.batch_normalization(
            y, mean, variance, p[f"{name}/beta"], p[f"{name}/gamma"], BN_EPSILON
        )

    pads = lambda stride: conv_padding(network.padding, 3, stride)
    strides = {SMALL_IMAGES: (1, 1, 1, 2, 2, 1, 2, 1), IMAGENET: (2, 1, 2, 2, 2, 1, 2, 1)}[
        network.arch
    ]
    y = tf.nn.conv2d(x, kernel("conv", None, "conv"), strides[0], pads(strides[0]))
    stream, y = "conv", masked(tf.nn.relu6(norm(y, "bn")), "conv")
    width = network.scaled(32)
    for stage, (channels, count) in enumerate(
        zip((16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1))
    ):
        for block in range(count):
            name, stride, before, inner = (
                f"InvertedResidual{stage}.{block}",
                strides[stage + 1] if block == 0 else 1,
                y,
                stream,
            )
            if stage:
                inner = f"{name}/conv0"
                y = masked(
                    tf.nn.relu6(
                        norm(
                            tf.nn.conv2d(y, kernel(inner, stream, inner), 1, "SAME"), f"{name}/bn0"
                        )
                    ),
                    inner,
                )
            depthwise = kernel(f"{name}/conv1", inner, None)
            y = tf.nn.depthwise_conv2d(y, depthwise, [1, stride, stride, 1], pads(stride))
            y = masked(tf.nn.relu6(norm(y, f"{name}/bn1")), inner)
            adds = stride == 1 and width == network.scaled(channels)
            behind = stream if adds else f"{name}/conv2"
            y = norm(
                tf.nn.conv2d(y, kernel(f"{name}/conv2", inner, behind), 1, "SAME"), f"{name}/bn2"
            )
            stream, width, y = (
                behind,
                network.scaled(channels),
                masked(y + before if adds else y, behind),
            )
    y = masked(
        tf.nn.relu6(
            norm(tf.nn.conv2d(y, kernel("conv_last", stream, "conv_last"), 1, "SAME"), "bn_last")
        ),
        "conv_last",
    )
    k = p["fc/kernel"]
    left = k * mask["conv_last"].numpy()[:, None]
    return tf.reduce_mean(y, [1, 2]) @ (left * np.linalg.norm(k) / np.linalg.norm(left)) + p[
        "fc/biases"
    ], uses


def test_scores_are_those_of_plain_arithmetic(small):
    """Eq. 9: over every use of a gate, the absolute value of the sum over B, H, W of dy * y."""
    x, (_, flat) = images_for(small), flat_masks(small, 4)
    with tf.GradientTape() as tape:
        logits, uses = plainly(small, flat, tf.constant(x), tape)
        loss = tf.reduce_sum(logits**2)
    gradients = tape.gradient(loss, uses)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        ctx = Context("batch", small.split_masks(flat), tape)
        ours = small(x, ctx)
        loss = tf.reduce_sum(ours**2)
    assert np.abs(ours - logits).max() <= 1e-4 * np.abs(logits).max()
    signed = [[probe.numpy() for probe in probes] for probes in tape.gradient(loss, ctx.probes)]
    assert [len(probes) for probes in signed] == [gate.uses for gate in small.gates]
    for gate, probes, mask in zip(small.gates, signed, small.split_masks(flat)):
        products = [
            np.float64(dy * y) for dy, y in zip(gradients[gate.name], uses[gate.name], strict=True)
        ]
        expected = sum(np.abs(product.sum((0, 1, 2))) for product in products)
        # Of these images none has an input of ReLU6 that rounding puts on the other side of an
        # edge, which may move a sum by 1 %.
        inexact = 1e-3 * sum(np.abs(product).sum((0, 1, 2)) for product in products).max()
        assert np.abs(importance([[probes]]) - expected).max() <= inexact, gate.name
        assert expected[mask.numpy() > 0].any() and not expected[mask.numpy() == 0].any()


@pytest.mark.slow
def test_several_sub_networks_in_one_call(small, runtime):
    """Each as it is alone: a gate of a run changes nothing before the block that owns it."""
    x, ones = images_for(small), np.ones(small.gate_sizes.sum(), np.float32)
    begins = np.cumsum(small.gate_sizes) - small.gate_sizes
    flat = np.stack([ones] * 4)
    for row, gate in zip(
        flat, (0, 4, 11, 21)
    ):  # a stem's, an expansion's, ... down to the last blocks
        row[begins[gate] : begins[gate] + 3] = 0
    together = SubNetworks(small, runtime, lambda batch: batch["images"], 4)({"images": x}, flat)
    for i, masks_of_one in enumerate(flat):
        alone = small(x, Context("batch", small.split_masks(masks_of_one))).numpy()
        assert np.abs(together[:, i] - alone).max() <= 1e-4 * np.abs(alone).max()
    assert np.abs(together[:, 1:] - together[:, :1]).max((0, 2)).min() > 1e-3  # they do differ


@pytest.mark.parametrize("padding, dtype", [("SAME", "bfloat16"), ("symmetric", "float16")])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "XLA"])
def test_a_block_with_a_stride_trains_in_every_type(padding, dtype, compiled):
    """Its gradients are float32's to what the type rounds, whichever kernel the depthwise
    convolution has there.
    """
    network = build_network(IMAGENET, 3, 32, padding=padding, width_multiplier=0.1)
    block, x = (
        network.parts[4],
        tf.constant(np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(np.float32)),
    )
    assert block.layers[2].strides == 2
    kernels = [layer.arrays["kernel"] for layer in block.layers[::2]]

    def gradients_in(dtype, compiled):
        def compute():
            with tf.GradientTape() as tape:
                y = tf.cast(
                    block(tf.cast(x, dtype), Context("batch", dtype=tf.as_dtype(dtype))), tf.float32
                )
                loss = tf.reduce_sum(y**3)
            return tape.gradient(loss, kernels)

        return tf.function(compute, jit_compile=compiled)()

    tolerance = {"bfloat16": 0.2, "float16": 0.05}[dtype]
    for ours, exact in zip(gradients_in(dtype, compiled), gradients_in("float32", False)):
        assert np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()
