"""Files that are whole or absent, parameter files, and the learning-rate schedule."""

import errno
import itertools
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from engine.options import TrainOptions
from nets import build_network
from nets.parameters import read_parameters, write_parameters
from utils import UserError, learning_rate_at, whole_file, write_json, writing_to

ARRAYS = {
    "conv/kernel:0": np.arange(54, dtype=np.float32).reshape(3, 3, 1, 6),
    "bn/gamma:0": np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 1, 1, 6),
    "fc/biases:0": np.array([[0.1, -0.0, 1e-38, 3e38]], np.float32),
}
META = {
    "arch": "ResNet-20",
    "classes": 10,
    "flops_rate": 0.45,
    "versions": {"numpy": "2"},
    "name": "Größe",
}


def refusal_of(path):
    """The message with which a parameter file is refused: one line that names the file."""
    with pytest.raises(UserError) as refusal:
        read_parameters(str(path))
    message = str(refusal.value)
    assert str(path) in message and len(message.splitlines()) == 1
    return message


def assert_same_arrays(read, written):
    assert set(read) == set(written)
    for name, array in written.items():
        assert read[name].dtype == np.float32 and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


# -------------------------------------------------------------------------------------- whole files


def test_file_appears_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "file"
    with whole_file(str(path)) as file:
        file.write(b"begin, ")
        file.flush()
        assert not path.exists()
        file.write(b"end")
    assert path.read_bytes() == b"begin, end"
    assert os.listdir(tmp_path) == ["file"]


def test_former_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    with whole_file(str(path), "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "former"
    assert path.read_text() == "new"


def test_a_place_that_cannot_be_written_is_a_mistake_and_a_full_disk_is_not(tmp_path):
    with pytest.raises(UserError, match=r"^--out .*: No such file or directory; choose another f"):
        with writing_to("--out", tmp_path / "new", "file"), whole_file(tmp_path / "new" / "file"):
            pass
    with pytest.raises(OSError, match="No space left"), writing_to("--out", tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("former", [None, b"former"])
def test_block_that_raises_leaves_everything_as_it_was(tmp_path, error, former):
    path = tmp_path / "file"
    if former is not None:
        path.write_bytes(former)
    with pytest.raises(error), whole_file(str(path)) as file:
        file.write(b"half")
        raise error
    assert os.listdir(tmp_path) == ([] if former is None else ["file"])
    if former is not None:
        assert path.read_bytes() == former


def test_value_that_json_refuses_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(str(tmp_path / "config.json"), {"first": 1, "then": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)]
)
def test_permissions_are_those_of_an_ordinary_file(tmp_path, umask, mode):
    former = os.umask(umask)
    try:
        with whole_file(str(tmp_path / "file")) as file:
            file.write(b"x")
        assert os.umask(umask) == umask, "the process's umask must not change"
    finally:
        os.umask(former)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_relative_path_goes_to_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_file("file", "w") as file:
        file.write("x")
    assert (tmp_path / "file").read_text() == "x"


# ---------------------------------------------------------------------------------- parameter files


@pytest.mark.parametrize("name", ["param.pkl", "param.npz", "param"])
def test_parameter_file_comes_back_with_its_meta(tmp_path, name):
    path = str(tmp_path / name)
    write_parameters(path, ARRAYS, META)
    arrays, meta = read_parameters(path)
    assert_same_arrays(arrays, ARRAYS)
    assert meta == META
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["param.pkl", "param.npz"])
def test_parameter_file_of_a_network_comes_back(tmp_path, name):
    path = str(tmp_path / name)
    parameters = build_network("ResNet-20", 10, 32).parameters()
    write_parameters(path, parameters, {})
    arrays, _ = read_parameters(path)
    assert_same_arrays(arrays, parameters)
    assert_same_arrays(build_network("ResNet-20", 10, 32, arrays).parameters(), parameters)


