"""Layers: masks, norms, batch norm, costs; on a small network with every kind of layer, depthwise
included.
"""

import contextlib
import platform

import numpy as np
import pytest
import tensorflow as tf
from small_network import FLAT, Small

from ekg.extraction import extract
from ekg.importance import split
from nets import build_network
from nets.batch_norm import BatchNorm
from nets.gates import Context, Gate, channels_used, masked_kernel
from nets.initial import Arrays
from nets.tcl import Conv2d


@pytest.fixture
def small():
    """Every array different everywhere, so that no permutation hides."""
    rng = np.random.default_rng(5)
    shapes = Small().parameters()
    return Small(
        {
            n: rng.uniform(0.5, 1.5, a.shape).astype(np.float32) * rng.choice([-1, 1])
            for n, a in shapes.items()
        }
    )


@pytest.fixture
def x():
    return np.random.default_rng(6).standard_normal((4, 8, 8, 3)).astype(np.float32)


def test_masked_kernel_keeps_the_norm_and_the_direction():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 6)).astype(np.float32)
    rows, columns = np.float32([1, 0, 1, 1]), np.float32([0, 1, 1, 0, 1, 1])
    masked = masked_kernel(
        tf.Variable(kernel), {2: tf.constant(rows), 3: tf.constant(columns)}
    ).numpy()
    assert np.linalg.norm(masked) == pytest.approx(np.linalg.norm(kernel), rel=1e-6)
    assert not masked[:, :, 1].any() and not masked[..., [0, 3]].any()
    kept = np.ix_(range(3), range(3), [0, 2, 3], [1, 2, 4, 5])
    ratio = masked[kept] / kernel[kept]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)


def test_masked_kernel_of_zeros_stays_zero():
    masked = masked_kernel(tf.zeros([1, 1, 2, 2]), {2: tf.constant([1.0, 0.0])})
    assert not masked.numpy().any()


def test_masks_of_ones_change_nothing(small, x):
    ones = small.split_masks(tf.ones([14]))
    np.testing.assert_allclose(
        small(x, Context("batch", ones)), small(x, Context("batch")), rtol=1e-5, atol=1e-6
    )


def test_uses_count_the_convolutions_that_write_through_a_gate(small):
    assert [(gate.name, gate.size, gate.uses) for gate in small.gates] == [("a", 8, 2), ("c", 6, 1)]


def test_dropped_filters_do_not_reach_the_output(small, x):
    """Whatever stands in the dropped slices, BN parameters included, the output is the same."""
    before = small(x, Context("batch", small.split_masks(FLAT))).numpy()
    keep = [mask > 0 for mask in split(FLAT, [8, 6])]
    for layer in small.network_layers:
        if isinstance(layer, BatchNorm):
            for variable in layer.arrays.values():
                variable.assign(np.where(keep[layer.in_gate.index], variable.numpy(), 7.0))
    np.testing.assert_allclose(
        small(x, Context("batch", small.split_masks(FLAT))), before, rtol=1e-6
    )


def test_masked_equals_extracted(small, x):
    pruned = Small(extract(small, FLAT))
    assert pruned.b.kernel.shape == [3, 3, 5, 1] and pruned.c.kernel.shape == [1, 1, 5, 4]
    masked = small(x, Context("batch", small.split_masks(FLAT))).numpy()
    extracted = pruned(x, Context("batch")).numpy()
    assert np.abs(masked - extracted).max() <= 1e-5 * np.abs(masked).max()


def test_left_are_the_kept_filters_and_others_up_to_a_multiple():
    mask = np.zeros(24, np.float32)
    mask[[3, 17, 5]] = 1
    assert list(channels_used(tf.constant(mask), 8)) == [0, 1, 2, 3, 4, 5, 6, 17]
    assert list(channels_used(tf.constant(mask), 1)) == [3, 5, 17]
    mask[:13] = 1
    left = channels_used(tf.constant(mask), 8).numpy().tolist()
    assert left == sorted(left) and len(left) == 16 and {*range(13), 17} < set(left)
    assert list(channels_used(tf.ones([32]), 16)) == list(range(32))  # no more than there are


