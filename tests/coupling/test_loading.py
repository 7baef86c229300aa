"""Model files: what is read, and the one line for what is not."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras_models import L, assert_masked_equals_extracted, conv, difference, randomised

from coupling.loading import load_model
from coupling.network import KerasNetwork
from utils import UserError


def small_model():
    x = i = keras.Input((8, 8, 3), name="image")
    x = L.BatchNormalization(name="bn")(L.DepthwiseConv2D(3, name="dw")(conv(6, name="a")(x)))
    x = L.Dense(2, name="head")(L.GlobalAveragePooling2D()(x))
    return randomised(keras.Model(i, x))


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.hdf5"])
def test_both_forms_are_read(tmp_path, name):
    model = small_model()
    model.save(tmp_path / name)
    loaded = load_model(str(tmp_path / name))
    x = np.ones((2, 8, 8, 3), np.float32)
    assert difference([model(x)], [loaded(x)]) < 1e-6
    assert [gate.name for gate in KerasNetwork(loaded).gates] == ["a"]


def edit_h5(path, change):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config).encode()


def test_a_depthwise_convolution_of_keras_2_says_groups(tmp_path):
    path = str(tmp_path / "m.h5")
    small_model().save(path)

    def change(config):
        (layer,) = (c for c in config["config"]["layers"] if c["class_name"] == "DepthwiseConv2D")
        layer["config"]["groups"] = 1

    edit_h5(path, change)
    model = load_model(path)
    assert type(model.get_layer("dw")) is keras.layers.DepthwiseConv2D
    assert_masked_equals_extracted(KerasNetwork(model))


def test_a_list_of_one_output_is_an_output(tmp_path):
    x = i = keras.Input((8, 8, 3), name="image")
    model = keras.Model([i], [L.Dense(2)(L.Flatten()(conv(6, name="a")(x)))])
    model.save(tmp_path / "m.h5")
    network = KerasNetwork(randomised(load_model(str(tmp_path / "m.h5"))))
    small = assert_masked_equals_extracted(network)
    assert small(np.ones((1, 8, 8, 3), np.float32)).shape == (1, 2)


def with_lambda():
    x = i = keras.Input((8, 8, 3), name="image")
    x = L.Lambda(lambda x: x * 2, name="double")(conv(6, name="a")(x))
    return keras.Model(i, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_code_in_a_file_runs_only_if_trusted(tmp_path, name, monkeypatch):
    path = str(tmp_path / name)
    with_lambda().save(path)
    with monkeypatch.context() as patch:
        patch.setattr(keras.models, "load_model", lambda *_, **__: pytest.fail("Keras has read it"))
        with pytest.raises(UserError, match=r"has a Lambda layer double, .*--trust"):
            load_model(path)
    assert [gate.name for gate in KerasNetwork(load_model(path, trust=True)).gates] == ["a"]


@keras.saving.register_keras_serializable("mine")
class Doubled(L.Layer):
    def call(self, x):
        return x * 2


def test_classes_of_other_modules_are_imported_only_if_trusted(tmp_path):
    i = keras.Input((8, 8, 3), name="image")
    path = str(tmp_path / "m.keras")
    keras.Model(i, conv(6)(Doubled()(i))).save(path)
    with pytest.raises(UserError, match=r"names Doubled of module .*--trust"):
        load_model(path)
    assert load_model(path, trust=True)


def test_what_is_no_model_is_named(tmp_path):
    def line(name):
        with pytest.raises(UserError) as caught:
            load_model(str(tmp_path / name))
        assert name in str(caught.value)
        return str(caught.value)

    assert "no such file" in line("missing.keras")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in line("folder")
    (tmp_path / "folder" / "saved_model.pb").write_bytes(b"")
    assert "SavedModel, which Keras 3 does not load" in line("folder")
    for name in ("m.pkl", "m"):
        (tmp_path / name).write_bytes(b"abc")
        assert "ends in .keras, .h5 or .hdf5" in line(name)
    for name in ("m.keras", "m.h5", "m.hdf5"):
        (tmp_path / name).write_bytes(b"abc" * 100)
        assert "damaged" in line(name)
    small_model().save(tmp_path / "whole.keras")
    data = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(data[: len(data) // 2])
    assert "damaged" in line("cut.keras")
    small_model().save_weights(tmp_path / "m.weights.h5")
    assert "weights only" in line("m.weights.h5")


@pytest.mark.parametrize("text", [b"[]", b"{}", b"3", b'{"class_name": "Lost"}', b"{"])
def test_any_configuration_gets_one_line(tmp_path, text):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", text)
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UserError, match=r"m\.keras"):
        load_model(str(path))


def test_a_layer_that_keras_does_not_know_is_named(tmp_path):
    path = str(tmp_path / "m.h5")
    small_model().save(path)

    def change(config):
        config["config"]["layers"][1]["class_name"] = "Mystery"

    edit_h5(path, change)
    with pytest.raises(UserError, match=r"cannot load this model .*Mystery"):
        load_model(path)


def test_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow"):
        load_model(str(tmp_path))
