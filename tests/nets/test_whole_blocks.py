"""Residual blocks that lost all filters of their branch: what is left is a constant (METHOD 13)."""

import re

import numpy as np
import pytest
import tensorflow as tf
from networks import randomised

from distribution.runtime import Runtime
from ekg.extraction import extract, reestimate
from ekg.filter_rule import FilterRule
from ekg.importance import first_filters, masks
from ekg.scores import importance_by
from ekg.sub_networks import SubNetworks
from ekg.validation import Validation
from nets import build_network
from nets.gates import Context
from nets.parameters import read_parameters, write_parameters
from op_utils import statistics_step
from utils import UserError

# arch, size, width multiplier, branches that go: with identity, with projection, several in a row
CASES = {
    "basic": ("ResNet-20", 16, 1.0, ("0.1", "1.0", "2.1", "2.2")),
    "basic, pooled stem": ("ResNet-18", 32, 0.25, ("0.0", "1.0", "3.1")),
    "bottleneck": ("ResNet-50", 64, 0.125, ("0.0", "0.1", "2.3", "3.0")),
    "inverted": ("MobileNet-v2", 16, 0.1, ("2.1", "2.2", "4.1")),
    "inverted, ImageNet": ("MobileNet-v2-ImageNet", 64, 0.2, ("2.1", "3.2", "3.3")),
}
CLASSES = 7


def each(long=(), slow=()):
    """The cases, those named marked."""
    marks = {name: pytest.mark.long for name in long} | {name: pytest.mark.slow for name in slow}
    return [pytest.param(CASES[name], id=name, marks=marks.get(name, ())) for name in CASES]


_, *OTHERS = CASES
# What traces gradients or compiles: some cases only.
SOME = each(slow=["basic, pooled stem", "bottleneck", "inverted", "inverted, ImageNet"])


class Case:
    """A network, and a sub-network of it without some branches, and with fewer other filters."""

    def __init__(self, arch, size, width, gone):
        self.variant = dict(width_multiplier=width, padding="symmetric")
        build = lambda arrays: build_network(arch, CLASSES, size, arrays, **self.variant)
        self.build = build
        self.network = build(randomised(build(None).parameters(), 1))
        self.rule = FilterRule(self.network.gate_sizes, self.network.branches, least=0)
        named = [branch and re.sub("[A-Za-z]", "", branch) for branch in self.branches]
        assert set(gone) <= set(named)
        rng = np.random.default_rng(0)
        rates = rng.uniform(0.3, 1, len(named)).round(5)
        for branch in gone:  # one of its gates is enough
            rates[len(named) - 1 - named[::-1].index(branch)] = 0.0
        self.filters = self.rule.kept(rates)
        order = np.concatenate([rng.permutation(n) for n in self.rule.sizes])
        self.flat = masks(self.rule.sizes, self.filters, order)
        self.images = rng.standard_normal((8, size, size, 3)).astype(np.float32)
        self.labels = np.arange(8) % CLASSES

    @property
    def branches(self):
        return self.network.branches

    def masked(self, **context):
        split = self.network.split_masks(self.flat)
        return self.network(self.images, Context("batch", split, **context)).numpy()


@pytest.fixture(scope="module", params=each(long=OTHERS))
def case(request):
    return Case(*request.param)


@pytest.fixture(scope="module")
def extracted(case):
    return case.build(extract(case.network, case.flat))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_gates_of_residual_branches_may_lose_all_filters(case):
    """All gates of a branch lie inside it: nothing else goes through them."""
    for gate in case.network.gates:
        inner = gate.branch is not None
        writers = [layer for layer in case.network.network_layers if layer.out_gate is gate]
        assert inner == (gate.branch == writers[0].path.rpartition("/")[0] and gate.uses <= 2)
        if inner:
            assert all(layer.path.startswith(f"{gate.branch}/") for layer in writers)
    assert any(case.branches) and not all(case.branches)


@pytest.mark.long
def test_masked_equals_extracted(case, extracted):
    logits = case.masked()
    close(extracted(case.images, Context("batch")).numpy(), logits)
    close(case.masked(drop=True, multiple=8), logits)
    compiled = tf.function(lambda: case.network(case.images, Context("batch", split)), None)
    split = case.network.split_masks(case.flat)
    close(compiled().numpy(), logits)
    assert not np.allclose(logits, case.network(case.images, Context("batch")), rtol=0.1)


@pytest.mark.long
@pytest.mark.parametrize("case", each(slow=OTHERS), indirect=True)
def test_masked_equals_extracted_compiled(case, extracted):
    @tf.function(jit_compile=True)
    def masked(flat):
        return case.network(case.images, Context("batch", case.network.split_masks(flat)))

    close(masked(case.flat).numpy(), extracted(case.images, Context("batch")).numpy())


