"""Every score against plain NumPy, written without looking at its code, on a sub-network of a small
ResNet.
"""

import numpy as np
import pytest
from plain_network import cross_entropy, forward, softmax

from ekg.importance import split
from ekg.scores import SCORES, At, importance_by
from ekg.validation import Validation
from nets import build_network
from nets.initial import Arrays
from nets.resnet import CifarResNet
from train_cifar import parse

pytestmark = pytest.mark.long

CLASSES, SIZE, IMAGES = 5, 8, 12
# Which layers write through each gate, and behind which layers it masks.
WRITERS = {
    "conv": ["conv", "BasicBlock0.0/conv2"],
    "BasicBlock0.0/conv1": ["BasicBlock0.0/conv1"],
    "BasicBlock1.0/conv3": ["BasicBlock1.0/conv3", "BasicBlock1.0/conv2"],
    "BasicBlock1.0/conv1": ["BasicBlock1.0/conv1"],
    "BasicBlock2.0/conv3": ["BasicBlock2.0/conv3", "BasicBlock2.0/conv2"],
    "BasicBlock2.0/conv1": ["BasicBlock2.0/conv1"],
}
READS = {  # the gate each layer reads
    "BasicBlock0.0/conv1": "conv",
    "BasicBlock0.0/conv2": "BasicBlock0.0/conv1",
    "BasicBlock1.0/conv3": "conv",
    "BasicBlock1.0/conv1": "conv",
    "BasicBlock1.0/conv2": "BasicBlock1.0/conv1",
    "BasicBlock2.0/conv3": "BasicBlock1.0/conv3",
    "BasicBlock2.0/conv1": "BasicBlock1.0/conv3",
    "BasicBlock2.0/conv2": "BasicBlock2.0/conv1",
}


class Case:
    """A network, images, knowledge and a sub-network; `masks` flat float32 [F], `mask` a dict by
    gate.
    """

    def __init__(self):
        rng = np.random.default_rng(0)
        build = lambda arrays: CifarResNet("ResNet-20", CLASSES, SIZE, arrays, blocks=1)
        layers, widths = build(Arrays()).network_layers, [4, 4, 6, 6, 8, 8]
        self.parameters = {}
        for layer, name in ((one, name) for one in layers for name in one.arrays):
            array = rng.standard_normal(layer.shape(name, widths))
            self.parameters[f"{layer.path}/{name}:0"] = (
                np.abs(1 + 0.3 * array) if "variance" in name else 0.1 + 0.5 * array
            )
        self.parameters = {
            name: array.astype(np.float32) for name, array in self.parameters.items()
        }
        self.network = build(Arrays(self.parameters))
        self.images = rng.standard_normal((IMAGES, SIZE, SIZE, 3)).astype(np.float32)
        self.labels = np.arange(IMAGES) % CLASSES
        self.knowledge = 2 * rng.standard_normal((IMAGES, CLASSES)).astype(np.float32)
        kept = np.concatenate(
            [rng.permutation(n) < n - 1 - (n > 4) for n in self.network.gate_sizes]
        )
        self.masks = kept.astype(np.float32)
        self.mask = dict(zip(WRITERS, split(self.masks, self.network.gate_sizes)))

    def scores(self, name, runtime, knowledge, batch_size=IMAGES, seed=0):
        on_val = Validation(
            self.network,
            runtime,
            lambda batch: batch["images"],
            self.images,
            self.labels,
            batch_size,
        )
        return importance_by(name, self.network, on_val.importance, seed)(self.masks, knowledge)

    def weights(self, layer):
        """A list of vectors, one for every filter of the sub-network: without dropped inputs, of
        the whole kernel's norm.
        """
        kernel = self.parameters[f"{layer}/kernel:0"].astype(np.float64)
        gate = next(gate for gate, writers in WRITERS.items() if layer in writers)
        into = self.mask[READS[layer]] if layer in READS else np.ones(kernel.shape[2])
        k = kernel[:, :, into > 0][..., self.mask[gate] > 0]
        k = k * np.linalg.norm(kernel) / np.linalg.norm(k)
        return [k[..., c].ravel() for c in range(k.shape[3])]

    def by_hand(self, of_layer):
        """float64 [F]: of_layer(weights) -> a number for every filter, summed over the layers of a
        gate; 0 for dropped.
        """
        scores = []
        for gate, writers in WRITERS.items():
            values = np.zeros(len(self.mask[gate]))
            for layer in writers:
                values[self.mask[gate] > 0] += of_layer(self.weights(layer))
            scores.append(values)
        return np.concatenate(scores)

    def taylor(self, knowledge):
        """float64 [F]: by central differences, the sum over uses of |d loss / d scale of the masked
        activation there|.
        """
        targets = [
            np.eye(CLASSES)[self.labels],
            *([] if knowledge is None else [softmax(knowledge.astype(np.float64))]),
        ]

        def loss(scales):
            logits = forward(self.parameters, self.images, self.mask, scales)
            return sum(cross_entropy(target, logits).mean() for target in targets)

        scores = []
        for gate, writers in WRITERS.items():
            values, eye = np.zeros(len(self.mask[gate])), np.eye(len(self.mask[gate]))
            for layer in writers:
                if layer.endswith("conv3"):
                    continue  # a projection is not masked at its own output
                change = lambda c, h, layer=layer, gate=gate, eye=eye: loss(
                    {(gate, layer): 1 + h * eye[c]}
                )
                values += [
                    abs(change(c, 1e-5) - change(c, -1e-5)) / 2e-5 for c in range(len(values))
                ]
            scores.append(values)
        return np.concatenate(scores)


