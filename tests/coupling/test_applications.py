"""Architectures of keras.applications: gates, share of filters that can go, masked = extracted.

Weights are random. Half of every gate goes.
"""

import keras
import pytest
from keras_models import assert_masked_equals_extracted, images_for, randomised

from coupling.network import KerasNetwork

# name: (gates, share of filters that can go in %). At 96 pixels without a softmax.
FAST = {"MobileNet": (14, 91.6), "MobileNetV2": (25, 94.5)}
SLOW = {
    "VGG16": (15, 92.5),
    "ResNet50": (37, 96.4),
    "ResNet50V2": (37, 96.4),
    "MobileNetV3Small": (27, 90.9),
    "DenseNet121": (120, 91.1),
    "EfficientNetB0": (40, 96.8),
    "EfficientNetV2B0": (44, 97.8),
    "Xception": (28, 98.1),
    "InceptionV3": (94, 94.5),
    "NASNetMobile": (128, 97.1),
    "ConvNeXtTiny": (18, 62.8),
}
MARKED = [
    *(pytest.param(name, *facts, marks=pytest.mark.long) for name, facts in FAST.items()),
    *(pytest.param(name, *facts, marks=pytest.mark.slow) for name, facts in SLOW.items()),
]


@pytest.mark.parametrize("name, gates, share", MARKED)
def test_masked_equals_extracted(name, gates, share):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(96, 96, 3), classifier_activation=None)
    network = KerasNetwork(randomised(model))
    assert len(network.gates) == gates
    stay = sum(frozen.count for frozen in network.frozen)
    assert 100 * (1 - stay / network.filter_count) == pytest.approx(share, abs=0.05)
    assert network.cost()[1] == model.count_params()
    images = [50 * x for x in images_for(network)]  # some models divide by 255
    assert_masked_equals_extracted(network, images=images)
