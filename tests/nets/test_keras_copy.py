"""nets.to_keras: the Keras model has the outputs of the network, and its averages."""

import keras
import numpy as np
import pytest
from settled import ARCHITECTURES, pixels, settled_network

import nets
from nets.batch_norm import Constant
from nets.catalogue import PADDINGS, PIXELS
from nets.keras_copy import keras_copy
from nets.parameters import write_parameters
from nets.predictor import Predictor

NORMAL = PIXELS["CIFAR10"]
LIMIT = 1e-5  # of the largest logit
slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)
CASES = [
    ("ResNet-8", True, "symmetric", 16),
    pytest.param("MobileNet-v2", True, "symmetric", 16, marks=pytest.mark.long),
    pytest.param("ResNet-18", True, "symmetric", 32, marks=pytest.mark.long),
    *(
        slow(arch, pruned, padding, None)
        for arch in ARCHITECTURES
        for pruned in (False, True)
        for padding in PADDINGS
    ),
]


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.long
@pytest.mark.parametrize("arch, pruned, padding, size", CASES)
def test_the_copy_has_the_logits_of_the_network(arch, pruned, padding, size):
    network = settled_network(arch, pruned, padding, size)
    assert pruned == any(isinstance(layer, Constant) for layer in network.network_layers)
    images = pixels(5, network.input_size)
    expected = Predictor(network, *NORMAL)(images).numpy()
    for folded in (False, True):
        copy = keras_copy(network, *NORMAL, folded=folded)
        assert difference(copy(images).numpy(), expected) < LIMIT
        norms = [x for x in copy.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert len(norms) == (0 if folded else len(network.batch_norms))


@pytest.fixture
def path(tmp_path):
    network = settled_network("ResNet-8", True, "symmetric", 32)
    meta = {"arch": "ResNet-8", "dataset": "CIFAR10", "input_size": 32, "padding": "symmetric"}
    write_parameters(str(tmp_path / "pruned.npz"), network.parameters(), meta)
    return tmp_path / "pruned.npz"


def test_a_parameter_file_becomes_a_model_of_plain_layers(path):
    model = nets.to_keras(path)
    images = pixels(3, 32)
    assert difference(model(images).numpy(), nets.load(path)(images).numpy()) < LIMIT
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    network = nets.load(path).network
    averages = {bn.path: bn.arrays["moving_mean"].numpy().ravel() for bn in network.batch_norms}
    for name, mean in averages.items():
        found = model.get_layer(name.replace("/", "_")).moving_mean.numpy()
        np.testing.assert_array_equal(found, mean)


@pytest.mark.long
def test_the_copy_trains_with_fit(path):
    model = nets.to_keras(path)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    before = [weight.numpy() for weight in model.weights]
    model.fit(pixels(6, 32), np.arange(6), batch_size=2, verbose=0)
    assert all((weight.numpy() != old).any() for weight, old in zip(model.weights, before))


def test_a_part_without_a_copy_is_named(resnet_8):
    class Strange:
        pass

    resnet_8.parts.insert(1, Strange())
    with pytest.raises(TypeError, match="Strange has no Keras layers; add it to PARTS in nets/ke"):
        keras_copy(resnet_8, *NORMAL)
