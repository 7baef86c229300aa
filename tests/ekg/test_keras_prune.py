"""prune(model, data) from Python: the settings of the flags, forms of data, mistakes."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured
from keras_models import L

from cli.keras_flags import parse
from ekg.keras import _from_dataset, _pair, prune
from ekg.keras_settings import DEFAULTS, PLACES, options_of
from utils import UserError

QUICK = dict(
    val_per_class=8,
    subset_per_class=16,
    search_batch_size=24,
    search_warmup_batch_size=24,
    train_epoch=1,
    batch_size=32,
    num_teacher=2,
    verbose=False,
)


@pytest.fixture(scope="module")
def trained():
    """(model, images float32 from 0 to 1, labels)"""
    x, y = coloured(150, np.random.default_rng(0), 3, 12, noise=25)
    x = x / np.float32(255)
    i = keras.Input((12, 12, 3))
    z = L.Conv2D(8, 3, activation="relu")(L.ReLU()(L.Conv2D(8, 3)(i)))
    model = keras.Model(i, L.Dense(3, "softmax")(L.GlobalAveragePooling2D()(z)), name="colours")
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=12, verbose=0)
    return model, x, y


def flag(name, value):
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]


OTHER = dict(
    schedule="cosine",
    decay_points=(0.2, 0.4),
    search="uniform",
    search_teacher="single",
    score="l1",
    candidate_filter="slice",
    finetune_teacher="none",
    temperature=3.0,
    resident_mib=7,
    gpu_id=(0,),
    compile=True,
    label_smoothing=0.1,
)


def options_of_flags(tmp_path, *flags):
    """The Options of a command line, with what a call from Python has no name for left out."""
    command = ["m.keras", "--data_path", str(tmp_path), "--do_log", "0", *flags]
    options = parse("Prunes.", command)[1]
    same = ("train_path", "data_path", "dataset", "trained_param")
    options = dataclasses.replace(options, **{name: getattr(DEFAULTS, name) for name in same})
    return dataclasses.replace(options, baseline=DEFAULTS.baseline)


def plainly(options):
    """As JSON would have them: a tuple is a list."""
    return json.loads(json.dumps(dataclasses.asdict(options)))


def test_defaults_are_those_of_the_program(tmp_path):
    found = options_of_flags(tmp_path, "--search_target_rate", "0.5")
    assert plainly(found) == plainly(options_of(0.5, {}))


@pytest.mark.parametrize("name", PLACES)
def test_settings_are_the_flags(tmp_path, name):
    value = OTHER.get(name, 3)
    if name in ("learning_rate", "decay_rate", "search_step", "weight_decay", "warmup_epoch"):
        value = 0.25
    found = options_of_flags(tmp_path, "--search_target_rate", "0.3", *flag(name, value))
    ours = plainly(options_of(0.3, {name: value}))
    assert plainly(found) == ours != plainly(options_of(0.3, {}))


@pytest.mark.long
def test_the_result_is_smaller_and_as_accurate(trained, tmp_path, capfd):
    model, x, y = trained
    before = [w.numpy() for w in model.weights]
    smaller = prune(model, (x, y), 0.5, folder=tmp_path / "run", **QUICK)
    assert capfd.readouterr().out == ""
    assert smaller.count_params() < model.count_params() / 1.5
    assert (smaller.predict(x, verbose=0).argmax(1) == y).mean() > 0.95
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(weight, value)
    # The same folder again: nothing is left to do, and the same model comes back.
    again = prune(model, (x, y), 0.5, folder=tmp_path / "run", **QUICK)
    np.testing.assert_array_equal(again(x[:4]), smaller(x[:4]))
    with pytest.raises(UserError, match="with other options"):
        prune(model, (x, y), 0.4, folder=tmp_path / "run", **QUICK)


@pytest.mark.long
@pytest.mark.parametrize("batched", [True, False])
def test_datasets_of_tensorflow(trained, batched):
    model, x, y = trained
    dataset = tf.data.Dataset.from_tensor_slices((x, tf.one_hot(y, 3)))
    dataset = dataset.batch(40) if batched else dataset
    settings = {**QUICK, "train_epoch": 0, "search": "uniform", "score": "l1"}
    smaller = prune(model, dataset, 0.6, test=(x[:30], y[:30]), **settings)
    assert smaller.count_params() < model.count_params()


@pytest.mark.long
def test_filters_are_rounded(trained):
    model, x, y = trained
    settings = {**QUICK, "train_epoch": 0, "search": "uniform", "score": "l1"}
    smaller = prune(model, (x, y), 0.5, round_to=4, **settings)
    widths = [layer.filters for layer in smaller.layers if isinstance(layer, L.Conv2D)]
    assert {width % 4 for width in widths} == {0} and min(widths) == 4


@pytest.mark.parametrize(
    "change, line",
    [
        (dict(data=np.zeros(3)), r"data is a ndarray; \(x, y\) or a dataset of them is needed"),
        (dict(data=tf.data.Dataset.range(3)), "pairs"),
        (dict(test=(np.zeros((2, 9)), np.zeros(2))), "x of test is float64"),
        (dict(flops=1.5), "flops=1.5: a share above 0"),
        (dict(score="best"), "score='best': it must be one of ekg, gbn"),
        (dict(views=("turn",)), "views='turn': it must be one of flip, crop, colour"),
        (dict(pixels="0-1"), "pixels='0-1': it must be one of"),
        (dict(batch_size=0), "batch_size=0 is too small"),
        (dict(train_epoch=-1), "train_epoch=-1 is too small"),
        (dict(train_epoch=1.5), "train_epoch=1.5: a whole number is needed"),
        (dict(batch_size="64"), "batch_size='64': a whole number is needed"),
        (dict(label_smoothing=1.5), "label_smoothing=1.5 is above 1"),
        (dict(flops="0.5"), "flops='0.5': a share above 0"),
        (dict(data=([np.zeros((4, 4)), np.zeros((3, 3))], [0, 1])), "several shapes, or several"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(trained, change, line):
    model, x, y = trained
    arguments = {"data": (x, y), **change}
    with pytest.raises(UserError, match=line):
        prune(model, **arguments)


def test_endless_and_empty_datasets_are_refused(trained):
    model, x, y = trained
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    with pytest.raises(UserError, match="repeats without end"):
        prune(model, dataset.repeat())
    with pytest.raises(UserError, match="data is empty"):
        prune(model, dataset.take(0))


def test_grey_datasets_are_batched_or_not():
    grey = np.zeros((6, 5, 5), np.float32)
    for dataset in (
        tf.data.Dataset.from_tensor_slices((grey, np.arange(6))),
        tf.data.Dataset.from_tensor_slices((grey, np.arange(6))).batch(4),
        tf.data.Dataset.from_tensor_slices((grey[..., None], np.arange(6))),
        tf.data.Dataset.from_tensor_slices((grey[..., None], np.eye(6))).batch(4),
    ):
        x, y = _from_dataset("data", dataset)
        assert x.shape[:3] == (6, 5, 5) and len(y) == 6


class Batches(keras.utils.PyDataset):
    """A PyDataset that gives these batches."""

    def __init__(self, batches, count=-1):
        super().__init__()
        self.batches, self.count = batches, count

    @property
    def num_batches(self):
        return len(self.batches) if self.count == -1 else self.count

    def __getitem__(self, index):
        return self.batches[index]


class Counted(keras.utils.PyDataset):
    """As most people write one: with a length."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.mark.parametrize("kind", [Batches, Counted])