def scored(network, x, flat, **settings):
    """(logits, inner sums of Eq. 9 [F], channels of all gates, statistics) of a sub-network in a
    Context of these settings.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        ctx = Context("batch", network.split_masks(flat), tape, **settings)
        loss = tf.reduce_sum(network(x, ctx) ** 2)
    sums = tape.gradient(loss, ctx.probes)
    sums = [
        np.sum([ctx.per_filter(use, gate) for use in uses], 0)
        for uses, gate in zip(sums, network.gates)
    ]
    logits = network(x, Context("batch", network.split_masks(flat), **settings)).numpy()
    statistics = np.concatenate([value for pair in ctx.batch_statistics for value in pair])
    return (
        logits,
        np.concatenate(sums),
        [int(ctx.channels(gate)) for gate in network.gates],
        statistics,
    )


@pytest.mark.long
@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize(
    "which", ["ResNet-20", "a depthwise convolution, a gate used twice, one of 6 filters"]
)
def test_dropping_filters_changes_neither_logits_nor_scores(
    network, small, images, x, which, multiple
):
    """A physically smaller network: 0 for dropped filters, as the masked one has it."""
    network, x = (network, images) if which == "ResNet-20" else (small, x)
    flat = (np.random.default_rng(2).random(network.gate_sizes.sum()) < 0.4).astype(np.float32)
    logits, sums, channels, statistics = scored(network, x, flat, drop=True, multiple=multiple)
    masked = scored(network, x, flat)
    assert np.abs(logits - masked[0]).max() <= 1e-5 * np.abs(masked[0]).max()
    assert np.abs(sums - masked[1]).max() <= 1e-4 * np.abs(masked[1]).max()
    assert not sums[flat == 0].any() and not any(count % multiple for count in channels)
    assert statistics.shape == masked[3].shape
    if which == "ResNet-20" and multiple < 16:  # it really is smaller
        assert sum(channels) < 0.8 * sum(masked[2])


def gradients(network, x, **settings):
    """(logits, gradients of a loss, batch statistics) of the network as it is, in a Context of
    these settings.
    """
    with tf.GradientTape() as tape:
        ctx = Context("batch", **settings)
        logits = network(x, ctx)
        loss = tf.reduce_sum(logits**2)
    return (
        logits,
        tape.gradient(loss, network.trainable),
        [value for pair in ctx.batch_statistics for value in pair],
    )


@pytest.mark.parametrize("which", ["ResNet-20", "a depthwise convolution, a gate used twice"])
def test_filling_up_channels_changes_nothing(network, small, images, x, which):
    """Of an extracted network: its logits in both kinds of statistics, every gradient, what moves
    the averages.
    """
    network, x = (network, images) if which == "ResNet-20" else (small, x)
    sizes = network.gate_sizes
    flat = np.concatenate([np.arange(size) < size * 5 // 8 for size in sizes]).astype(np.float32)
    arrays = extract(network, flat)
    pruned = Small(arrays) if network is small else build_network("ResNet-20", 10, 32, arrays)
    plain, filled = (gradients(pruned, x, multiple=multiple) for multiple in (1, 16))
    for part, tolerance in enumerate(
        (1e-4, 2e-2, 1e-4)
    ):  # gradients jump where rounding takes a ReLU's input over 0
        for ours, theirs in zip(tf.nest.flatten(filled[part]), tf.nest.flatten(plain[part])):
            assert ours.shape == theirs.shape
            assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs) + 1e-6
    for bn in pruned.batch_norms:
        bn.arrays["moving_variance"].assign(np.abs(bn.arrays["moving_variance"]))
    moving = [pruned(x, Context("moving", multiple=multiple)).numpy() for multiple in (1, 16)]
    assert np.abs(moving[1] - moving[0]).max() <= 1e-5 * np.abs(moving[0]).max()
    gate = pruned.gates[-1]
    assert gate.size % 16 and Context("moving", multiple=16).channels(gate) == 16 * -(
        -gate.size // 16
    )


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_folded_batch_norm_is_batch_norm_with_moving_averages(small, x, multiple, masked):
    """Logits, and the gradient of every trainable array, vectors of batch norm included."""
    for bn in small.batch_norms:
        bn.arrays["moving_variance"].assign(np.abs(bn.arrays["moving_variance"]))
    masks = small.split_masks(FLAT) if masked else None
    found = {}
    for statistics in ("moving", "folded"):
        with tf.GradientTape() as tape:
            logits = small(x, Context(statistics, masks, multiple=multiple))
            loss = tf.reduce_sum(logits**2)
        found[statistics] = [logits, *tape.gradient(loss, small.trainable)]
    for folded, moving in zip(found["folded"], found["moving"]):
        assert np.abs(folded - moving).max() <= 1e-5 * np.abs(moving).max()


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="how sums are taken is another CPU's"
)
def test_dropping_filters_keeps_the_rounding(network, images):
    """To the bit, in multiples of 8: so a search takes the way of the masked network."""
    flat = (np.random.default_rng(3).random(network.gate_sizes.sum()) < 0.4).astype(np.float32)
    for scoring in (False, True):
        tapes = [tf.GradientTape() if scoring else None for _ in range(2)]
        with tapes[0] or contextlib.nullcontext(), tapes[1] or contextlib.nullcontext():
            dropped, masked = (
                network(
                    images, Context("batch", network.split_masks(flat), tape, drop=drop, multiple=8)
                )
                for tape, drop in zip(tapes, (True, False))
            )
        np.testing.assert_array_equal(dropped, masked)


@pytest.mark.parametrize("channels", [3, 8, 16])
@pytest.mark.parametrize("batch", [4, 5])
def test_a_1x1_convolution_with_strides_and_its_gradient_are_products(batch, channels):
    """oneDNN's own gradient is wrong, or ends the process, for few channels and an odd batch."""
    rng = np.random.default_rng(7)
    gate = Gate("in")
    gate.size = channels
    conv = Conv2d("c", Arrays(None), 1, channels, 6, in_size=16, strides=2, in_gate=gate)
    x = rng.standard_normal((batch, 16, 16, channels)).astype(np.float32)
    dy = rng.standard_normal((batch, 8, 8, 6)).astype(np.float32)
    with tf.GradientTape() as tape:
        y = conv(x, Context("batch"))
        total = tf.reduce_sum(y * dy)
    taken = x[:, ::2, ::2].reshape(-1, channels)
    products = {"y": taken @ conv.kernel.numpy()[0, 0], "dk": taken.T @ dy.reshape(-1, 6)}
    found = {"y": y.numpy().reshape(-1, 6), "dk": tape.gradient(total, conv.kernel)[0, 0]}
    for name, expected in products.items():
        assert np.abs(found[name] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_cost_is_arithmetic(small):
    convs = 3 * 3 * 3 * 8 * 16 + 3 * 3 * 8 * 16 + 8 * 6 * 16 + 6 * 5
    assert small.cost() == (convs + 2 * 16 * (8 + 8 + 6), 216 + 72 + 48 + 30 + 5 + 4 * 22)
    assert small.cost([5, 4]) == Small(extract(small, FLAT)).cost()


def test_batch_norm_statistics_are_biased_and_the_moving_averages_wait(small, x):
    ctx, before = Context("batch"), small.a_bn.arrays["moving_mean"].numpy()
    y = small.a(x, ctx)
    out = small.a_bn(y, ctx).numpy()
    (mean, variance), flat = ctx.batch_statistics[0], y.numpy().reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-5)
    gamma, beta = (small.a_bn.arrays[name].numpy().reshape(-1) for name in ("gamma", "beta"))
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * gamma + beta
    np.testing.assert_allclose(out.reshape(-1, 8), expected, atol=1e-4)
    np.testing.assert_array_equal(small.a_bn.arrays["moving_mean"].numpy(), before)
    small.a_bn.move(mean, variance)
    expected = 0.9 * before.reshape(-1) + 0.1 * flat.mean(0)
    np.testing.assert_allclose(
        small.a_bn.arrays["moving_mean"].numpy().reshape(-1), expected, rtol=1e-5
    )


