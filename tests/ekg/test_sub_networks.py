"""Several sub-networks in one call: each gives what it gives alone, and what they share is computed
once.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ekg.sub_networks import SubNetworks, common_bytes
from nets.gates import Context

pytestmark = pytest.mark.long


def given(batch):
    return batch["images"]


def without(network, slices):
    """float32 [F], all filters but the first ones. slices: dict gate index -> how many."""
    masks = [np.ones(size, np.float32) for size in network.gate_sizes]
    for gate, count in slices.items():
        masks[gate][:count] = 0
    return np.concatenate(masks)


SETS = {
    "a slice of a gate each, as candidates": [{1: 5, g: 5 + 3 * (g == 1)} for g in (1, 2, 3, 4, 5)],
    "gates of residual streams among them": [{0: 3}, {2: 8}, {4: 16}, {5: 9}],
    "nothing in common, as teachers": [{0: 4, 1: 4, 4: 30}, {0: 2, 3: 8}, {1: 1, 5: 60}],
    "one alone": [{2: 7, 5: 20}],
    "the same twice": [{2: 7}, {2: 7}],
    "the last gate alone differs": [{5: 8}, {5: 16}],
}


@pytest.mark.parametrize("slices", SETS.values(), ids=SETS.keys())
def test_each_gives_what_it_gives_alone(resnet_8, images, runtime, slices):
    masks = np.stack([without(resnet_8, s) for s in slices])
    together = SubNetworks(resnet_8, runtime, given, 5)({"images": images}, masks)
    assert together.shape == (16, len(slices), 10)
    for i, flat in enumerate(masks):
        alone = resnet_8(images, Context("batch", resnet_8.split_masks(flat))).numpy()
        assert np.abs(together[:, i] - alone).max() <= 1e-5 * np.abs(alone).max()


def test_more_than_fit_in_a_call(resnet_8, images, runtime):
    masks = np.stack([without(resnet_8, {g: 3}) for g in range(6)])
    whole, parted = (
        SubNetworks(resnet_8, runtime, given, most)({"images": images}, masks) for most in (6, 4)
    )
    assert np.abs(whole - parted).max() <= 1e-5 * np.abs(whole).max()


@pytest.mark.parametrize(
    "change", [{"compile": True}, {"accum": 2}, {"precision": "bfloat16"}], ids=str
)
def test_on_any_runtime(resnet_8, images, runtime, change):
    """Compiled; in parts, each with statistics of its own; in bfloat16."""
    masks = np.stack([without(resnet_8, s) for s in ({1: 5}, {2: 9}, {5: 20})])
    runtime = dataclasses.replace(runtime, **change)
    ours = SubNetworks(resnet_8, runtime, given, 4)({"images": images}, masks)
    for i, flat in enumerate(masks):
        alone = [
            resnet_8(half, Context("batch", resnet_8.split_masks(flat)))
            for half in np.split(images, runtime.accum)
        ]
        alone = np.concatenate(alone)
        assert (
            np.abs(ours[:, i] - alone).max()
            <= (0.1 if runtime.precision == "bfloat16" else 1e-4) * np.abs(alone).max()
        )


def test_memory_of_what_is_in_common(network, runtime):
    """A stem and three blocks a stage; a byte count by image, part of the batch and type."""
    values = 4 * 16 * 1024 + 3 * 32 * 256 + 3 * 64 * 64
    assert common_bytes(network, runtime, 10) == 40 * values
    assert (
        common_bytes(network, dataclasses.replace(runtime, accum=2, precision="bfloat16"), 10)
        == 10 * values
    )


def test_what_is_in_common_is_computed_once(resnet_8, images, runtime):
    counts = np.zeros(len(resnet_8.parts), int)

    class Counted:
        def __init__(self, index, part):
            self.index, self.part = index, part

        def __getattr__(self, name):
            return getattr(self.part, name)

        def __call__(self, x, run):
            def count(x):
                counts[self.index] += 1
                return x

            y = self.part(tf.ensure_shape(tf.numpy_function(count, [x], x.dtype), x.shape), run)
            return y

    resnet_8.parts = [Counted(i, part) for i, part in enumerate(resnet_8.parts)]
    # Gates of the three blocks, of 5 parts.
    first = resnet_8.first_parts
    masks = np.stack([without(resnet_8, {first.index(part): 4}) for part in (1, 2, 3)])
    SubNetworks(resnet_8, runtime, given, 5)({"images": images}, masks)
    shared = [1] * 3 + [0, 0]  # the union goes as far as the part where the last of them begins
    own = [sum(part >= begin for begin in (1, 2, 3)) for part in range(5)]
    assert list(counts) == [a + b for a, b in zip(shared, own)]
