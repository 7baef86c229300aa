"""A file that holds no weights is named as what it is, with what to do."""

import gzip
import io
import json
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from torch_file_writer import Tensor, write_tar, write_zip

from nets.parameters import read_parameters, write_parameters
from utils import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"
INDEX = {"metadata": {}, "weight_map": {"a": "model-1-of-2.safetensors", "b": "2"}}


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")


def tarred(path, mode):
    with tarfile.open(path, mode) as archive:
        info = tarfile.TarInfo("resnet50.pth")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"1234"))


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3)


def checkpoint(path):
    """The .index of a TensorFlow checkpoint."""
    tf.train.Checkpoint(w=tf.Variable(1.0)).write(str(path.with_name("ckpt")))
    path.with_name("ckpt.index").rename(path)


KINDS = {
    "git-lfs": (lambda p: p.write_bytes(POINTER), "a pointer of git-lfs, .* `git lfs pull`"),
    "web page": (lambda p: p.write_bytes(b"<!DOCTYPE html>\n<html>404</html>"), "a web page"),
    "web page in small letters": (lambda p: p.write_bytes(b"\n<html><body>"), "a web page"),
    "XML": (lambda p: p.write_bytes(b"<?xml version='1.0'?><Error/>"), "a web page"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"w" * 99)), r"an archive \(gzip\); unpack"),
    "tar": (lambda p: tarred(p, "w"), r"an archive \(tar\); unpack"),
    "tar.gz": (lambda p: tarred(p, "w:gz"), r"an archive \(gzip\); unpack"),
    "tar.bz2": (lambda p: tarred(p, "w:bz2"), r"an archive \(bzip2\); unpack"),
    "tar.xz": (lambda p: tarred(p, "w:xz"), r"an archive \(xz\); unpack"),
    "zip": (lambda p: zipped(p, "a.pth", "b"), r"an archive \(zip of a.pth and 1 more\); unpack"),
    "Keras": (
        lambda p: zipped(p, "metadata.json", "config.json", "model.weights.h5"),
        "a Keras model; prune_keras.py",
    ),
    "TorchScript": (
        lambda p: zipped(p, "m/data.pkl", "m/constants.pkl", "m/code/m.py"),
        r"a TorchScript program; save the state_dict\(\)",
    ),
    "HDF5": (hdf5, "an HDF5 file, .*prune_keras.py"),
    "npy": (lambda p: np.save(p.open("wb"), np.ones(3)), r"one array \(.npy\)"),
    "index": (lambda p: p.write_text(json.dumps(INDEX)), "the index of weights in 2 files"),
    "index of one": (
        lambda p: p.write_text('{"weight_map": {"a": "model.safetensors"}}'),
        "the index of model.safetensors; give that file",
    ),
    "JSON": (lambda p: p.write_text('{"architectures": ["ResNet"]}'), "a JSON file"),
    "checkpoint": (
        lambda p: p.write_text('model_checkpoint_path: "model.ckpt-90"\n'),
        "the index of TensorFlow checkpoints",
    ),
    "checkpoint's index": (checkpoint, "the index of TensorFlow checkpoints"),
    "TFLite": (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(99)), "a TFLite model"),
    "image": (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0" + bytes(99)), "an image"),
    "text": (lambda p: p.write_text("Not Found\n"), "a text file that begins with 'Not'"),
    "e-mail": (lambda p: p.write_text("Größe: 3\n"), "a text file that begins with 'Größe:'"),
}


@pytest.mark.parametrize("what", KINDS)
def test_what_is_no_file_of_weights_is_named(tmp_path, what):
    write, said = KINDS[what]
    write(tmp_path / "param.pth")
    with pytest.raises(UserError, match=f"param.pth is no parameter file: it is {said}") as refusal:
        read_parameters(str(tmp_path / "param.pth"))
    assert len(str(refusal.value).splitlines()) == 1


def test_links_in_a_tar_are_not_followed(tmp_path):
    path = write_tar(tmp_path / "param.pth", {"w": Tensor(np.ones(2, "f4"))}, storages=None)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match="it is an archive"):
        read_parameters(str(path))


def test_the_name_in_an_archive_sends_nothing_to_the_terminal(tmp_path):
    zipped(tmp_path / "a.zip", "\x1b[2Jred")
    with pytest.raises(UserError) as refusal:
        read_parameters(str(tmp_path / "a.zip"))
    assert str(refusal.value).isprintable()


def test_a_folder_is_named_with_what_could_be_meant_in_it(tmp_path):
    with pytest.raises(UserError, match=r"it is a folder$"):
        read_parameters(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"a folder; give a file in it, e\.g\. model\.safetensors"):
        read_parameters(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match="a folder; it is a SavedModel"):
        read_parameters(str(tmp_path))


def test_files_of_weights_are_of_no_other_kind(tmp_path):
    w = np.ones(3, np.float32)
    for name in ("a.pkl", "a.npz"):
        write_parameters(str(tmp_path / name), {"conv/kernel:0": w}, {})
        assert "conv/kernel:0" in read_parameters(str(tmp_path / name))[0]
    for write in (write_zip, write_tar):
        assert read_parameters(str(write(tmp_path / "a.pth", {"conv/kernel:0": Tensor(w)})))[0]
