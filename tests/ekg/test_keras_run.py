"""The whole method on a small Keras model: the file that comes out, and that a run goes on."""

import contextlib
import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from coloured import coloured
from keras_models import L, conv_bn, randomised

import prune_keras
from cli.program import run_program
from dataloader.arrays import SCALINGS
from engine.run_files import STAGES
from reports.reader import read_run

pytestmark = pytest.mark.long
CLASSES, SIZE = 4, 12


def pictures(count, seed):
    """uint8 images, noise around a colour per class, and labels."""
    return coloured(count, np.random.default_rng(seed), CLASSES, SIZE, noise=25)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a trained model.keras that wants pixels from 0 to 1, and data.npz."""
    folder = tmp_path_factory.mktemp("given")
    (x, y), test = pictures(160, 0), pictures(40, 1)
    np.savez(folder / "data.npz", x_train=x, y_train=y[:, None], x_test=test[0], y_test=test[1])
    image = keras.Input((SIZE, SIZE, 3))
    z = L.ReLU()(conv_bn(image, 8, "a"))
    z = L.ReLU()(L.Add()([z, conv_bn(L.ReLU()(conv_bn(z, 8, "b")), 8, "c")]))
    z = L.Dropout(0.2)(L.GlobalAveragePooling2D()(z))
    model = keras.Model(image, L.Dense(CLASSES, activation="softmax", name="probabilities")(z))
    keras.utils.set_random_seed(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.8  # the training has few steps
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.02
    model.fit(x / 255, y, epochs=12, batch_size=32, verbose=0)
    model.save(folder / "model.keras")
    return folder


FLAGS = (
    "--search_target_rate 0.6 --val_per_class 8 --subset_per_class 16 --search_batch_size 32"
    " --search_warmup_batch_size 32 --train_epoch 2 --batch_size 32 --num_teacher 2 --do_log 0"
).split()


@pytest.fixture
def program(monkeypatch, capfd):
    """program(model, data, folder, flag, ...) -> (exit code, stdout, stderr)."""

    def run(model, data, folder, *flags):
        command = [model, "--data_path", data, "--train_path", folder, *FLAGS, *flags]
        monkeypatch.setattr(sys, "argv", ["prune_keras.py", *map(str, command)])
        capfd.readouterr()
        try:
            code = run_program(prune_keras.main, resumable=True)
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    """(the folder of a finished run on the model, what it printed)"""
    folder, printed = tmp_path_factory.mktemp("whole") / "run", io.StringIO()
    command = ["prune_keras.py", given / "model.keras", "--data_path", given / "data.npz"]
    with pytest.MonkeyPatch.context() as patches, contextlib.redirect_stdout(printed):
        patches.setattr(sys, "argv", [*map(str, command), "--train_path", str(folder), *FLAGS])
        assert run_program(prune_keras.main, resumable=True) == 0
    return folder, printed.getvalue()


def test_a_model_is_pruned_to_a_plain_keras_file(given, finished, program, tmp_path):
    folder, out = finished
    assert "pixels 0..1" in out and f"{folder}/pruned.keras is the result" in out
    result = json.loads((folder / "result.json").read_text())
    assert result["flops_rate"] <= 0.6 and result["pruned"]["top1"] > 0.9
    images, labels = pictures(40, 1)
    np.savez(tmp_path / "test.npz", x=images / np.float32(255), y=labels)
    # In a process without this project: the same accuracy, from probabilities.
    script = (
        "import sys, keras, numpy as np; d = np.load('test.npz');"
        "m = keras.models.load_model(sys.argv[1]); p = m.predict(d['x'], verbose=0);"
        "print(abs(p.sum(1) - 1).max() < 1e-4, (p.argmax(1) == d['y']).mean(), m.count_params())"
    )
    end = subprocess.run(
        [sys.executable, "-c", script, folder / "pruned.keras"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = end.stdout.splitlines()[-1].split()
    assert said[0] == "True" and float(said[1]) == pytest.approx(result["pruned"]["top1"])
    assert int(said[2]) == result["pruned"]["params"] < result["baseline"]["params"]
    code, out, _ = program(given / "model.keras", given / "data.npz", folder)
    assert code == 0 and "nothing is left to do" in out


def test_the_page_about_the_run(finished):
    run = read_run(str(finished[0]), "run")
    assert run.title == "model.keras on data.npz" and run.finished
    assert [stage.name for stage in run.stages] == [*STAGES][1:]
    assert set(run.filters) == {"a", "b", "c"}
    assert all(0 < kept <= whole == 8 for whole, kept in run.filters.values())


@pytest.mark.parametrize(
    "until",
    ["ekg.stages.compare", pytest.param("ekg.stages.extracted", marks=pytest.mark.slow)],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    given, finished, program, tmp_path, monkeypatch, until
):
    def interrupt(*_):
        raise KeyboardInterrupt

    whole, folder = finished[0], tmp_path / "run"
    with monkeypatch.context() as patches:
        patches.setattr(until, interrupt)
        assert program(given / "model.keras", given / "data.npz", folder)[0] != 0
    assert not (folder / "pruned.keras").exists()
    assert program(given / "model.keras", given / "data.npz", folder)[0] == 0
    images = pictures(40, 1)[0] / np.float32(255)
    outputs = [
        keras.models.load_model(at / "pruned.keras")(images).numpy() for at in (whole, folder)
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    "score", ["l1", *(pytest.param(s, marks=pytest.mark.slow) for s in ("fpgm", "gbn"))]
)
def test_other_scores_and_filters(given, program, tmp_path, score):
    flags = f"--score {score} --candidate_filter slice --train_epoch 0 --search uniform".split()
    code, _, err = program(given / "model.keras", given / "data.npz", tmp_path / "run", *flags)
    assert code == 0, err
    assert (tmp_path / "run" / "pruned.keras").exists()


def test_a_model_that_guesses_is_refused(given, program, tmp_path):
    model = keras.models.load_model(given / "model.keras")
    randomised(model).save(tmp_path / "random.keras")
    code, _, err = program(tmp_path / "random.keras", given / "data.npz", tmp_path / "run")
    assert code == 2 and "no more than guesses are" in err and len(err.splitlines()) == 1
    assert all(name in err for name in SCALINGS)
    # The right model, given pixels that it does not expect.
    flags = "--pixels", "0..255"
    found = program(given / "model.keras", given / "data.npz", tmp_path / "run", *flags)
    assert found[0] in (0, 2) and not (found[0] == 2 and len(found[2].splitlines()) > 1)


def test_data_that_do_not_fit_the_model_are_refused(given, program, tmp_path):
    x, y = pictures(160, 0)
    np.savez(tmp_path / "small.npz", x_train=x[:, :8, :8], y_train=y)
    code, _, err = program(given / "model.keras", tmp_path / "small.npz", tmp_path / "run")
    assert code == 2 and "takes images (12, 12, 3), but the data are (8, 8, 3)" in err
    np.savez(tmp_path / "more.npz", x_train=x, y_train=np.arange(160) % 5)
    code, _, err = program(given / "model.keras", tmp_path / "more.npz", tmp_path / "run")
    assert code == 2 and "knows 4 classes, but the labels go up to 4" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("end", ["sigmoid", pytest.param("more classes", marks=pytest.mark.slow)])
def test_models_of_one_sigmoid_and_of_more_classes_than_the_data(given, program, tmp_path, end):
    """Grey images, wider than high; two classes."""
    rng = np.random.default_rng(4)
    y = np.arange(80) % 2
    x = np.clip(rng.normal(60 + 120 * y[:, None, None], 20, (80, 12, 16)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    image = keras.Input((12, 16, 1))
    z = L.GlobalAveragePooling2D()(L.ReLU()(L.Conv2D(6, 3)(L.Conv2D(8, 3)(image))))
    last = L.Dense(1, activation="sigmoid") if end == "sigmoid" else L.Dense(3, "softmax")
    model = keras.Model(image, last(z))
    keras.utils.set_random_seed(0)
    kind = "binary" if end == "sigmoid" else "sparse_categorical"
    model.compile(keras.optimizers.Adam(0.01), f"{kind}_crossentropy")
    model.fit(x[:60, ..., None] / 255, y[:60], epochs=30, verbose=0)
    model.save(tmp_path / "model.keras")
    flags = "--search_batch_size", "16", "--views", "none"
    run = tmp_path / "run"
    code, _, err = program(tmp_path / "model.keras", tmp_path / "data.npz", run, *flags)
    assert code == 0, err
    assert json.loads((run / "result.json").read_text())["pruned"]["top1"] > 0.9
    outputs = keras.models.load_model(run / "pruned.keras")(x[60:, ..., None] / 255).numpy()
    found = outputs[:, 0] > 0.5 if end == "sigmoid" else outputs.argmax(1)
    assert outputs.shape[1] == model.output.shape[1] and (found == y[60:]).mean() > 0.9
    changed = *flags[:2], "--views", "crop"
    code, _, err = program(tmp_path / "model.keras", tmp_path / "data.npz", run, *changed)
    assert code == 2 and "views none there" in err and "views crop asked for" in err


def test_a_folder_of_class_folders(given, program, tmp_path):
    x, y = pictures(120, 3)
    for i, (image, label) in enumerate(zip(x, y)):
        path = tmp_path / "images" / f"class {label}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())
    flags = "--train_epoch", "0"
    code, out, err = program(given / "model.keras", tmp_path / "images", tmp_path / "run", *flags)
    assert code == 0, err
    assert "every 5th image of each class is held out" in out
    figures = json.loads((tmp_path / "run" / "result.json").read_text())
    assert figures["baseline"]["top1"] > 0.9
