"""Small files that ask for much memory or time are refused before they get any."""

import gzip
import io
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from cifar_files import generate, write, write_archive
from python2 import python2

from dataloader import archive
from dataloader.cifar import load_cifar
from files import guards, npz, pickle_reader, pickles
from nets.parameters import read_parameters
from utils import UserError

pytestmark = pytest.mark.long  # each reads twice, once with its memory traced


def refusal_of(read, megabytes=16, seconds=5):
    """The one line that `read()` is refused with, in little memory and time."""
    expected = (ValueError, pickle_reader.UnsafePickle, UserError)
    begin = time.process_time()
    with pytest.raises(expected) as refusal:
        read()
    assert time.process_time() - begin < seconds
    tracemalloc.start()  # makes it slower
    try:
        with pytest.raises(expected):
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes << 20, f"{peak >> 20} MiB"
    assert len(str(refusal.value).splitlines()) == 1
    return str(refusal.value)


def test_the_measure_sees_memory():
    def hog():
        bytearray(100 << 20)
        raise ValueError("x")

    with pytest.raises(AssertionError, match="100 MiB"):
        refusal_of(hog)


# ------------------------------------------------------------------------------------------ pickles


class Shaped:
    """Pickles as an array that says it is of this shape."""

    def __init__(self, shape):
        self.shape = shape

    def __reduce__(self):
        return *np.zeros(0).__reduce__()[:2], (1, self.shape, np.dtype("f4"), False, bytes(4))


def colliding(count):
    """A dict of integers whose hashes are all 0: each key is compared with all before it."""
    keys = ((i * (2**61 - 1)).to_bytes(16, "little") for i in range(1, count + 1))
    return b"\x80\x02}(" + b"".join(b"\x8a\x10" + key + b"N" for key in keys) + b"u."


def doubled(container, times=60):
    """Containers that hold the one before twice: 2**times ways to the innermost."""
    value = 1.0
    for _ in range(times):
        value = container(value)
    return value


PICKLES = {
    "bytes of 2**40": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "bytearray of 2**40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text of 2**40": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes of 2**64 - 1": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "bytes of 2**31": b"\x80\x04B" + struct.pack("<I", 2**31) + b"x.",
    "a frame of 2**40": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"]",
    "an integer of 2**31 - 1 bytes": b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
    "a million lists": b"\x80\x02" + b"]" * 1_000_000 + b".",
    "text encoded again and again": b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00"
    + b"a" * (1 << 20)
    + b"X\x06\x00\x00\x00latin1\x86q\x01"
    + b"h\x00h\x01R" * 1000
    + b".",
    "dicts copied again and again": b"\x80\x02ccollections\nOrderedDict\nq\x00("
    + b"".join(b"(J" + struct.pack("<i", i) + b"Nt" for i in range(1000))
    + b"l\x85q\x01"
    + b"h\x00h\x01R" * 10_000
    + b".",
    "keys of one hash": colliding(30_000),
    "a dtype that is itself many dtypes": b"\x80\x02cnumpy\ndtype\n(V"
    + b"f4," * 10_000
    + b"\nK\x00K\x01tR.",
    "a shape of giants": pickle.dumps(Shaped((2**2000,) * 9000)),
    "a dtype of nested lists": pickle.dumps(doubled(lambda x: [x, x]), 2)[:-1]
    + b"q\xffcnumpy\ndtype\nh\xff\x85R.",
}


UP_TO_THE_BOUND = {"a million lists", "dicts copied again and again"}  # on opcodes and keys


@pytest.mark.parametrize("what", PICKLES)
def test_pickle_that_promises_or_multiplies_is_refused(what):
    bounds = (100, 30) if what in UP_TO_THE_BOUND else (16, 5)  # an old processor takes 5.6 s
    refusal_of(lambda: pickles.load_pickle(PICKLES[what]), *bounds)


def test_memo_index_costs_nothing():
    """The memo of Python's unpickler is an array up to the largest index: 32 GiB here."""
    tracemalloc.start()
    try:
        assert pickles.load_pickle(b"\x80\x02]r\xff\xff\xff\x7f.") == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "container",
    [lambda x: [x, x], lambda x: (x, x), lambda x: {"a": x, "b": x}, lambda x: [(x, x), x]],
)
def test_containers_met_again_are_not_gone_through_again(container):
    begin = time.process_time()
    read = pickles.load_pickle(pickle.dumps(doubled(container, 30)))
    assert type(read) is type(container(0))
    assert time.process_time() - begin < 1
    one, other = (list(read.values()) if isinstance(read, dict) else read)[:2]
    assert one is other or isinstance(one, tuple)