@pytest.fixture(scope="module")
def case():
    return Case()


def test_the_plain_network_is_the_one_under_test(case, runtime):
    on_val = Validation(
        case.network, runtime, lambda batch: batch["images"], case.images, case.labels, IMAGES
    )
    (logits,) = on_val.predict(case.masks[None])
    np.testing.assert_allclose(logits, forward(case.parameters, case.images, case.mask), atol=1e-4)


def test_l1_is_the_norm_of_a_filters_weights(case, runtime):
    expected = case.by_hand(lambda weights: [sum(abs(w) for w in one) for one in weights])
    np.testing.assert_allclose(case.scores("l1", runtime, None), expected, rtol=1e-5)


def test_fpgm_is_the_distance_to_all_filters_of_the_layer(case, runtime):
    expected = case.by_hand(
        lambda weights: [sum(np.linalg.norm(one - other) for other in weights) for one in weights]
    )
    np.testing.assert_allclose(case.scores("fpgm", runtime, None), expected, rtol=1e-5)


def test_gbn_is_the_taylor_expansion_of_the_plain_loss(case, runtime):
    expected = case.taylor(None)
    scores = case.scores("gbn", runtime, case.knowledge)  # of which it takes no notice
    np.testing.assert_allclose(scores, expected, atol=2e-3 * expected.max())
    np.testing.assert_array_equal(scores, case.scores("ekg", runtime, None))


def test_ekg_has_the_knowledge_in_its_loss(case, runtime):
    expected = case.taylor(case.knowledge)
    np.testing.assert_allclose(
        case.scores("ekg", runtime, case.knowledge), expected, atol=2e-3 * expected.max()
    )
    assert np.abs(expected - case.taylor(None)).max() > 0.1 * expected.max()


def test_random_depends_on_the_seed_and_the_sub_network_alone(case, runtime):
    scores = case.scores("random", runtime, None)
    np.testing.assert_array_equal(case.scores("random", runtime, case.knowledge), scores)
    assert len(np.unique(scores[case.masks > 0])) == case.masks.sum()
    assert (case.scores("random", runtime, None, seed=1) != scores)[case.masks > 0].all()
    fewer = At(case.network, np.ones_like(case.masks), None, None, 0)
    assert (SCORES["random"](fewer) != scores)[case.masks > 0].all()


@pytest.mark.parametrize("name", SCORES)
def test_dropped_filters_score_0(case, runtime, name):
    """Others more, but for a filter that a ReLU has silenced, whose gradient is 0."""
    scores = case.scores(name, runtime, case.knowledge, batch_size=8)
    assert scores.dtype == np.float32 and scores.shape == case.masks.shape
    assert not scores[case.masks == 0].any()
    assert np.count_nonzero(scores) >= case.masks.sum() - 1


def test_one_filter_that_is_left_stays_ahead_of_those_that_are_gone(case, runtime):
    """Its distance to all others is 0, for there is none."""
    masks, sizes = np.ones_like(case.masks), case.network.gate_sizes
    masks[: sizes[0] - 1] = 0
    scores = importance_by("fpgm", case.network, None, 0)(masks, None)
    assert scores[: sizes[0] - 1].max() == 0 < scores[sizes[0] - 1]


def test_a_score_is_added_by_one_function(monkeypatch, case):
    monkeypatch.setitem(SCORES, "first_come", lambda at: np.arange(len(at.masks), 0, -1))
    assert parse(["--score", "first_come"]).search.score == "first_come"
    scores = importance_by("first_come", case.network, None, 0)(case.masks, None)
    np.testing.assert_array_equal(scores, np.arange(len(case.masks), 0, -1) * case.masks)
    monkeypatch.setitem(SCORES, "first_come", lambda at: -np.arange(len(at.masks)))
    with pytest.raises(ValueError, match=r"first_come gives -.*; scores are 0 or more"):
        importance_by("first_come", case.network, None, 0)(case.masks, None)


def test_depthwise_filters_count_for_the_gate_they_follow():
    """MobileNet-v2: an expansion's filter has the weights of its own convolution and of the
    depthwise one behind it.
    """
    network = build_network("MobileNet-v2", 4, 32, width_multiplier=0.1)
    rng, name = np.random.default_rng(1), "InvertedResidual1.0"
    kept = np.concatenate([rng.permutation(n) < n - 2 for n in network.gate_sizes])
    mask = dict(
        zip(
            [gate.name for gate in network.gates],
            np.split(kept, np.cumsum(network.gate_sizes)[:-1]),
        )
    )
    scores = split(
        importance_by("l1", network, None, 0)(kept.astype(np.float32), None), network.gate_sizes
    )
    index = [gate.name for gate in network.gates].index(f"{name}/conv0")
    own = mask[f"{name}/conv0"]
    kernels = network.parameters()
    expected = np.zeros(len(own))
    reads = network.parts[2].inner[0][0].in_gate.name
    for kernel, into in (
        (kernels[f"{name}/conv0/kernel:0"], mask[reads]),
        (kernels[f"{name}/conv1/kernel:0"][..., 0], None),
    ):
        left = kernel[..., own] if into is None else kernel[:, :, into][..., own]
        expected[own] += (
            np.abs(left).sum(tuple(range(left.ndim - 1)))
            * np.linalg.norm(kernel)
            / np.linalg.norm(left)
        )
    np.testing.assert_allclose(scores[index], expected, rtol=1e-5)