def test_batches_of_keras_are_joined(kind):
    images = np.arange(5 * 4 * 4 * 3, dtype=np.float32).reshape(5, 4, 4, 3)
    batches = [(images[:3], [0, 1, 2]), (images[3:], [1, 0])]
    x, y = _pair("data", kind(batches))
    np.testing.assert_array_equal(x, images)
    np.testing.assert_array_equal(y, [0, 1, 2, 1, 0])


@pytest.mark.parametrize(
    "dataset, line",
    [
        (Batches([]), "test is empty"),
        (Batches([], count=None), "test has no end"),
        (Batches([(np.zeros(2), [0], [1.0])]), r"test gives a tuple of 3; pairs"),
        (Batches([np.zeros(2)]), "test gives a ndarray; pairs"),
        (
            Batches([(np.zeros([1, size, 4, 3]), [0]) for size in (4, 5)]),
            "test: batches of several shapes",
        ),
    ],
    ids=["empty", "endless", "weights", "no pairs", "several shapes"],
)
def test_batches_of_keras_that_do_not_fit_are_refused(dataset, line):
    with pytest.raises(UserError, match=line):
        _pair("test", dataset)


def test_no_more_batches_of_keras_are_read_than_fit(monkeypatch):
    monkeypatch.setattr("ekg.keras.MOST_BYTES", 100)
    read = []

    class Large(Counted):
        def __getitem__(self, index):
            read.append(index)
            return np.zeros([1, 4, 4, 1]), [0]

    with pytest.raises(UserError, match="data holds more than"):
        _pair("data", Large([None] * 1000))
    assert read == [0]


def test_a_broken_pipeline_is_one_line(trained):
    def broken(x, y):
        return tf.io.parse_tensor("no tensor", tf.float32), y

    dataset = tf.data.Dataset.from_tensor_slices((trained[1], trained[2])).map(broken)
    with pytest.raises(UserError, match="data cannot be read: "):
        prune(trained[0], dataset)


def test_unknown_settings_are_named(trained):
    model, x, y = trained
    with pytest.raises(TypeError, match="no setting epochs; it has train_epoch"):
        prune(model, (x, y), epochs=3)
