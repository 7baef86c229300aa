"""KerasNetwork: the gates and costs of ResNet-20 as nets has them, models of other layers."""

import keras
import numpy as np
import pytest
from keras_models import L, assert_masked_equals_extracted, conv, randomised, resnet_20

from coupling.network import KerasNetwork
from nets import build_network


@pytest.fixture(scope="module")
def twin():
    return KerasNetwork(randomised(resnet_20()))


@pytest.fixture(scope="module")
def original():
    return build_network("ResNet-20", 10, 32)


def test_resnet_20_has_the_gates_of_the_paper(twin, original):
    facts = lambda network: sorted((gate.size, gate.uses) for gate in network.gates)
    assert len(twin.gates) == 12
    assert facts(twin) == facts(original)
    writers = {gate.name: gate.writers for gate in twin.gates}
    assert writers["stem"] == ["stem", *(f"block0.{n}_conv2" for n in range(3))]
    assert writers["block2.1_conv1"] == ["block2.1_conv1"]
    stage = next(gate for gate in twin.gates if "block1.0_conv3" in gate.writers)
    assert set(stage.writers) == {"block1.0_conv3", *(f"block1.{n}_conv2" for n in range(3))}


def test_resnet_20_costs_what_it_costs(twin, original):
    assert twin.cost() == original.cost()
    ones = np.ones(12, int)
    assert twin.cost(ones) == original.cost(ones)
    assert sum(cost.macs for cost in twin.costs.by_layer()) == original.cost()[0]


@pytest.mark.long
def test_half_of_resnet_20(twin):
    assert_masked_equals_extracted(twin)


def test_costs_are_products_of_widths():
    image = keras.Input((8, 8, 3))
    x = conv(4, strides=2, name="a")(image)  # 3 * 3 * 3 * 4 numbers at 4 * 4 places
    x = L.DepthwiseConv2D(3, padding="same", name="b")(x)  # 3 * 3 * 4 at 4 * 4
    x = L.Conv2DTranspose(5, 2, strides=2, name="c")(x)  # 2 * 2 * 4 * 5 at 4 * 4 of the input
    x = L.BatchNormalization(name="d")(x)  # 2 * 5 at 8 * 8
    x = L.LayerNormalization(name="e")(x)
    network = KerasNetwork(keras.Model(image, L.Dense(2, name="f")(x)))  # 5 * 2 at 8 * 8
    costs = {cost.path: (cost.macs, cost.params) for cost in network.costs.by_layer()}
    assert costs == {
        "a": (1728, 112),
        "b": (576, 40),
        "c": (1280, 85),
        "d": (640, 20),
        "e": (None, 10),
        "f": (640, 12),
    }
    assert network.cost([1]) == (1728 // 4 + 576 // 4 + 1280 // 4 + 640 + 640, 28 + 10 + 25 + 42)
    assert [gate.name for gate in network.gates] == ["a"]


def test_a_layer_of_several_uses_counts_its_macs_each_time():
    image = keras.Input((8, 8, 4))
    layer = conv(4, use_bias=False)
    network = KerasNetwork(keras.Model(image, layer(layer(image))))
    assert network.cost() == (2 * 144 * 64, 144)
    assert not network.gates  # its outputs are outputs of the model


def test_open_sizes_are_taken_from_the_caller():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, conv(4, 1, use_bias=False)(image))
    assert KerasNetwork(model, 10).cost()[0] == 12 * 100
    assert KerasNetwork(model).cost()[0] == 12 * 224**2


class Scale(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="kernel")

    def call(self, x):
        return x * self.scale


class OddConv(L.Conv2D):
    def call(self, x):
        return super().call(x[..., ::-1])


@pytest.mark.parametrize("layer", [Scale(name="odd"), OddConv(6, 1, name="odd")])
def test_layers_of_strangers_freeze_what_they_touch(layer):
    x = i = keras.Input((8, 8, 3))
    x = layer(conv(6, name="a")(x))
    x = L.GlobalAveragePooling2D()(conv(4, name="b")(x))
    network = KerasNetwork(randomised(keras.Model(i, L.Dense(2)(x))))
    assert [gate.name for gate in network.gates] == ["b"]
    why = f"there is no rule for the weights of {type(layer).__name__} odd"
    assert network.frozen[0].layer == "a" and network.frozen[0].why == why
    assert_masked_equals_extracted(network)


def test_adapters_and_other_axes_have_no_rule():
    x = i = keras.Input((8, 8, 3))
    a = conv(6, name="a")
    x = L.Permute((3, 1, 2))(a(x))
    x = L.Dense(4, name="b")(x)  # along the width
    x = L.Conv2D(5, 1, name="c")(L.BatchNormalization(axis=1)(x))
    dense = L.Dense(4, name="d")
    x = dense(L.GlobalAveragePooling2D()(x))
    model = randomised(keras.Model(i, L.Dense(2, name="e")(x)))
    dense.enable_lora(2)
    network = KerasNetwork(model)
    why = {f.layer: f.why for f in network.frozen}
    assert why["a"] == "Dense b reads another axis than that of the channels"
    assert why["c"] == "there is no rule for the weights of Dense d"
    assert "d" not in why  # its filters are not known


def test_channels_first_has_no_rule():
    x = i = keras.Input((8, 8, 6))
    a = conv(6, name="a")(x)
    x = L.Conv2D(4, 1, data_format="channels_first", name="b")(L.Permute((3, 1, 2))(a))
    network = KerasNetwork(keras.Model(i, x))
    assert network.frozen[0].why == "Conv2D b has its channels first"
