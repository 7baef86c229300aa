"""The forms of .pth files of before 2020: the .tar, and tensors and parameters of the five pickles
as they were written until 2018. Sizes are believed as little as in the later forms.
"""

import collections
import os
import struct

import numpy as np
import pytest
from mutation import within_bounds
from torch_file_writer import Global, Parameter, Tensor, write_legacy, write_tar, write_zip
from torch_networks import state_dict

from files import torch_files
from files.pickle_reader import UnsafePickle
from nets.parameters import read_parameters
from utils import UserError

BASE = np.arange(24, dtype=np.float32)
OLD = dict(rebuild="_rebuild_tensor")
FORMS = {
    "tar": write_tar,
    "five pickles": lambda path, value: write_legacy(path, value, **OLD),
    "zip": write_zip,
}


@pytest.fixture(params=FORMS)
def write(request, tmp_path):
    return lambda value: FORMS[request.param](tmp_path / "param.pth", value)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u1"])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 1, 3, 2)])
def test_tensors_and_parameters_come_back(write, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    content = collections.OrderedDict(
        w=Tensor(array), p=Parameter(Tensor(array + 1)), oldest=Parameter(Tensor(array + 2), None)
    )
    read = torch_files.load_pth(write(content))
    for n, name in enumerate(content):
        assert read[name].dtype == dtype
        np.testing.assert_array_equal(read[name], array + n)


def test_views_of_one_storage_come_back(write):
    views = {
        "all": ((4, 6), (6, 1), 0),
        "transposed": ((6, 4), (1, 6), 0),
        "part": ((2, 3), (12, 2), 7),
    }
    read = torch_files.load_pth(
        write(
            {
                name: Tensor(BASE, storage=BASE, size=s, stride=t, offset=o)
                for name, (s, t, o) in views.items()
            }
        )
    )
    np.testing.assert_array_equal(read["all"], BASE.reshape(4, 6))
    np.testing.assert_array_equal(read["transposed"], BASE.reshape(4, 6).T)
    np.testing.assert_array_equal(read["part"], [[7, 9, 11], [19, 21, 23]])


@pytest.mark.long
@pytest.mark.parametrize("form", ["tar", "five pickles"])
def test_a_network_of_torchvision_is_read(tmp_path, form):
    """As resnet18-5c106cde.pth: parameters for what is trained, tensors for statistics."""
    state = {n: a for n, a in state_dict("ResNet-18").items() if a.ndim}
    content = collections.OrderedDict(
        (name, Tensor(array) if "running" in name else Parameter(Tensor(array)))
        for name, array in state.items()
    )
    path = FORMS[form](tmp_path / "resnet18.pth", content)
    arrays, meta = read_parameters(str(path))
    assert meta == {"arch": "ResNet-18", "padding": "symmetric"} and len(arrays) == len(state)
    np.testing.assert_array_equal(arrays["fc/kernel:0"].T, state["fc.weight"])
    np.testing.assert_array_equal(arrays["bn/moving_mean:0"][0, 0, 0], state["bn1.running_mean"])


def test_storages_of_a_gpu_and_parts_of_storages_are_read(tmp_path):
    path, w = tmp_path / "param.pth", Tensor(BASE)
    on_gpu = write_tar(path, {"w": w}, device="cuda:0", kind="torch.cuda")
    np.testing.assert_array_equal(torch_files.load_pth(on_gpu)["w"], BASE)
    seen = write_legacy(
        path, {"w": Tensor(BASE, storage=BASE, size=(3,), stride=(2,))}, view=("9", 4, 6), **OLD
    )
    assert torch_files.load_pth(seen)["w"].tolist() == [4, 6, 8]


@pytest.mark.parametrize("view", [("9", 20, 5), ("9", -1, 5), ("9", 0, 2**70), ("9", 0), 3])
def test_a_part_that_a_storage_does_not_have_is_refused(tmp_path, view):
    content = {"w": Tensor(BASE, storage=BASE, size=(1,), stride=(1,))}
    with pytest.raises((ValueError, UnsafePickle)):
        torch_files.load_pth(write_legacy(tmp_path / "p.pth", content, view=view))


BAD_WINDOWS = {
    "behind the end": dict(size=(24,), stride=(1,), offset=1),
    "far offset": dict(size=(1,), stride=(1,), offset=2**62),
    "negative offset": dict(size=(1,), stride=(1,), offset=-1),
    "negative stride": dict(size=(4,), stride=(-1,), offset=8),
    "1 GiB of one number": dict(size=(2**28,), stride=(0,)),
    "more axes than an array has": dict(size=(1,) * 65, stride=(1,) * 65),
    "a storage longer than the file": dict(size=(24,), stride=(1,), count=2**60),
    "a storage of a negative length": dict(size=(24,), stride=(1,), count=-1),
}


@pytest.mark.parametrize("what", BAD_WINDOWS)
def test_sizes_in_a_tar_are_not_believed(tmp_path, what):
    path = write_tar(tmp_path / "param.pth", {"w": Tensor(BASE, storage=BASE, **BAD_WINDOWS[what])})
    with within_bounds(size=1 << 26), pytest.raises(UserError) as refusal:
        read_parameters(str(path))
    assert len(str(refusal.value).splitlines()) == 1


def number_of(count):
    return b"\x80\x02\x8a\x08" + struct.pack("<q", count) + b"."


DAMAGED = {
    "no storages": dict(storages=None),
    "too many tensors": dict(tensors=number_of(2**40)),
    "fewer tensors than it says": dict(tensors=number_of(7)),
    "an unknown tensor": dict(pickle=b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x007Qs."),
    "another persistent id": dict(pickle=b"\x80\x02}X\x01\x00\x00\x00wK\x07Qs."),
    "no pickle in sys_info": dict(sys_info=b"garbage"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_tar_is_refused(tmp_path, what):
    path = write_tar(tmp_path / "param.pth", {"w": Tensor(BASE)}, **DAMAGED[what])
    with pytest.raises(UserError) as refusal:
        read_parameters(str(path))
    assert len(str(refusal.value).splitlines()) == 1


def test_a_tar_cut_short_is_refused(tmp_path):
    data = write_tar(tmp_path / "whole.pth", {"w": Tensor(BASE)}).read_bytes()
    end = data.rindex(BASE.tobytes()) + BASE.nbytes + 1024  # behind it, tar has zeros alone
    for length in range(0, end - 1024, 97):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(UserError):
            read_parameters(str(tmp_path / "cut.pth"))


@pytest.mark.parametrize("member", ["pickle", "tensors", "storages", "sys_info"])
def test_a_tar_calls_nothing(tmp_path, member):
    attack = b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch made\x85R."
    path = write_tar(tmp_path / "param.pth", {"w": Tensor(BASE)}, **{member: attack})
    with pytest.raises(UserError, match=r"refused: it names os\.system"):
        read_parameters(str(path))
    assert not os.path.exists("made")


@pytest.mark.parametrize("argument", [{}, "text", Global("torch", "FloatTensor")])
def test_a_parameter_without_a_tensor_is_refused(write, argument):
    with pytest.raises(ValueError, match="a parameter without a tensor"):
        torch_files.load_pth(write({"w": Parameter(argument)}))