def test_the_two_ways_to_batch_norm_agree(small, x):
    """The fused kernel and, while scoring, moments and arithmetic."""
    with tf.GradientTape() as tape:
        exact = Context("batch", small.split_masks(tf.ones([14])), tape)
        logits = small(x, exact)
    fused = Context("batch", small.split_masks(tf.ones([14])))
    np.testing.assert_allclose(logits, small(x, fused), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(exact.batch_statistics, fused.batch_statistics):
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-6)


def test_a_probe_collects_dy_times_y(small, x):
    """d loss / d probe is the sum over B, H, W of dy * y at every place where a gate masks, and 0
    for dropped filters.
    """
    taken = []

    class Spy(Context):
        def observe(self, y, gate):
            y = super().observe(y, gate)
            self.tape.watch(y)
            taken.append(y)
            return y

    with tf.GradientTape(persistent=True) as tape:
        ctx = Spy("batch", small.split_masks(FLAT), tape)
        loss = tf.reduce_sum(small(x, ctx) ** 2)
    probes = tape.gradient(loss, [probe for gate in ctx.probes for probe in gate])
    assert [len(gate) for gate in ctx.probes] == [2, 1]
    for probe, y in zip(probes, taken, strict=True):
        expected = tf.reduce_sum(tape.gradient(loss, y) * y, [0, 1, 2]).numpy()
        np.testing.assert_allclose(probe, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert not probes[0].numpy()[FLAT[:8] == 0].any()


def test_statistics_must_be_named():
    with pytest.raises(ValueError, match="'train'"):
        Context("train")
