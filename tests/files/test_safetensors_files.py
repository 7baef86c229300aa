"""safetensors_files reads what the library wrote, every type of number, and believes no header."""

import numpy as np
import pytest
import safetensors.numpy
from mutation import within_bounds
from safetensors_writer import write_safetensors

from files import guards
from files.safetensors_files import is_safetensors, load_safetensors
from nets.parameters import read_parameters
from utils import UserError

W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "param.safetensors"


def assert_same(read, written):
    assert read.dtype == written.dtype and read.shape == written.shape
    np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"]
)
def test_what_the_library_wrote_comes_back(path, dtype):
    arrays = {
        str(s): np.arange(np.prod(s, dtype=int)).reshape(s).astype(dtype)
        for s in [(), (1,), (2, 3), (4, 1, 2), (0, 3)]
    }
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    assert is_safetensors(path)
    read = load_safetensors(path)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert_same(read[name], array)


def test_bfloat16_becomes_float32(path):
    array = np.array([[0, 1, -2.5], [1e38, np.inf, 3]], np.float32)
    halves = (array.view(np.uint32) >> 16).astype(np.uint16)
    read = load_safetensors(write_safetensors(path, {"w": ("BF16", halves, (2, 3))}))["w"]
    assert_same(read, (halves.astype(np.uint32) << 16).view(np.float32))
    assert read[0].tolist() == [0, 1, -2.5]


def test_arrays_under_our_names_are_a_parameter_file(path):
    safetensors.numpy.save_file({"conv/kernel:0": W.astype(np.float16)}, path)
    arrays, meta = read_parameters(str(path))
    assert_same(arrays["conv/kernel:0"], W)
    assert meta == {}


def entry(kind="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "a shape larger than its bytes": dict(w=entry(shape=(2, 4))),
    "a shape of 10^12 numbers": dict(w=entry(shape=(10**6, 10**6))),
    "a shape whose product overflows": dict(w=entry(shape=(2**62, 2**62))),
    "an empty shape of 2^62": dict(w=entry(shape=(0, 2**62, 2**62))),
    "a negative length": dict(w=entry(shape=(-2, -3))),
    "a length that is no number": dict(w=entry(shape=("2", 3))),
    "a hundred axes": dict(w=entry(shape=(2, 3, *[1] * 100))),
    "offsets behind the end": dict(w=entry(offsets=(8, 32))),
    "offsets backwards": dict(w=entry(offsets=(24, 0))),
    "offsets that overlap": dict(v=entry(offsets=(0, 24))),
    "offsets with a gap": dict(w=entry(shape=(1, 3), offsets=(12, 24))),
    "offsets beyond 64 bits": dict(w=entry(offsets=(0, 2**70))),
    "another type": dict(w=entry("F64")),
    "an unknown type": dict(w=entry("QUANTISED")),
    "complex numbers": dict(w=entry("C64", (3,))),
    "numbers of eight bits": dict(w=entry("F8_E4M3", (24,))),
    "no type": dict(w={"shape": [6], "data_offsets": [0, 24]}),
    "something else than an entry": dict(w=3),
    "bytes behind the last array": dict(tail=b"more"),
    "a header longer than the file": dict(length=10**6),
    "a header of 3 GiB": dict(length=3 << 30),
    "a header cut short": dict(length=20),
    "a header that is no JSON": dict(header=b"{nonsense}"),
    "a header of endless nesting": dict(header=b'{"w":' + b"[" * 100_000),
    "a header that is no text": dict(header=b'{"\xff\xfe": 1}'),
}


@pytest.mark.parametrize("what", LIES)
def test_a_header_that_lies_is_refused(path, what):
    write_safetensors(path, {"w": W}, **LIES[what])
    assert is_safetensors(path)
    with pytest.raises(UserError, match=r"param.safetensors is no parameter file: ") as refusal:
        read_parameters(str(path))
    assert (
        len(str(refusal.value).splitlines()) == 1
        and str(refusal.value).isprintable()
        and len(str(refusal.value)) < 500
    )


def test_truncated_anywhere_is_refused(path):
    data = write_safetensors(path, {"w": W, "n": np.arange(3)}).read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_parameters(str(path))


def test_larger_than_any_file_of_arrays_is_not_read(path, monkeypatch):
    write_safetensors(path, {"w": W})
    monkeypatch.setattr(guards, "LARGEST", 50)
    with pytest.raises(UserError, match="more than 50"):
        read_parameters(str(path))


def test_a_list_of_a_hundred_thousand_arrays_is_not_read(path):
    one = b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    write_safetensors(path, {}, header=b"{" + b",".join(one % i for i in range(300_000)) + b"}")
    with within_bounds(), pytest.raises(UserError, match=r"a header of 1[0-9]{7} bytes"):
        read_parameters(str(path))


def test_without_an_array_is_refused(path):
    with pytest.raises(UserError, match="it holds no array"):
        read_parameters(str(write_safetensors(path, {})))


def test_nan_is_refused(path):
    with pytest.raises(UserError, match="w holds NaN"):
        read_parameters(str(write_safetensors(path, {"w": W * np.nan})))
