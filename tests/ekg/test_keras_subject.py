"""What a Keras model and its data must fulfil before a run on them begins."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured
from keras_models import L, randomised

from coupling.graph import as_functional
from coupling.prunable import PrunableModel
from coupling.sources import GivenModel
from dataloader.arrays import own_dataset
from ekg.keras_subject import KerasSubject
from utils import UserError

pytestmark = pytest.mark.long  # each trains or traces a model
STRATEGY = tf.distribute.get_strategy()


def data_of(size=(8, 8), scale=1, count=60, classes=3):
    x, y = coloured(count, np.random.default_rng(0), classes, size[0], noise=5)
    x = x if size[0] == size[1] else np.repeat(x, size[1] // size[0], 2)
    x = x if scale == 1 else (x / scale).astype(np.float32)
    return own_dataset("data", (x, y), None, ("crop",))


def classifier(end=None, shape=(8, 8, 3), classes=3, kernel=4):
    """A model whose colours say the class: right on all of `data_of`, whatever the scale."""
    i = keras.Input(shape)
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(kernel, 1, name="conv")(i)))
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dense(classes, name="logits")(x)
    return randomised(keras.Model(i, end(x) if end else x, name="classifier"))


def trained(model, data, kind="sparse_categorical_crossentropy"):
    model.compile(keras.optimizers.Adam(0.05), kind)
    model.fit(data.x_train / 255, data.y_train, epochs=15, batch_size=16, verbose=0)
    return model


def networks(model, data, **settings):
    subject = KerasSubject(GivenModel(model), lambda shape: data, **settings)
    return subject.networks(subject.data((0, 1)), STRATEGY)


@pytest.mark.parametrize(
    "end",
    [
        lambda x: keras.ops.softmax(x),
        lambda x: L.Dropout(0.1)(L.Softmax()(x)),
        lambda x: L.Reshape((3,))(L.Activation("sigmoid")(x)),
    ],
    ids=["operation", "dropout", "reshape"],
)
def test_probabilities_are_not_taken_for_logits(end):
    with pytest.raises(UserError, match="they are probabilities"):
        networks(classifier(end), data_of())


def test_a_changed_sequential_is_seen_as_it_is():
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(5)])
    assert len(PrunableModel(model).gates) == 1
    model.pop()
    model.add(L.Dense(3, name="new"))
    assert PrunableModel(model).classes == 3
    assert as_functional(model).layers[-1].name == "new"


@pytest.mark.parametrize("expects", ["0..255", pytest.param("0..1", marks=pytest.mark.slow)])
def test_pixels_are_those_of_the_training(expects):
    """Without biases a model is as accurate at any scale."""
    data = data_of()
    i = keras.Input((8, 8, 3))
    x = L.Rescaling(1 / 255)(i) if expects == "0..255" else i
    x = L.ReLU()(L.Conv2D(8, 1, use_bias=False)(x))
    x = L.Dense(3, "softmax", use_bias=False)(L.GlobalAveragePooling2D()(x))
    model = keras.Model(i, x)
    keras.utils.set_random_seed(0)
    x = data.x_train if expects == "0..255" else data.x_train / 255
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.fit(x, data.y_train, epochs=40, batch_size=16, verbose=0)
    assert networks(model, data).source.endswith(f"pixels {expects}")


def test_a_model_that_gives_one_class_is_refused():
    x, y = coloured(60, np.random.default_rng(0), 3, 8, noise=5)
    data = own_dataset("data", (x, np.where(np.arange(60) % 10, 0, y)), None, ())
    model = classifier()
    logits = model.get_layer("logits")
    logits.set_weights([np.zeros((4, 3)), np.array([1.0, -1.0, -1.0])])
    with pytest.raises(UserError, match="no more than guesses are"):
        networks(model, data)


def test_few_images_that_are_all_right_are_enough():
    x, y = coloured(10, np.random.default_rng(0), 2, 8, noise=5)
    data = own_dataset("data", (x, y), (x, y), ())
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = trained(classifier(classes=2), data, loss)
    model.fit(x / 255, y, epochs=60, verbose=0)
    assert "100.0% of 10 training images" in networks(model, data).source


def test_half_precision_weights_are_refused():
    i = keras.Input((8, 8, 3))
    half = keras.DTypePolicy("bfloat16")
    x = L.Dense(3, dtype=half)(L.GlobalAveragePooling2D(dtype=half)(L.Conv2D(4, 3, dtype=half)(i)))
    with pytest.raises(UserError, match="is bfloat16; only float32 weights are pruned"):
        networks(keras.Model(i, x), data_of())


def test_nothing_to_prune_is_said():
    i = keras.Input((8, 8, 3))
    with pytest.raises(UserError, match="has no filters that can go"):
        networks(keras.Model(i, L.Dense(3)(L.Flatten()(i))), data_of())


def test_another_configuration_is_another_model():
    texts = set()
    for slope in (0.1, 0.2):
        i = keras.Input((8, 8, 3))
        x = L.LeakyReLU(slope, name="act")(L.Conv2D(4, 1, name="conv")(i))
        x = L.Dense(3, name="end")(L.GlobalAveragePooling2D(name="mean")(x))
        texts.add(GivenModel(randomised(keras.Model(i, x, name="m"))).identity())
    assert len(texts) == 2


def test_frozen_layers_train_again():
    model = classifier(L.Softmax())
    model.get_layer("bn").trainable = model.get_layer("conv").trainable = False
    data = data_of()
    trained(model, data)
    made = networks(model, data)
    assert len(made.start().trainable) == 6 and len(made.start().batch_norms) == 1
    assert "2 layers that were not trainable are now" in made.source
    assert not model.get_layer("conv").trainable  # the user's own model stays as it is


def test_half_precision_becomes_float32():
    with_policy = keras.DTypePolicy("mixed_float16")
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1, strides=2, dtype=with_policy)(i)
    x = L.ReLU(dtype=with_policy)(x)
    x = L.Dense(3, activation="softmax", name="end")(L.GlobalAveragePooling2D()(x))
    data = data_of()
    model = trained(keras.Model(i, x), data)
    made = networks(model, data)
    assert "float16 layers compute in float32" in made.source
    assert {layer.compute_dtype for layer in made.original.model.layers} == {"float32"}
    images = data.x_train[:4] / np.float32(255)
    whole = made.put_back(made.original.model)(images)
    np.testing.assert_allclose(whole, model(images), atol=2e-3)


def test_open_sizes_are_those_of_the_data():
    data = data_of((8, 16))
    model = trained(classifier(shape=(None, None, 3)), data)
    made = networks(model, data)
    assert made.start().image_shape == (8, 16, 3)
    assert made.original.cost() == PrunableModel(classifier(shape=(8, 16, 3))).cost()


def test_several_sigmoids_are_said_to_exclude_each_other():
    data = data_of()
    one_hot = np.eye(3)[data.y_train]
    model = classifier(L.Activation("sigmoid"))
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    model.fit(data.x_train / 255, one_hot, epochs=15, batch_size=16, verbose=0)
    assert "classes that exclude each other" in networks(model, data).source


@pytest.mark.parametrize(
    "model, line",
    [
        (lambda i, x: keras.Model([i, keras.Input((2,))], x), "has 2 inputs"),
        (lambda i, x: keras.Model(i, [x, x + 1]), "has 2 outputs"),
        (lambda i, x: keras.Model(i, L.Conv2D(3, 1)(i)), r"gives \[8, 8, 3\] per image"),
    ],
    ids=["inputs", "outputs", "map"],
)
def test_one_image_and_one_output_are_needed(model, line):
    i = keras.Input((8, 8, 3))
    x = L.Dense(3)(L.GlobalAveragePooling2D()(i))
    with pytest.raises(UserError, match=line):
        networks(model(i, x), data_of())


def test_models_of_vectors_are_refused():
    i = keras.Input((16,))
    with pytest.raises(UserError, match=r"takes \[16\]; images \[height, width, channels\]"):
        networks(keras.Model(i, L.Dense(3)(i)), data_of())


def test_scalings_of_three_channels_are_refused_for_grey_images():
    x, y = coloured(60, np.random.default_rng(0), 3, 8, noise=5)
    data = own_dataset("data", (x[..., :1], y), None, ())
    with pytest.raises(UserError, match="--pixels imagenet is for 3 channels; the images have 1"):
        networks(classifier(shape=(8, 8, 1)), data, pixels="imagenet")


def test_other_data_are_another_run():
    texts, model = [], classifier()
    for seed in (0, 1):
        x, y = coloured(60, np.random.default_rng(seed), 3, 8, noise=5)
        subject = KerasSubject(
            GivenModel(model), lambda _, x=x, y=y: own_dataset("d", (x, y), None, ())
        )
        subject.data((0, 1))
        texts.append(subject.find(False))
    assert texts[0] != texts[1] and texts[0].split(", ")[0] == texts[1].split(", ")[0]
