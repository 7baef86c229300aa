"""CIFAR from Keras' cache: Keras downloads, this project reads."""

import os
import pickle

import numpy as np
import pytest
from cifar_files import CLASSES, PYTHON, generate, write_archive, write_python

from dataloader.cifar import load_cifar
from utils import UserError


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("version", [2, 3])
def test_keras_cache_is_read_where_its_versions_keep_it(tmp_path, monkeypatch, name, version):
    arrays = generate(name)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    write_python(
        tmp_path / "datasets" / ("" if version == 2 else f"{PYTHON[name]}-target"), name, arrays
    )
    for read, written in zip(load_cifar(name, CLASSES[name]), arrays):
        np.testing.assert_array_equal(read, written)


def test_a_folder_that_was_not_filled_is_passed_over(tmp_path, monkeypatch):
    arrays = generate("CIFAR10")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets" / PYTHON["CIFAR10"]).mkdir(parents=True)
    write_python(tmp_path / "datasets" / f"{PYTHON['CIFAR10']}-target", "CIFAR10", arrays)
    np.testing.assert_array_equal(load_cifar("CIFAR10", 10)[0], arrays[0])


@pytest.mark.parametrize(
    "read_only, read",
    [
        ((), False),
        (("home",), True),  # Keras cannot create home/.keras
        (("home/.keras",), True),
    ],
)
def test_the_fallback_that_anyone_may_write_is_read_only_if_keras_would_use_it(
    tmp_path, monkeypatch, read_only, read
):
    """The user's home has no cache; the folder for temporary files has one, perhaps forged."""
    for folder in ("home", *read_only):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    access = os.access  # of the superuser, who may write to read-only folders too
    locked = {str(tmp_path / folder) for folder in read_only}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in locked and access(path, mode))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("dataloader.cifar.KERAS_FALLBACK", str(tmp_path / "shared"))
    forged = generate("CIFAR10")
    write_python(tmp_path / "shared" / "datasets", "CIFAR10", forged)

    def get_file(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("tensorflow.keras.utils.get_file", get_file)
    if read:
        np.testing.assert_array_equal(load_cifar("CIFAR10", 10)[0], forged[0])
    else:
        with pytest.raises(UserError, match="not in Keras' cache"):
            load_cifar("CIFAR10", 10)


def test_the_fallback_is_read_if_keras_home_cannot_be_written(tmp_path, monkeypatch):
    arrays, access = generate("CIFAR10"), os.access
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(locked) and access(path, mode))
    monkeypatch.setenv("KERAS_HOME", str(locked / "keras"))
    monkeypatch.setattr("dataloader.cifar.KERAS_FALLBACK", str(tmp_path / "shared"))
    write_python(tmp_path / "shared" / "datasets", "CIFAR10", arrays)
    np.testing.assert_array_equal(load_cifar("CIFAR10", 10)[0], arrays[0])


def test_keras_cache_is_no_more_trusted_than_other_files(tmp_path, monkeypatch):
    class Calls:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'made'}'",)

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    folder = write_python(tmp_path / "datasets", "CIFAR10", generate("CIFAR10"))
    (folder / "test_batch").write_bytes(pickle.dumps(Calls()))
    with pytest.raises(UserError, match=r"test_batch is refused: it names posix.system"):
        load_cifar("CIFAR10", 10)
    assert not (tmp_path / "made").exists()


def test_what_keras_downloads_is_read_here(tmp_path, monkeypatch):
    arrays = generate("CIFAR100")
    archive = write_archive(write_python(tmp_path / "elsewhere", "CIFAR100", arrays))
    asked = []

    def get_file(name, origin, file_hash):
        asked.append((name, origin, len(file_hash)))
        return str(archive)

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tensorflow.keras.utils.get_file", get_file)
    np.testing.assert_array_equal(load_cifar("CIFAR100", 100)[1], arrays[1])
    assert asked == [
        ("cifar-100-python.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", 64)
    ]


def test_no_network_is_one_line(tmp_path, monkeypatch):
    def get_file(*_, **__):
        raise OSError("URL fetch failure\non two lines")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("tensorflow.keras.utils.get_file", get_file)
    with pytest.raises(
        UserError,
        match=r"cannot be downloaded \(URL fetch failure on two lines\); give --data_path",
    ):
        load_cifar("CIFAR10", 10)