def test_deep_nesting_is_refused_whatever_the_stack_allows():
    for depth in (100, 100_000):
        refusal_of(
            lambda depth=depth: pickles.load_pickle(
                b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
            ),
            32,
        )


def test_arrays_under_many_names_are_not_copied_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "LARGEST", 64 << 20)
    array = np.zeros(1 << 18, np.float32)
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps({str(i): array for i in range(100)}))
    assert "more than" in refusal_of(lambda: read_parameters(str(path)))


@pytest.mark.parametrize(
    "meta", ["[" * 100_000, doubled(lambda x: [x, x]), doubled(lambda x: {"x": x, "y": x})]
)
def test_meta_of_endless_nesting_counts_as_none(tmp_path, meta):
    path = tmp_path / "param.pkl"
    path.write_bytes(pickle.dumps({"w": np.ones(3, np.float32), "__meta__": meta}))
    arrays, read = read_parameters(str(path))
    assert list(arrays) == ["w"] and read == {}


def test_labels_that_multiply_are_refused(tmp_path):
    arrays = generate("CIFAR10")
    folder = write("python", tmp_path, "CIFAR10", arrays)
    rows = np.zeros((10, 3072), np.uint8)
    (folder / "test_batch").write_bytes(
        python2({"data": rows, "labels": doubled(lambda x: [x, x], 40)})
    )
    assert "test_batch" in refusal_of(lambda: load_cifar("CIFAR10", 10, str(folder)))


# --------------------------------------------------------------------------------------- .npz, .zip