def test_costs_are_those_of_what_is_left(case, extracted):
    assert extracted.cost() == case.network.cost(case.filters)
    assert extracted.cost()[1] == sum(a.size for a in extracted.parameters().values())
    assert extracted.moving_averages() == case.network.moving_averages(case.filters)
    kept = {name: n for name, n in case.network.layer_filters(case.filters).items() if n}
    assert extracted.layer_filters() == kept


def test_a_block_that_is_gone_costs_its_constant():
    """METHOD 13: C * H * W, and C parameters."""
    whole = build_network("ResNet-20", 10, 32)
    sizes = whole.gate_sizes.copy()
    index = whole.branches.index("BasicBlock0.1")
    gone = sizes.copy()
    gone[index] = 0
    macs, params = whole.cost()
    without = 2 * 3 * 3 * 16 * 16 * 32 * 32 + 2 * 2 * 16 * 32 * 32
    values = 2 * 3 * 3 * 16 * 16 + 2 * 4 * 16
    assert whole.cost(gone) == (macs - without + 16 * 32 * 32, params - values + 16)


def test_a_file_tells_which_blocks_are_gone(case, extracted, tmp_path):
    path = str(tmp_path / "pruned.pkl")
    write_parameters(path, extracted.parameters(), {})
    again = case.build(read_parameters(path)[0])
    logits = extracted(case.images, Context("moving")).numpy()
    np.testing.assert_array_equal(again(case.images, Context("moving")), logits)
    gone = {branch for branch, n in zip(case.branches, case.filters) if n == 0}
    for branch in gone:
        names = [name for name in extracted.parameters() if name.startswith(f"{branch}/")]
        assert f"{branch}/bn2/beta:0" in names
        assert all("/bn2/beta" in name or "/conv3/" in name or "/bn3/" in name for name in names)


def test_a_file_without_some_convolutions_of_a_block_is_refused(case, extracted):
    branch = next(b for b, n in zip(case.branches, case.filters) if b and n)
    arrays = extracted.parameters()
    kernels = [n for n in arrays if n.startswith(f"{branch}/conv") and "conv3" not in n]
    with pytest.raises(UserError, match=f"it has no {kernels[-1]}"):
        case.build({name: array for name, array in arrays.items() if name != kernels[-1]})
    # All of them, but not the batch norms between them.
    left = {name: array for name, array in arrays.items() if name not in kernels}
    with pytest.raises(UserError, match=f"it has {branch}/bn./.*, which"):
        case.build(left)


@pytest.mark.parametrize("case", SOME, indirect=True)
@pytest.mark.long
def test_importance_is_finite_and_0_for_what_is_gone(case):
    runtime = Runtime(tf.distribute.get_strategy())
    given = lambda batch: batch["images"]
    on_val = Validation(case.network, runtime, given, case.images, case.labels, 8)
    knowledge = np.zeros((8, CLASSES), np.float32)
    for score in ("ekg", "l1", "fpgm"):
        of_masks = importance_by(score, case.network, on_val.importance, 0)
        found = of_masks(case.flat, knowledge)
        assert np.isfinite(found).all() and not found[case.flat == 0].any()
        assert (found[case.flat > 0] > 0).mean() > 0.9


@pytest.mark.parametrize("case", SOME, indirect=True)
@pytest.mark.long
def test_sub_networks_with_and_without_blocks_share_a_call(case):
    runtime = Runtime(tf.distribute.get_strategy())
    given = lambda batch: batch["images"]
    both = np.stack([np.ones_like(case.flat), case.flat])
    together = SubNetworks(case.network, runtime, given, 2)({"images": case.images}, both)
    close(together[:, 1], case.masked())


def test_gradients_of_a_masked_network_are_finite(case):
    with tf.GradientTape() as tape:
        ctx = Context("batch", case.network.split_masks(case.flat))
        loss = tf.reduce_sum(case.network(case.images, ctx) ** 2)
    for gradient in tape.gradient(loss, case.network.trainable):
        assert np.isfinite(gradient).all()


@pytest.mark.long
def test_what_is_left_trains_and_is_pruned_again(case, extracted):
    constants = [v for v in extracted.trainable if "/bn2/beta" in v.name]
    with tf.GradientTape() as tape:
        logits = extracted(case.images, Context("batch"))
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(case.labels, logits)
    assert all(np.abs(g).max() > 0 for g in tape.gradient(loss, constants))
    runtime = Runtime(tf.distribute.get_strategy())
    step = statistics_step(extracted, runtime, lambda batch: batch["images"])
    reestimate(extracted, step, [{"images": case.images}])
    logits = extracted(case.images, Context("moving")).numpy()
    close(extracted(case.images, Context("folded")).numpy(), logits)
    rule = FilterRule(extracted.gate_sizes, extracted.branches, least=0)
    flat = first_filters(rule.sizes, rule.fewest)
    least = case.build(extract(extracted, flat))
    assert not any(least.branches)
    masked = extracted(case.images, Context("batch", extracted.split_masks(flat)))
    close(least(case.images, Context("batch")).numpy(), masked.numpy())
