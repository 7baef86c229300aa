"""Networks of nets/ and Keras models meet one protocol, by name and by arguments."""

import inspect

import keras
import numpy as np
import pytest
from keras_models import conv_bn

from coupling.prunable import PrunableModel
from engine.networks import Prunable
from nets import build_network

METHODS = [
    name
    for name, member in vars(Prunable).items()
    if inspect.isfunction(member) and (name == "__call__" or not name.startswith("_"))
]


def keras_network():
    image = keras.Input([8, 8, 3])
    x = keras.layers.GlobalAveragePooling2D()(conv_bn(image, 4, "stem"))
    return PrunableModel(keras.Model(image, keras.layers.Dense(5)(x)))


@pytest.fixture(scope="module", params=["Keras", "ResNet-8"])
def network(request):
    return keras_network() if request.param == "Keras" else build_network("ResNet-8", 5, 8)


def test_it_has_what_the_stages_ask_for(network):
    assert isinstance(network, Prunable)
    assert network.classes == 5 and network.image_shape == (8, 8, 3) and network.input_size == 8
    count = len(network.gates)
    assert len(network.gate_sizes) == len(network.branches) == len(network.first_parts) == count > 0
    flops, params = network.cost()
    assert network.cost(np.ones(count, int))[0] < flops and params > 0
    assert network.parameters().keys() == network.variables_by_name().keys()


def test_its_methods_take_the_same_arguments(network):
    assert {"__call__", "cost", "split_masks"} <= set(METHODS)
    names = lambda function: list(inspect.signature(function).parameters)
    for name in METHODS:
        assert names(getattr(type(network), name)) == names(getattr(Prunable, name)), name
