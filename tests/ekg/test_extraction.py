"""Extraction: masked equals extracted on a ResNet, costs, norms, re-estimated moving averages."""

import numpy as np
import pytest

from ekg.extraction import extract, reestimate
from ekg.filter_rule import filters_kept
from ekg.importance import masks
from nets import build_network
from nets.gates import Context
from op_utils import statistics_step


def random_masks(network, seed):
    rng = np.random.default_rng(seed)
    sizes = network.gate_sizes
    rates = rng.uniform(0, 1, len(sizes)) * rng.integers(0, 2, len(sizes))
    return rates, masks(
        sizes, filters_kept(sizes, rates), np.concatenate([rng.permutation(n) for n in sizes])
    )


@pytest.mark.parametrize("seed", range(4))
def test_masked_equals_extracted(network, images, seed):
    rates, flat = random_masks(network, seed)
    pruned = build_network("ResNet-20", 10, 32, extract(network, flat))
    masked = network(images, Context("batch", network.split_masks(flat))).numpy()
    extracted = pruned(images, Context("batch")).numpy()
    assert np.abs(masked - extracted).max() <= 1e-4 * np.abs(masked).max()
    assert pruned.cost() == network.cost(filters_kept(network.gate_sizes, rates))
    assert pruned.cost()[1] == sum(array.size for array in pruned.parameters().values())


def test_kernels_keep_their_norm(network):
    _, flat = random_masks(network, 0)
    pruned = extract(network, flat)
    for name, whole in network.parameters().items():
        if name.endswith("kernel:0"):
            assert np.linalg.norm(pruned[name]) == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_all_ones_extract_the_network_itself(network):
    arrays = extract(network, np.ones(network.gate_sizes.sum(), np.float32))
    for name, whole in network.parameters().items():
        np.testing.assert_array_equal(arrays[name], whole)


@pytest.mark.long
def test_reestimated_averages_are_those_of_the_batches(network, runtime, images):
    """After it, moving averages normalise the very batch as its own statistics do."""
    step = statistics_step(network, runtime, lambda batch: batch["images"])
    reestimate(network, step, [{"images": images}])
    np.testing.assert_allclose(
        network(images, Context("moving")), network(images, Context("batch")), rtol=1e-3, atol=1e-4
    )
    before = network.batch_norms[0].arrays["moving_mean"].numpy()
    other = images[::-1] * 2 + 1
    reestimate(network, step, [{"images": images}, {"images": other}])
    run = Context("batch")
    network(other, run)
    expected = (before.reshape(-1) + run.batch_statistics[0][0].numpy()) / 2
    np.testing.assert_allclose(
        network.batch_norms[0].arrays["moving_mean"].numpy().reshape(-1),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )
