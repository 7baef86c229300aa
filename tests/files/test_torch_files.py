"""torch_files reads what PyTorch wrote, in both forms, and believes no size or stride."""

import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from torch_file_writer import Global, Tensor, write_legacy, write_zip

from files import torch_files
from files.pickle_reader import UnsafePickle
from nets.parameters import read_parameters
from utils import UserError

BASE = np.arange(24, dtype=np.float32)
WRITERS = {"zip": write_zip, "legacy": write_legacy}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    return lambda value: WRITERS[request.param](tmp_path / "param.pth", value)


def assert_same(read, written):
    assert read.dtype == written.dtype and read.shape == written.shape
    np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "b1"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (4, 1, 3, 2), (0, 3)])
def test_tensor_comes_back_in_type_and_shape(write, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    read = torch_files.load_pth(write({"w": Tensor(array), "again": Tensor(array)}))
    assert list(read) == ["w", "again"]
    assert_same(read["w"], array)


def test_bfloat16_becomes_float32(write):
    array = np.array([0, 1, -2.5, 1e38, np.inf], np.float32)
    halves = (array.view(np.uint32) >> 16).astype(np.uint16)
    read = torch_files.load_pth(write({"w": Tensor(halves, kind="BFloat16Storage")}))["w"]
    assert_same(read, (halves.astype(np.uint32) << 16).view(np.float32))
    assert read[:3].tolist() == [0, 1, -2.5]


def test_views_of_one_storage_come_back(write):
    views = {
        "all": ((4, 6), (6, 1), 0),
        "transposed": ((6, 4), (1, 6), 0),
        "part": ((2, 3), (12, 2), 7),
        "one": ((), (), 23),
    }
    tensors = {
        name: Tensor(BASE, storage=BASE, size=s, stride=t, offset=o)
        for name, (s, t, o) in views.items()
    }
    read = torch_files.load_pth(write(tensors))
    assert_same(read["all"], BASE.reshape(4, 6))
    assert_same(read["transposed"], BASE.reshape(4, 6).T)
    assert_same(read["part"], np.float32([[7, 9, 11], [19, 21, 23]]))
    assert_same(read["one"], np.float32(23).reshape(()))


def test_a_state_dict_with_metadata_and_a_checkpoint_around_it_come_back(write):
    state = OrderedDict(
        {
            "module.fc.weight": Tensor(BASE.reshape(4, 6)),
            "bn.num_batches_tracked": Tensor(np.int64(7)),
        }
    )
    state._metadata = OrderedDict({"": {"version": 1}, "bn": {"version": 2}})
    read = torch_files.load_pth(
        write({"state_dict": state, "epoch": 3, "best": 0.5, "arch": "resnet"})
    )
    assert (read["epoch"], read["best"], read["arch"]) == (3, 0.5, "resnet")
    assert type(read["state_dict"]) is dict
    assert list(read["state_dict"]) == ["module.fc.weight", "bn.num_batches_tracked"]
    assert_same(read["state_dict"]["module.fc.weight"], BASE.reshape(4, 6))
    assert read["state_dict"]["bn.num_batches_tracked"] == 7


def test_parameters_of_a_pth_are_read_under_its_names(write):
    path = write(
        OrderedDict(
            {"fc.weight": Tensor(BASE.astype(np.float64).reshape(4, 6)), "n": Tensor(np.int64(7))}
        )
    )
    arrays, meta = read_parameters(str(path))
    assert_same(arrays["fc.weight"], BASE.reshape(4, 6))
    assert_same(arrays["n"], np.float32(7).reshape(()))
    assert meta == {}


def test_big_endian_storages_are_read(tmp_path):
    path = write_zip(
        tmp_path / "param.pth",
        {"w": Tensor(BASE)},
        order="big",
        **{"data/0": BASE.astype(">f4").tobytes()},
    )
    np.testing.assert_array_equal(torch_files.load_pth(path)["w"], BASE)


BAD_WINDOWS = {
    "behind the end": dict(size=(24,), stride=(1,), offset=1),
    "far offset": dict(size=(1,), stride=(1,), offset=2**62),
    "negative offset": dict(size=(1,), stride=(1,), offset=-1),
    "negative stride": dict(size=(4,), stride=(-1,), offset=8),
    "huge stride": dict(size=(2,), stride=(2**62,)),
    "stride beyond 64 bits": dict(size=(2,), stride=(2**70,)),
    "no stride": dict(size=(2**28,), stride=(0,)),  # 1 GiB of one number
    "a terabyte": dict(size=(2**38,), stride=(1,)),
    "overlapping": dict(size=(5, 24), stride=(0, 1)),
    "negative size": dict(size=(-1,), stride=(1,)),
    "overflowing": dict(size=(2**62, 2**62), stride=(0, 0)),
    "empty and huge": dict(size=(0, 2**62, 2**62), stride=(1, 1, 1)),
    "fewer strides": dict(size=(2, 3), stride=(1,)),
    "sizes that are none": dict(size=(2.0,), stride=(1,)),
    "no tuple": dict(size=[2], stride=(1,)),
    "more axes than an array has": dict(size=(1,) * 65, stride=(1,) * 65),
    "thousands of giant sizes": dict(size=(2**2000,) * 3000, stride=(1,) * 3000),
    "storage shorter than it says": dict(size=(24,), stride=(1,), count=25),
    "storage longer than it says": dict(size=(2,), stride=(1,), count=2),
    "storage of a terabyte": dict(size=(2,), stride=(1,), count=2**38),
}


@pytest.mark.parametrize("what", BAD_WINDOWS)
def test_a_window_that_its_storage_does_not_have_is_refused(write, what):
    with pytest.raises(ValueError) as refusal:
        torch_files.load_pth(write({"w": Tensor(BASE, storage=BASE, **BAD_WINDOWS[what])}))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["QInt8Storage", "ComplexFloatStorage", "UntypedStorage", "load"])
def test_storages_of_other_than_numbers_are_refused_by_name(write, kind):
    with pytest.raises(UnsafePickle, match=f"torch.{kind}"):
        torch_files.load_pth(write({"w": Tensor(BASE, kind=kind)}))


def test_other_names_of_torch_are_refused(write):
    for name in ("_rebuild_sparse_tensor", "_rebuild_device_tensor_from_numpy"):
        with pytest.raises(UnsafePickle, match=name):
            torch_files.load_pth(write({"w": Global("torch._utils", name)}))


@pytest.mark.parametrize("value", [[1, 2], 3, None, "text", Tensor(BASE)])
def test_what_is_no_dict_is_refused(write, value):
    with pytest.raises(ValueError):
        torch_files.load_pth(write(value))


def test_one_storage_of_two_types_is_refused(write):
    with pytest.raises(ValueError):
        torch_files.load_pth(
            write({"a": Tensor(BASE), "b": Tensor(BASE, storage=BASE, kind="DoubleStorage")})
        )


@pytest.mark.parametrize("missing", ["data/0", "data.pkl"])
def test_zip_without_a_member_is_refused(tmp_path, missing):
    path = write_zip(tmp_path / "param.pth", {"w": Tensor(BASE)}, **{missing: None})
    with pytest.raises(UserError):
        read_parameters(str(path))


def test_zip_with_two_pickles_is_refused(tmp_path):
    path = write_zip(
        tmp_path / "param.pth", {"w": Tensor(BASE)}, **{"other/data.pkl": pickle.dumps({})}
    )
    with pytest.raises(ValueError):
        torch_files.load_pth(path)


def test_storages_of_zeros_that_were_blown_up_are_refused(tmp_path):
    path = tmp_path / "param.pth"
    write_zip(path, {"w": Tensor(np.zeros(20 << 20, np.float32))}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="announces"):
        torch_files.load_pth(path)


@pytest.mark.long
def test_truncated_anywhere_is_refused(write):
    path = write({"w": Tensor(BASE), "n": Tensor(np.int64(7))})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError) as refusal:
            read_parameters(str(path))
        assert len(str(refusal.value).splitlines()) == 1
