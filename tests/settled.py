"""Networks like trained ones: random arrays, and the moving averages of real activations.

With other averages, or with branches as strong as their shortcuts, a deep random network amplifies
rounding until outputs cannot be compared.
"""

import re

import numpy as np
from networks import randomised

from ekg.extraction import extract
from ekg.filter_rule import FilterRule
from ekg.importance import masks
from nets import build_network
from nets.gates import Context

WEAK = 0.3  # how strong branches are beside their shortcuts
# arch -> (height and width of images, branches that go entirely: with identity, with projection)
ARCHITECTURES = {
    "ResNet-8": (16, ("0.0", "1.0")),
    "ResNet-20": (32, ("0.1", "1.0", "2.1", "2.2")),
    "ResNet-56": (32, ("0.1", "1.0", "2.1", "2.8")),
    "ResNet-18": (64, ("0.0", "1.0", "3.1")),
    "ResNet-50": (64, ("0.0", "0.1", "2.3", "3.0")),
    "MobileNet-v2": (32, ("2.1", "2.2", "4.1")),
    "MobileNet-v2-ImageNet": (64, ("2.1", "3.2", "3.3")),
}


def pixels(count, size, seed=0):
    """uint8 [count, size, size, 3], at random."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def settled_network(arch, pruned, padding="SAME", size=None, width=1.0, classes=10):
    """A Network with random arrays.

    Args:
        arch: a key of ARCHITECTURES.
        pruned: whether random filters and some whole branches are gone.
        padding: one of nets.catalogue.PADDINGS.
        size: height and width of images, None for the usual ones of tests.
        width: the width multiplier.
        classes: number of classes.
    """
    usual, gone = ARCHITECTURES[arch]
    shape = arch, classes, size or usual
    variant = dict(padding=padding, width_multiplier=width)
    build = lambda arrays=None: build_network(*shape, arrays, **variant)
    network = build(randomised(build().parameters(), 0))
    if pruned:
        network = build(extract(network, _mask(network, gone)))
    for layer in network.network_layers:
        if layer.adds:
            gamma = layer.norm.arrays["gamma"]
            gamma.assign(WEAK * gamma)
    images = np.random.default_rng(1).standard_normal((16, *network.image_shape), np.float32)
    ctx = Context("batch")
    network(images, ctx)
    for bn, statistics in zip(network.batch_norms, ctx.batch_statistics):
        bn.move(*statistics, decay=0.0)
    return network


def _mask(network, gone):
    """float32 [F]: random filters, none of the branches `gone`."""
    named = [branch and re.sub("[A-Za-z]", "", branch) for branch in network.branches]
    assert set(gone) <= set(named)
    rng = np.random.default_rng(0)
    rates = [0.0 if name in gone else rng.uniform(0.3, 1) for name in named]
    rule = FilterRule(network.gate_sizes, network.branches, least=0)
    filters = rule.kept(np.array(rates))
    order = np.concatenate([rng.permutation(n) for n in rule.sizes])
    return masks(rule.sizes, filters, order)