def test_published_format_is_a_plain_pickled_dict_of_float32_arrays(tmp_path):
    path = tmp_path / "param.pkl"
    write_parameters(str(path), {"w": np.asfortranarray(np.arange(6.0).reshape(2, 3))}, META)
    content = pickle.loads(path.read_bytes())
    assert content["w"].dtype == np.float32 and content["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert json.loads(content["__meta__"]) == META


def test_npz_opens_with_numpy_alone(tmp_path):
    path = tmp_path / "param.npz"
    write_parameters(str(path), ARRAYS, META)
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {*ARRAYS, "__meta__"}
        assert json.loads(str(archive["__meta__"])) == META


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<i8", "uint8", "bool"])
def test_other_numbers_become_float32(tmp_path, dtype):
    path = tmp_path / "param.pkl"
    array = np.arange(6).reshape(2, 3).astype(dtype)
    path.write_bytes(pickle.dumps({"w": array}))
    arrays, meta = read_parameters(str(path))
    assert_same_arrays(arrays, {"w": array.astype(np.float32)})
    assert meta == {}


def test_arrays_read_can_be_written_to(tmp_path):
    write_parameters(str(tmp_path / "param.pkl"), ARRAYS, {})
    for array in read_parameters(str(tmp_path / "param.pkl"))[0].values():
        array += 1


def test_other_keys_are_ignored(tmp_path):
    path = tmp_path / "param.pkl"
    others = {
        "epoch": 3,
        "history": [1.5, np.ones(2)],
        7: np.ones(2),
        b"bytes": np.ones(2),
        "none": None,
        "name": "ResNet",
    }
    path.write_bytes(pickle.dumps({**others, **ARRAYS}))
    arrays, meta = read_parameters(str(path))
    assert_same_arrays(arrays, ARRAYS)
    assert meta == {}


@pytest.mark.parametrize(
    "entry", ["no json", "[1, 2]", "3", 17, ["a"], {"arch": "ResNet-20"}, None, ""]
)
def test_strange_meta_counts_as_none(tmp_path, entry):
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps({**ARRAYS, "__meta__": entry}))
    arrays, meta = read_parameters(str(path))
    assert_same_arrays(arrays, ARRAYS)
    assert meta == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["param.pkl", "param.npz"])
def test_nan_and_infinity_are_refused_and_located(tmp_path, name, value):
    spoilt = np.ones((1, 1, 1, 6), np.float32)
    spoilt[..., 4] = value
    write_parameters(str(tmp_path / name), {**ARRAYS, "bn/gamma:0": spoilt}, META)
    assert "bn/gamma:0" in refusal_of(tmp_path / name)


@pytest.mark.parametrize("value", [[1, 2], "text", 3, None, np.ones(3, np.float32), (ARRAYS,)])
def test_what_is_no_dict_is_refused(tmp_path, value):
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps(value))
    assert "dict" in refusal_of(path)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, {3: np.ones(2)}])
def test_dict_without_arrays_is_refused(tmp_path, value):
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps(value))
    assert "no array" in refusal_of(path)


@pytest.mark.parametrize("name", ["missing.pkl", "missing.npz", "no/folder/param.pkl"])
def test_missing_file_is_refused(tmp_path, name):
    refusal_of(tmp_path / name)


def test_folder_is_refused(tmp_path):
    refusal_of(tmp_path)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_malicious_parameter_file_is_refused_and_does_nothing(tmp_path):
    path, made = tmp_path / "param.pkl", tmp_path / "made"
    path.write_bytes(pickle.dumps({**ARRAYS, "x": Touch(made)}))
    assert "system" in refusal_of(path)
    assert not made.exists()


@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_object_array_is_refused_and_does_nothing(tmp_path, kind):
    path, made = tmp_path / "param", tmp_path / "made"
    content = {**ARRAYS, "x": np.array([Touch(made)], object)}
    if kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, **content)
    else:
        path.write_bytes(pickle.dumps(content))
    refusal_of(path)
    assert not made.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"PK",
        b"PK\x03\x04",
        b"PK\x03\x04garbage",
        b"garbage\n\n",
        bytes(1000),
        b"\x80\x04",
    ],
)
def test_garbage_is_refused(tmp_path, data):
    path = tmp_path / "param.pkl"
    path.write_bytes(data)
    refusal_of(path)


@pytest.mark.parametrize("name", ["param.pkl", "param.npz"])
def test_truncated_parameter_file_is_refused(tmp_path, name):
    path = tmp_path / name
    write_parameters(str(path), ARRAYS, META)
    data = path.read_bytes()
    for length in (1, 3, 4, 10, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        refusal_of(path)


def test_npz_with_an_impossible_shape_in_its_header_is_refused(tmp_path):
    path = tmp_path / "param.npz"
    header = (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000), }".ljust(117)
        + "\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        )
    refusal_of(path)


def test_archive_that_holds_no_arrays_is_refused(tmp_path):
    path = tmp_path / "param.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal_of(path)


@pytest.mark.long
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_changed_byte_is_read_or_refused(tmp_path, save):
    path = tmp_path / "param.npz"
    save(path, w=np.arange(300, dtype=np.float32))
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        path.write_bytes(bytes(changed))
        try:
            read_parameters(str(path))
        except UserError as error:
            assert str(path) in str(error)


# ----------------------------------------------------------------------------------------- schedule


def training(epochs, learning_rate=1.0, points=(), rate=0.1, **options):
    return TrainOptions(epochs, learning_rate, points, rate, 0.0, 1, **options)


@pytest.mark.parametrize(
    "epochs, bounds",
    [
        (100, (0, 30, 60, 80, 100)),
        (10, (0, 3, 6, 8, 10)),
        (200, (0, 60, 120, 160, 200)),
        (5, (0, 2, 3, 4, 5)),
    ],
)
def test_learning_rate_falls_to_a_fifth_at_30_60_and_80_percent(epochs, bounds):
    options = training(epochs, 1e-2, (0.3, 0.6, 0.8), 0.2)
    for passed, (begin, end) in enumerate(itertools.pairwise(bounds)):
        for epoch in range(begin, end):
            for within in (0, 0.5, 0.99):
                rate = learning_rate_at(epoch + within, options)
                assert rate == pytest.approx(1e-2 * 0.2**passed), f"epoch {epoch}"


@pytest.mark.parametrize("epochs", [10, 20, 50, 100, 130, 160, 200, 300])
@pytest.mark.parametrize("percent", [7, 14, 29, 30, 55, 57, 58, 60, 70, 80, 90])
def test_rounding_of_floats_does_not_move_a_boundary(epochs, percent):
    """0.29 * 100 is 28.999..., 0.07 * 100 is 7.000...1."""
    options = training(epochs, points=(percent / 100,))
    first = next(e for e in range(epochs + 1) if learning_rate_at(e, options) < 1)
    assert first == -(-percent * epochs // 100)


def test_learning_rate_without_decay_points_stays():
    assert {learning_rate_at(epoch, training(10, 0.5)) for epoch in range(10)} == {0.5}


def test_decay_at_the_end_of_training_never_comes():
    assert learning_rate_at(9, training(10, 0.5, (1.0,))) == 0.5


def test_cosine_falls_from_the_learning_rate_to_0_and_is_half_of_it_in_the_middle():
    rates = [
        learning_rate_at(at, training(8, 0.4, schedule="cosine")) for at in np.linspace(0, 8, 65)
    ]
    assert (
        rates[0] == 0.4
        and rates[32] == pytest.approx(0.2)
        and rates[-1] == pytest.approx(0, abs=1e-12)
    )
    assert (np.diff(rates) < 0).all()


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_warm_up_rises_in_proportion_and_then_the_schedule_begins(schedule):
    options = training(10, 0.4, (0.5,), schedule=schedule, warm_up=2)
    assert [learning_rate_at(at, options) for at in (0.5, 1, 1.5, 2)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )
    assert learning_rate_at(6, options) == pytest.approx(0.2 if schedule == "cosine" else 0.04)
