"""What training scripts save beside weights is left alone, whatever its arguments are; weights that
need such a value are refused, and what could run something still is.
"""

import argparse
import collections
import datetime
import decimal
import fractions
import os
import pathlib
import pickle
import types
import uuid

import numpy as np
import pytest
from test_malicious_files import NAMES, Calls, text
from torch_file_writer import Global, Tensor, write_legacy, write_tar, write_zip
from torch_networks import state_dict

from files import pickle_reader, pickles, torch_files
from files.inert import is_inert
from nets.parameters import read_parameters
from utils import UserError

W = np.arange(6, dtype=np.float32)


class Called:
    """Pickles as a call of a name that need not exist, with a state and items."""

    def __init__(self, module, name, *arguments, state=None, items=None):
        made = Global(module, name)
        self.reduced = made, arguments, state, None, items and iter(items.items())

    def __reduce__(self):
        return self.reduced


VALUES = {
    "argparse.Namespace": argparse.Namespace(
        lr=0.1, data=pathlib.PurePosixPath("/data"), seen={1, 2}, inner=argparse.Namespace(x=1)
    ),
    "SimpleNamespace": types.SimpleNamespace(epochs=90),
    "Counter": collections.Counter({30: 1, 60: 1}),
    "defaultdict": collections.defaultdict(list, {"loss": [0.5, 0.25]}),
    "defaultdict of nothing": collections.defaultdict(None, {("a", 1): 2}),
    "deque": collections.deque([1.0, 2.0], maxlen=20),
    "set": {"a", "b"},
    "frozenset": frozenset([1]),
    "complex": 1 + 2j,
    "range": range(3),
    "slice": slice(1, 2),
    "path": pathlib.PurePosixPath("/runs/1"),
    "date": datetime.date(2024, 1, 2),
    "datetime": datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.timezone.utc),
    "timedelta": datetime.timedelta(seconds=3),
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "device": Called("torch", "device", "cuda", 0),
    "dtype": Global("torch", "float16"),
    "version": Called("torch.torch_version", "TorchVersion", "2.1.0"),
    "optimiser": Called(
        "torch.optim.sgd",
        "SGD",
        state={"param_groups": [{"lr": 0.1, "params": [Tensor(W)]}], None: 3},
        items={("tuple", 1): Tensor(W)},
    ),
    "schedule": Called("torch.optim.lr_scheduler", "MultiStepLR", state={"gamma": 0.1}),
    "loss": Called("torch.nn.modules.loss", "CrossEntropyLoss", state={"training": True}),
    "scaler": Called("torch.cuda.amp.grad_scaler", "GradScaler"),
}
FORMS = {
    "zip": write_zip,
    "five pickles": write_legacy,
    "tar": write_tar,
    "pickle": lambda path, value: path.write_bytes(pickle.dumps(value)),
    "zip of protocol 4": lambda path, value: write_zip(path, pickle.dumps(value, 4)),
}


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("form", ["zip", "five pickles", "tar"])
def test_values_beside_weights_are_left_alone(tmp_path, form, what):
    content = {"conv/kernel:0": Tensor(W), "args": VALUES[what], "epoch": 3, "n": Tensor(W)}
    path = FORMS[form](tmp_path / "checkpoint.pth", content)
    read = torch_files.load_pth(path)
    assert type(read["args"]) is pickle_reader.Inert and read["epoch"] == 3
    np.testing.assert_array_equal(read["conv/kernel:0"], W)
    np.testing.assert_array_equal(read["n"], W)  # what follows is not shifted


@pytest.mark.parametrize("form", ["pickle", "zip of protocol 4"])
def test_plain_pickles_of_later_protocols_are_read_too(tmp_path, form):
    plain = {key: value for key, value in VALUES.items() if type(value) is not Called}
    del plain["dtype"]
    (path := tmp_path / "param").write_bytes(b"")
    FORMS[form](path, {"conv/kernel:0": W, "other": plain})
    arrays, meta = read_parameters(str(path))
    assert list(arrays) == ["conv/kernel:0"] and meta == {}


