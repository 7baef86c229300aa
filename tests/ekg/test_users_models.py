"""Models as people build them: each is pruned to a plain model, or refused in one line."""

import keras
import numpy as np
import pytest
from coloured import coloured
from keras_models import L

from ekg.keras import prune
from utils import UserError

pytestmark = pytest.mark.long
QUICK = dict(
    val_per_class=8,
    subset_per_class=16,
    search_batch_size=24,
    search_warmup_batch_size=24,
    search="uniform",
    score="l1",
    train_epoch=6,
    learning_rate=5e-3,  # with the default the fine-tuning of some of these diverges
    batch_size=24,
    views=("crop",),
    finetune_teacher="none",
    verbose=False,
)
SHAPE = (12, 12, 3)


def images():
    x, y = coloured(120, np.random.default_rng(0), 3, 12, noise=25)
    return x / np.float32(255), y


def head(x):
    return L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(x))


class Subclassed(keras.Model):
    """Layers in attributes, a loop in `call`."""

    def __init__(self):
        super().__init__()
        self.stem = L.Conv2D(8, 3, padding="same")
        self.blocks = [L.Conv2D(8, 3, padding="same") for _ in range(2)]
        self.norm = L.BatchNormalization(momentum=0.8)
        self.last = L.Dense(3, activation="softmax")

    def call(self, x, training=False):
        x = self.stem(x)
        for block in self.blocks:
            x = keras.ops.relu(x + block(x))
        x = self.norm(x, training=training)
        return self.last(keras.ops.mean(x, [1, 2]))


class Gain(L.Layer):
    """A layer of the user's own, with a weight per channel."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, x):
        return x * self.gain


def lambda_layer(i):
    return head(L.Lambda(lambda x: keras.ops.relu(x) * 2)(L.Conv2D(8, 3)(L.Conv2D(8, 3)(i))))


def frozen_norm(i):
    norm = L.BatchNormalization(momentum=0.8)
    x = head(L.ReLU()(norm(L.Conv2D(8, 3)(L.Conv2D(8, 3)(i)))))
    norm.trainable = False
    return x


def nested(i):
    body = keras.Sequential(
        [
            keras.Input(SHAPE),
            L.Conv2D(8, 3, activation="relu"),
            keras.Sequential([L.Conv2D(8, 3, activation="relu")], name="inner"),
        ],
        name="body",
    )
    return keras.Sequential([L.GlobalAveragePooling2D(), L.Dense(3, "softmax")], name="top")(
        body(i)
    )


def shared(i):
    conv = L.Conv2D(8, 3, padding="same", activation="relu")
    x = L.Conv2D(8, 3, padding="same")(i)
    return head(conv(conv(x)))


def augmented(i):
    x = L.RandomFlip("horizontal")(L.GaussianNoise(0.1)(L.Rescaling(2.0, -1.0)(i)))
    x = L.SpatialDropout2D(0.1)(L.Conv2D(8, 3, activation="relu")(L.Conv2D(8, 3)(x)))
    return head(x)


def own_layer(i):
    return head(L.ReLU()(L.Conv2D(8, 3)(Gain()(L.Conv2D(8, 3)(L.Conv2D(8, 3)(i))))))


def trained(model):
    x, y = images()
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=12, batch_size=24, verbose=0)
    return model


@pytest.mark.parametrize(
    "build",
    [
        nested,
        *(
            pytest.param(build, marks=pytest.mark.slow)
            for build in (lambda_layer, frozen_norm, shared, augmented, own_layer, None)
        ),
    ],
)
def test_it_is_pruned(build):
    keras.utils.set_random_seed(0)
    i = keras.Input(SHAPE)
    model = trained(Subclassed() if build is None else keras.Model(i, build(i)))
    x, y = images()
    custom = {"Gain": Gain} if build is own_layer else None
    smaller = prune(model, (x, y), 0.6, custom_objects=custom, **QUICK)
    assert smaller.count_params() < model.count_params()
    assert smaller.input_shape == (None, *SHAPE) and smaller.output_shape == (None, 3)
    assert (smaller.predict(x, verbose=0).argmax(1) == y).mean() > 0.8


class Branching(Subclassed):
    def call(self, x, training=False):
        return super().call(x) if float(keras.ops.sum(x)) > 0 else super().call(-x)


def test_code_that_looks_at_values_is_refused():
    x, y = images()
    model = Branching()
    model(x[:2])
    with pytest.raises(UserError, match=r"because its call\(\) does not work on symbolic"):
        prune(model, (x, y), **QUICK)


def test_several_outputs_are_refused():
    i = keras.Input(SHAPE)
    x = L.Conv2D(4, 3)(i)
    with pytest.raises(UserError, match="2 outputs; one is needed, or in Python a loss"):
        prune(keras.Model(i, [head(x), head(x)]), images(), **QUICK)


def test_numbers_to_predict_are_refused():
    i = keras.Input(SHAPE)
    x, y = images()
    with pytest.raises(
        UserError, match=r"no class numbers; for other labels give ekg\.keras\.prune"
    ):
        prune(keras.Model(i, L.Dense(1)(L.Flatten()(i))), (x, y / 7), **QUICK)
