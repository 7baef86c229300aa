"""Files that would run something are refused by the name of it, through every door, and do not run
it.
"""

import builtins
import contextlib
import copyreg
import functools
import io
import marshal
import os
import pathlib
import pickle
import struct
import subprocess

import numpy as np
import pytest
from cifar_files import generate, planes, write, write_archive, write_npz
from python2 import python2
from torch_file_writer import write_legacy, write_tar, write_zip

from dataloader.cifar import load_cifar
from files import pickle_reader, pickles
from nets.parameters import read_parameters
from utils import UserError


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def code_that_makes(path):
    data = marshal.dumps(compile(f"open({path!r}, 'w')", "", "exec"))
    return b"B" + struct.pack("<I", len(data)) + data


def running(path):
    """name -> (pickle, or object to pickle, that makes the file `path` when unpickled; the name
    that betrays it).
    """
    command, code = f"touch '{path}'", f"open({path!r}, 'w').close()"
    touch, shell = ["touch", path], text(f"touch '{path}'")
    objects = np.empty(2, object)
    objects[:] = [1, Calls(os.system, command)]
    arrays = pickle.dumps({"w": np.ones(2)}, 2)
    file = text(path) + text("uint8") + text("w+") + b"K\x00K\x04\x85"  # numpy.memmap's arguments
    return {
        "os.system": (Calls(os.system, command), "posix.system"),
        "eval": (Calls(builtins.eval, code), ".eval"),
        "exec": (Calls(builtins.exec, code), ".exec"),
        "open": (Calls(builtins.open, path, "w"), "open"),
        "subprocess": (Calls(subprocess.check_call, touch), ".check_call"),
        "nested": (
            {
                "fc/kernel:0": np.ones(2, np.float32),
                "x": [1, {"y": (Calls(subprocess.call, touch),)}],
            },
            ".call",
        ),
        "key of a dict": ({Calls(os.system, command): 1}, "posix.system"),
        "behind arrays": (
            [np.ones((2, 2)), np.float32(1), Calls(os.system, command)],
            "posix.system",
        ),
        "object array": (objects, "an array of dtype 'O8'"),
        "numpy.save": (Calls(np.save, path, 1), "numpy.save"),
        "numpy.memmap": (Calls(np.memmap, path, "uint8", "w+", 0, (4,)), "numpy.memmap"),
        "numpy's runstring": (
            Calls(np.testing._private.utils.runstring, code, {}),
            "numpy.testing._private.utils.runstring",
        ),
        "functools.partial": (Calls(functools.partial(os.system, command)), "functools.partial"),
        "pathlib": (Calls(pathlib.Path.touch, pathlib.PosixPath(path)), (".getattr", "Path.touch")),
        "pickle in a pickle": (
            Calls(pickle.loads, pickle.dumps(Calls(os.system, command))),
            ".loads",
        ),
        "map": (Calls(list, Calls(map, builtins.exec, [code])), ".list"),
        "getattr": (
            b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR(" + shell + b"tR.",
            "builtins.getattr",
        ),
        "attrgetter": (
            b"coperator\nattrgetter\n(Vsystem\ntR(cbuiltins\n__import__\n(Vos\ntRtR("
            + shell
            + b"tR.",
            "attrgetter",
        ),
        "FunctionType": (
            b"ctypes\nFunctionType\n(cmarshal\nloads\n(" + code_that_makes(path) + b"tR}tR(tR.",
            "types.FunctionType",
        ),
        "marshal": (
            b"cbuiltins\nexec\n(cmarshal\nloads\n(" + code_that_makes(path) + b"tRtR.",
            "builtins.exec",
        ),
        "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + shell + b"\x85R.", "os.system"),
        "attribute of a module": (
            b"\x80\x04\x8c\nsubprocess\x8c\tos.system\x93" + shell + b"\x85R.",
            "subprocess.os.system",
        ),
        "memoised name": (
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93" + shell + b"\x85R.",
            "os.system",
        ),
        "INST": (b"(" + shell + b"ios\nsystem\n.", "os system"),
        "OBJ": (b"(cos\nsystem\n" + shell + b"o.", "os.system"),
        "NEWOBJ": (b"\x80\x02cnumpy\nmemmap\n(" + file + b"t\x81.", "numpy.memmap"),
        "NEWOBJ_EX": (b"\x80\x04cnumpy\nmemmap\n(" + file + b"t}\x92.", "numpy.memmap"),
        "EXT1": (b"\x80\x02\x82\x7b" + shell + b"\x85R.", "EXT1 123"),
        "BUILD on what was called": (b"\x80\x02cos\nsystem\n" + shell + b"\x85R}b.", "os.system"),
        "behind what is thrown away": (
            arrays[:-1] + b"0cos\nsystem\n" + shell + b"\x85R.",
            "os.system",
        ),
    }


# What has no harmless way of running, or needs what is not installed: the name alone is refused.
NAMES = [
    "numpy load",
    "numpy fromfile",
    "numpy loadtxt",
    "numpy.f2py compile",
    "numpy.lib.npyio DataSource",
    "numpy matrix",
    "numpy recarray",
    "numpy ufunc",
    "numpy.core.multiarray fromstring",
    "numpy.core.multiarray set_string_function",
    "torch load",
    "torch.jit load",
    "torch.hub load",
    "torch.serialization load",
    "torch._utils _rebuild_sparse_tensor",
    "copyreg _reconstructor",
    "copyreg add_extension",
    "types CodeType",
    "types SimpleNamespace",
    "builtins __import__",
    "builtins bytearray",
    "builtins type",
    "builtins set",
    "_codecs decode",
    "_codecs lookup",
    "codecs open",
    "collections defaultdict",
    "collections.OrderedDict fromkeys",
    "numpy dtype.type",
    "ctypes CDLL",
    "socket socket",
    "tensorflow.python.framework.load_library load_op_library",
    "webbrowser open",
    "shutil rmtree",
    "__main__ anything",
    "files.guards read_file",
    "files.pickle_reader run",
    "utils write_json",
]


@pytest.fixture
def made(tmp_path):
    return tmp_path / "made.npy"  # numpy.save would append the ending


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", 123)
    yield
    copyreg.remove_extension("os", "system", 123)
    copyreg.clear_extension_cache()


def pickled(value, protocol=2):
    return value if isinstance(value, bytes) else pickle.dumps(value, protocol)


def assert_named(message, betrayed):
    assert len(message.splitlines()) == 1
    assert any(
        name in message for name in ([betrayed] if isinstance(betrayed, str) else betrayed)
    ), message


@pytest.mark.parametrize("name", running(""))
def test_the_attacks_do_run_when_unpickled_without_care(made, extension, name):
    """Else the absence of the file below would prove nothing."""
    with contextlib.suppress(AttributeError, TypeError):  # of some, once they have run
        pickle.loads(pickled(running(str(made))[name][0]))
    assert made.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("encoding", ["ASCII", "bytes"])
@pytest.mark.parametrize("name", running(""))
def test_attacks_are_refused_by_name_and_do_not_run(made, extension, name, encoding, protocol):
    value, betrayed = running(str(made))[name]
    with pytest.raises(pickle_reader.UnsafePickle) as refusal:
        pickles.load_pickle(pickled(value, protocol), encoding)
    assert_named(str(refusal.value), betrayed)
    assert not made.exists()


DOORS = ["param.pkl", "zip .pth", "legacy .pth", "tar .pth", "CIFAR folder", "CIFAR archive"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", running(""))
def test_every_door_is_shut(tmp_path, made, extension, name, door):
    value, betrayed = running(str(made))[name]
    data = pickled(value)
    if door.startswith("CIFAR"):
        folder = write("binary", tmp_path, "CIFAR10", generate("CIFAR10"))
        for file in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
            (folder / file).write_bytes(data)
        path = write_archive(folder) if door == "CIFAR archive" else folder
        read = lambda: load_cifar("CIFAR10", 10, str(path))
    else:
        path = tmp_path / "param"
        writers = {"zip .pth": write_zip, "legacy .pth": write_legacy, "tar .pth": write_tar}
        writer = writers.get(door, lambda path, data: path.write_bytes(data))
        writer(path, data)
        read = lambda: read_parameters(str(path))
    with pytest.raises(UserError, match="refused") as refusal:
        read()
    assert_named(str(refusal.value), betrayed)
    assert str(path) in str(refusal.value)
    assert not made.exists()


@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL"])
@pytest.mark.parametrize("name", NAMES)
def test_every_other_name_is_refused(name, form):
    module, attribute = name.split()
    stacked = b"\x80\x04" + text(module) + text(attribute) + b"\x93."
    with pytest.raises(pickle_reader.UnsafePickle) as refusal:
        pickles.load_pickle(
            stacked if form == "STACK_GLOBAL" else f"c{module}\n{attribute}\n.".encode()
        )
    assert_named(str(refusal.value), f"{module}.{attribute}")


OPCODES = {
    "PERSID": b"Pos.system\n.",
    "a persistent id": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05\x98.",
    "EXT2": b"\x80\x02\x83\x01\x01.",
    "EXT4": b"\x80\x02\x84\x01\x01\x01\x01.",
    "EMPTY_SET": b"\x80\x04\x8f.",
    "FROZENSET": b"\x80\x04(K\x01\x91.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cnumpy\ndtype\n)}\x92.",
    "OBJ": b"(ccollections\nOrderedDict\no.",
    "INST collections OrderedDict": b"(icollections\nOrderedDict\n.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_that_no_file_of_arrays_needs_are_refused(name):
    with pytest.raises(pickle_reader.UnsafePickle) as refusal:
        pickles.load_pickle(OPCODES[name])
    assert_named(str(refusal.value), name)


ADMITTED = [
    "numpy dtype",
    "numpy ndarray",
    "_codecs encode",
    "collections OrderedDict",
    "numpy.core.multiarray _reconstruct",
]
STATES = [
    b"}" + text("x") + b"Ns",
    b"N}" + text("__defaults__") + b"K\x01\x85s\x86",
    b"}" + text("function") + b"Ns",
    b"N",
    b"]",
]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ADMITTED)
def test_nothing_admitted_can_be_given_a_state(name, state):
    """Python's unpickler would set attributes, even __defaults__, of the functions here for all
    files to come.
    """
    intact = pickle.dumps({"w": np.arange(3.0)}, 2)
    data = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + state + b"b."
    with pytest.raises((ValueError, pickle_reader.UnsafePickle)):
        pickles.load_pickle(data)
    assert pickles.load_pickle(intact)["w"].tolist() == [0, 1, 2]


def test_state_of_an_ordered_dict_shadows_nothing():
    data = (
        b"\x80\x02ccollections\nOrderedDict\n)R"
        + text("w")
        + b"K\x01s}"
        + text("items")
        + b"K\x01sb."
    )
    read = pickles.load_pickle(data)
    assert type(read) is dict and list(read.items()) == [("w", 1)]


@pytest.mark.parametrize("name", ["numpy ndarray", "numpy dtype"])
def test_stand_ins_cannot_be_called_for_memory(name):
    """numpy.ndarray((2**40,)) would ask for a terabyte."""
    data = (
        b"\x80\x02c"
        + name.replace(" ", "\n").encode()
        + b"\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R."
    )
    with pytest.raises((ValueError, pickle_reader.UnsafePickle)):
        pickles.load_pickle(data)


@pytest.mark.parametrize("function", [b"]", b"K\x01", b"X\x02\x00\x00\x00os", b"}"])
def test_only_names_can_be_called(function):
    with pytest.raises(ValueError, match="call"):
        pickles.load_pickle(b"\x80\x02" + function + b")R.")


@pytest.mark.parametrize(
    "dtype", ["i4,f4", [("a", "f4"), ("b", "O")], "O", "U4", "S4", "M8[s]", "c8", "V3"]
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_anything_but_numbers_are_refused(protocol, dtype):
    with pytest.raises(pickle_reader.UnsafePickle):
        pickles.load_pickle(pickle.dumps(np.zeros(2, dtype), protocol))


def test_a_second_pickle_behind_a_valid_one_is_refused_and_does_not_run(tmp_path, made):
    data = pickle.dumps({"w": np.ones(2, np.float32)})
    attack = pickle.dumps(Calls(os.system, f"touch '{made}'"))
    (tmp_path / "param.pkl").write_bytes(data + attack)
    with pytest.raises(UserError, match="follows"):
        read_parameters(str(tmp_path / "param.pkl"))
    assert not made.exists()
    stream = io.BytesIO(data + attack)
    pickle.load(stream), pickle.load(stream)
    assert made.exists()


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_objects_in_an_npz_are_refused_and_do_not_run(tmp_path, made, key):
    path = write_npz(
        tmp_path,
        generate("CIFAR10"),
        **{key: np.array([Calls(os.system, f"touch '{made}'")] * 10, object)},
    )
    for read in (lambda: load_cifar("CIFAR10", 10, str(path)), lambda: read_parameters(str(path))):
        with pytest.raises(UserError, match="dtype object"):
            read()
    assert not made.exists()
    np.load(path, allow_pickle=True)[key]
    assert made.exists()


@pytest.mark.parametrize("name", ["param.npz", "param.pkl"])
def test_npy_file_of_objects_is_refused_and_does_not_run(tmp_path, made, name):
    path = tmp_path / name
    with open(path, "wb") as file:
        np.save(file, np.array([Calls(os.system, f"touch '{made}'")], object), allow_pickle=True)
    with pytest.raises(UserError):
        read_parameters(str(path))
    assert not made.exists()
    np.load(path, allow_pickle=True)
    assert made.exists()


@pytest.mark.parametrize("archived", [False, True])
def test_one_malicious_batch_is_named(tmp_path, made, archived):
    arrays = generate("CIFAR10")
    folder = write("python", tmp_path, "CIFAR10", arrays)
    content = {
        "data": planes(arrays[2]),
        "labels": arrays[3].tolist(),
        "x": Calls(os.system, f"touch '{made}'"),
    }
    (folder / "data_batch_3").write_bytes(python2(content))
    with pytest.raises(UserError, match=r"data_batch_3 is refused: it names posix\.system"):
        load_cifar("CIFAR10", 10, str(write_archive(folder) if archived else folder))
    assert not made.exists()
    pickle.loads((folder / "data_batch_3").read_bytes(), encoding="bytes")
    assert made.exists()


@pytest.mark.parametrize(
    "module", ["os\nTraceback: forged", "os\x1b[2J\x1b[31m", "o" * 10_000, "os\u202e"]
)
def test_a_refusal_is_one_short_line_whatever_the_file_names(module):
    with pytest.raises(pickle_reader.UnsafePickle) as refusal:
        pickles.load_pickle(b"\x80\x04" + text(module) + text("system") + b"\x93.")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 400


def test_the_reader_does_not_unpickle():
    """Were one of Python's unpicklers used somewhere, what is proven above would hang on it."""
    for module in (pickles, pickle_reader):
        assert not hasattr(module, "pickle")