def npy(header, data=b"", version=1):
    header = header.encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def header_of(shape, descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def zipped(path, contents, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in contents:
            file.writestr(name, data)
    return path


def changed_directory(path, offset, data):
    """Writes `data` into the entry of the first member in the central directory."""
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + offset
    content[place : place + len(data)] = data
    path.write_bytes(content)


def test_honest_zip_bomb_is_refused(tmp_path):
    zeros = bytes(96 << 20)
    path = zipped(tmp_path / "param.npz", [("w.npy", npy(header_of((24 << 20,)), zeros))])
    del zeros
    assert path.stat().st_size < 1 << 20
    assert "announces" in refusal_of(lambda: npz.load_npz(path))


@pytest.mark.parametrize("size", [1, 1000, 2**31, 2**32 - 2])
def test_bomb_that_lies_about_its_size_is_refused(tmp_path, size):
    path = zipped(tmp_path / "param.npz", [("w.npy", npy(header_of((16 << 20,)), bytes(64 << 20)))])
    changed_directory(path, 24, struct.pack("<I", size))
    refusal_of(lambda: npz.load_npz(path))


def test_many_members_together_are_a_bomb_too(tmp_path):
    member = npy(header_of((4 << 20,)), bytes(16 << 20))
    path = zipped(tmp_path / "param.npz", [(f"w{i}.npy", member) for i in range(16)])
    assert "announces" in refusal_of(lambda: npz.load_npz(path))


HEADERS = {
    "10**12 elements": npy(header_of((10**12,))),
    "an endless header": npy(header_of((3,)) + " " * 100_000, bytes(12), version=2),
    "a header of 2**32 - 1 bytes": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b" " * (1 << 20),
    "nested brackets": npy("(" * 1000),
    "minus signs": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 900 + "1,)}"),
    "negative lengths": npy(header_of((-2, -3)), bytes(24)),
    "a giant number": npy(header_of("(" + "9" * 900 + ",)")),
    "lengths that are none": npy(header_of("(2.0,)"), bytes(8)),
    "65 axes": npy(header_of((1,) * 65), bytes(4)),
    "no bytes an element": npy(header_of((2**40,), "'<U0'")),
    "text of a gigabyte": npy(header_of((1,), "'<U268435456'")),
    "objects": npy(header_of((1,), "'|O'"), bytes(8)),
    "a structure": npy(header_of((1,), "[('a', '|O')]"), bytes(8)),
    "format 3": npy(header_of((1,)), bytes(4), version=3),
}


@pytest.mark.parametrize("what", HEADERS)
def test_npy_header_is_not_believed(tmp_path, what):
    path = zipped(tmp_path / "param.npz", [("w.npy", HEADERS[what])], zipfile.ZIP_STORED)
    refusal_of(lambda: npz.load_npz(path))


def test_members_of_one_name_are_refused(tmp_path):
    member = npy(header_of((1,)), bytes(4))
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "param.npz", [("w.npy", member), ("w.npy", member)])
    assert "two members" in refusal_of(lambda: npz.load_npz(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_without_a_bound_are_refused(tmp_path, method):
    path = zipped(
        tmp_path / "param.npz", [("w.npy", npy(header_of((8 << 20,)), bytes(32 << 20)))], method
    )
    refusal_of(lambda: npz.load_npz(path))


def test_directory_of_endless_members_is_refused(tmp_path):
    """Each entry of 46 bytes becomes an object of half a kilobyte."""
    entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
    directory = entry * (npz.DIRECTORY // len(entry) + 1)
    end = b"PK\x05\x06" + bytes(8) + struct.pack("<II", len(directory), 0) + bytes(2)
    path = tmp_path / "param.npz"
    path.write_bytes(directory + end)
    assert "its list of members has" in refusal_of(lambda: npz.load_npz(path))


def test_encrypted_member_is_refused(tmp_path):
    path = zipped(tmp_path / "param.npz", [("w.npy", npy(header_of((1,)), bytes(4)))])
    changed_directory(path, 8, b"\x01")
    assert "encrypted" in refusal_of(lambda: npz.load_npz(path))


# ---------------------------------------------------------------------------------- archives, sizes


def test_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST", 8 << 20)
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(gzip.compress(bytes(100 << 20)))
    assert "more than" in refusal_of(lambda: load_cifar("CIFAR10", 10, str(path)), 24)


def test_official_archives_are_far_below_the_bound():
    assert 50_000 * 3073 * 2 < archive.LARGEST


@pytest.mark.parametrize(
    "kind",
    [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_member_that_is_no_plain_file_is_left_out(tmp_path, kind):
    path = write_archive(write("python", tmp_path, "CIFAR10", generate("CIFAR10")))
    with tarfile.open(path) as intact:
        members = [
            (m, intact.extractfile(m).read() if m.isfile() else b"") for m in intact.getmembers()
        ]
    with tarfile.open(path, "w:gz") as packed:
        for member, data in members:
            if member.name.endswith("data_batch_2"):
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
                data = b""
            packed.addfile(member, io.BytesIO(data))
    assert "data_batch_2 is missing" in refusal_of(lambda: load_cifar("CIFAR10", 10, str(path)))


SIZES = [
    b"77777777777\0",
    b"\x80" + b"\0" * 10 + b"\xff",
    b"\xff" * 12,
    b"-0000000001\0",
    b"0o000000017\0",
    b" " * 12,
]


@pytest.mark.parametrize("size", SIZES)
def test_size_of_a_member_is_not_believed(tmp_path, size):
    """A negative size made tarfile read one header for ever."""
    header = bytearray(tarfile.TarInfo("test_batch").tobuf())
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148] + b" " * 8 + header[156:]))
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(gzip.compress(bytes(header) + bytes(10_240)))
    refusal_of(lambda: load_cifar("CIFAR10", 10, str(path)))


@pytest.mark.parametrize("file", ["param.pkl", "param.pth", "data_batch_1"])
def test_file_larger_than_any_is_not_read(tmp_path, monkeypatch, file):
    monkeypatch.setattr(guards, "LARGEST", 1000)
    folder = write("python", tmp_path, "CIFAR10", generate("CIFAR10"))
    starts = {
        "param.pkl": b"\x80\x02",
        "param.pth": bytes.fromhex("80028a0a6cfc9c46f9206aa850192e"),
    }
    if file == "data_batch_1":
        assert "more than" in refusal_of(lambda: load_cifar("CIFAR10", 10, str(folder)))
        return
    with open(tmp_path / file, "wb") as sparse:
        sparse.write(starts[file])
        sparse.truncate(1 << 40)
    assert "more than" in refusal_of(lambda: read_parameters(str(tmp_path / file)))


def test_device_without_an_end_is_refused():
    refusal_of(lambda: read_parameters("/dev/zero"))