@pytest.mark.long
def test_a_checkpoint_as_torchvisions_script_saves_it_is_read(tmp_path):
    state = state_dict("ResNet-18")
    content = {
        "model": {name: Tensor(array) for name, array in state.items()},
        "optimizer": {"state": {0: {"momentum_buffer": Tensor(W)}}, "param_groups": [{"lr": 1}]},
        "lr_scheduler": {"milestones": collections.Counter({30: 1}), "last_epoch": 3},
        "epoch": 3,
        "args": VALUES["argparse.Namespace"],
    }
    for form in ("zip", "five pickles"):
        arrays, meta = read_parameters(str(FORMS[form](tmp_path / "model_3.pth", content)))
        assert meta["arch"] == "ResNet-18"
        np.testing.assert_array_equal(arrays["fc/biases:0"][0], state["fc.bias"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "conv1.weight", "fc.bias"])
def test_weights_that_need_a_value_are_refused_by_name(tmp_path, name):
    content = {n: Tensor(array) for n, array in state_dict("ResNet-18").items()}
    content[name] = collections.Counter({1: 2})
    path = write_zip(tmp_path / "param.pth", content)
    with pytest.raises(UserError, match=r"refused: it names collections\.Counter"):
        read_parameters(str(path))


REFUSED = {
    "our own array": {"conv/kernel:0": VALUES["Counter"], "bn/gamma:0": Tensor(W)},
    "all there is": VALUES["Counter"],
    "an argument of a tensor": {
        "w": Called("torch._utils", "_rebuild_tensor_v2", VALUES["Counter"], 0, (1,), (1,))
    },
    "data of an array": {"w": Called("numpy.core.multiarray", "scalar", VALUES["Counter"], b"1")},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_made_of_a_value_is_refused_by_name(tmp_path, what):
    path = write_zip(tmp_path / "param.pth", REFUSED[what])
    with pytest.raises(UserError, match=r"refused: it names collections\.Counter"):
        read_parameters(str(path))


@pytest.mark.parametrize("form", ["zip", "five pickles", "tar"])
def test_arguments_of_a_value_do_not_run(tmp_path, form):
    made = tmp_path / "made"
    content = {"w": Tensor(W), "args": argparse.Namespace(x=Calls(os.system, f"touch '{made}'"))}
    path = FORMS[form](tmp_path / "param.pth", content)
    with pytest.raises(UserError, match=r"refused: it names posix\.system"):
        read_parameters(str(path))
    assert not made.exists()


@pytest.mark.parametrize("name", NAMES)
def test_other_names_stay_refused_beside_weights(name):
    module, attribute = name.split()
    if is_inert(f"{module}.{attribute}"):
        pytest.skip("inert beside weights")
    data = b"\x80\x04" + text(module) + text(attribute) + b"\x93."
    with pytest.raises(pickle_reader.UnsafePickle):
        pickles.load_pickle(data, inert=True)


def test_few_of_the_names_that_are_refused_in_data_are_inert_beside_weights():
    inert = [name for name in NAMES if is_inert(name.replace(" ", "."))]
    assert inert == [
        "copyreg _reconstructor",
        "types SimpleNamespace",
        "builtins bytearray",
        "builtins set",
        "collections defaultdict",
    ]


@pytest.mark.parametrize("name", ["list", "dict", "int", "float"])
def test_what_a_defaultdict_makes_is_inert_behind_it_alone(name):
    assert is_inert(f"builtins.{name}", "collections.defaultdict")
    assert not is_inert(f"builtins.{name}") and not is_inert("builtins.exec", "collections.Counter")
    assert not is_inert("builtins.exec", "collections.defaultdict")


def test_inert_values_are_for_parameter_files_alone():
    """A batch of CIFAR has no arguments of a training script."""
    with pytest.raises(pickle_reader.UnsafePickle, match="Counter"):
        pickles.load_pickle(pickle.dumps(collections.Counter()))


def test_a_whole_model_is_told_to_be_saved_as_its_state(tmp_path):
    content = Called("torchvision.models.resnet", "ResNet", state={"training": False})
    path = write_zip(tmp_path / "model.pth", content)
    with pytest.raises(UserError, match=r"a whole model, .* save its state_dict\(\)"):
        read_parameters(str(path))
