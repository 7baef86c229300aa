"""files.pickles and files.npz read parameter files and CIFAR batches, and run nothing that a file
asks for.
"""

import pickle
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from python2 import python2

from files import npz, pickle_reader, pickles


def numbered(shape, dtype):
    """0, 1, 2, ... in `shape`, so that no permutation hides."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def assert_same(read, written):
    assert type(read) is np.ndarray
    assert read.dtype == written.dtype and read.shape == written.shape
    np.testing.assert_array_equal(read, written)


# -------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "dtype", ["<f2", "<f4", "<f8", ">f4", ">i4", "<i8", "int8", "uint8", "<u2", "bool"]
)
def test_array_comes_back_in_type_shape_and_order(protocol, order, dtype):
    array = np.asarray(numbered((2, 3, 4), dtype), order=order)
    assert_same(pickles.load_pickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 1, 1, 5)])
def test_odd_shapes_come_back(protocol, shape):
    array = numbered(shape, np.float32)
    assert_same(pickles.load_pickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", [3, 4, 5])  # protocol 2 writes no bytes as a call of `bytes`
def test_empty_array_comes_back(protocol):
    array = numbered((0, 3), np.float32)
    assert_same(pickles.load_pickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_array_of_permuted_axes_comes_back(protocol, axes):
    """Protocol 5 may write such an array in the order of its memory, with the axes beside it."""
    array = numbered((2, 3, 4), np.float32).transpose(axes)
    assert_same(pickles.load_pickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_strided_array_comes_back(protocol):
    array = numbered((6, 8), np.int32)[::2, ::-3]
    assert_same(pickles.load_pickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_and_plain_values_come_back(protocol):
    kernel = numbered((3, 3, 1, 2), np.float32)
    value = {
        "conv/kernel:0": kernel,
        "epoch": 3,
        "rate": 0.5,
        "name": "ResNet",
        "none": None,
        "raw": b"\x00\xff",
        "on": True,
    }
    value["nested"] = [1, (kernel, "two"), {"again": kernel}]
    read = pickles.load_pickle(pickle.dumps(value, protocol))
    assert_same(read["conv/kernel:0"], kernel)
    assert_same(read["nested"][1][0], kernel)
    assert_same(read["nested"][2]["again"], kernel)
    plain = ("epoch", "rate", "name", "none", "raw", "on")
    assert {key: read[key] for key in plain} == {key: value[key] for key in plain}
    assert read["nested"][0] == 1 and read["nested"][1][1] == "two"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ordered_dict_and_numpy_scalars_come_back_as_plain_ones(protocol):
    value = OrderedDict(
        [("b", np.float32(0.25)), ("a", np.int64(-7)), ("c", np.ones(2, np.float32))]
    )
    read = pickles.load_pickle(pickle.dumps(value, protocol))
    assert list(read) == ["b", "a", "c"]
    assert (read["b"], read["a"]) == (0.25, -7)
    assert_same(read["c"], np.ones(2, np.float32))


@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_both_spellings_of_numpy_are_read(core):
    array = numbered((2, 5), np.float32)
    data = (
        pickle.dumps(array, 2)
        .replace(b"numpy._core.", b"numpy.core.")
        .replace(b"numpy.core.", core)
    )
    assert core in data
    assert_same(pickles.load_pickle(data), array)


def test_python_2_cifar_batch_is_read_as_bytes():
    pixels = numbered((4, 3072), np.uint8)
    batch = {
        "batch_label": "training batch 1 of 5",
        "labels": [6, 9, 9, 4],
        "data": pixels,
        "filenames": ["a.png", "b.png"],
    }
    data = python2(batch)
    assert b"cnumpy.core.multiarray\n_reconstruct" in data
    assert pickle.BINBYTES not in data[:40] and b"_codecs" not in data
    read = pickles.load_pickle(data, encoding="bytes")
    assert set(read) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert read[b"labels"] == [6, 9, 9, 4] and read[b"filenames"] == [b"a.png", b"b.png"]
    assert_same(read[b"data"], pixels)


def test_python_2_fortran_and_big_endian_arrays_are_read():
    array = np.asfortranarray(numbered((3, 4), ">f4"))
    assert_same(pickles.load_pickle(python2({"w": array}), encoding="bytes")[b"w"], array)


def test_an_npz_from_python_2_is_read_without_a_warning(tmp_path):
    array = numbered((2, 3), np.float32)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }"
    with zipfile.ZipFile(tmp_path / "old.npz", "w") as archive:
        length = len(header).to_bytes(2, "little")
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + length + header + array.tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(npz.load_npz(tmp_path / "old.npz")["w"], array)


# ------------------------------------------------------------------------------------------ damaged

INTACT = {
    "protocol 2": pickle.dumps(
        {"w": numbered((4, 5), np.float32), "b": numbered((5,), np.float64)}, 2
    ),
    "protocol 4": pickle.dumps(
        {"w": numbered((4, 5), np.float32), "b": numbered((5,), np.float64)}, 4
    ),
    "protocol 5": pickle.dumps(
        {"w": numbered((4, 5), np.float32), "b": numbered((5,), np.float64)}, 5
    ),
    "Python 2": python2({"w": numbered((4, 5), np.float32), "b": numbered((5,), np.float64)}),
}


@pytest.mark.parametrize("form", INTACT)
def test_truncated_anywhere_is_a_value_error(form):
    data = INTACT[form]
    pickles.load_pickle(data, encoding="bytes")
    for length in range(len(data)):
        with pytest.raises(ValueError):
            pickles.load_pickle(data[:length], encoding="bytes")


@pytest.mark.parametrize("form", INTACT)
def test_a_changed_byte_is_read_or_refused_but_never_another_error(form):
    rng = np.random.default_rng(0)
    data = INTACT[form]
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= int(rng.integers(1, 256))
        try:
            pickles.load_pickle(bytes(changed), encoding="bytes")
        except (ValueError, pickle_reader.UnsafePickle):
            pass


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"no pickle at all", b"PK\x03\x04", b"\x80\x63.", b".", b"PK", b"c\n\n"]
)
def test_garbage_is_a_value_error_of_one_line(data):
    with pytest.raises(ValueError) as refusal:
        pickles.load_pickle(data)
    assert len(str(refusal.value).splitlines()) == 1


class Claims:
    """Pickles as an array whose state is `state`."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, *self.state)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 4), (5,), (2, 2, 2), (-2, -3), (-1, 6), (0,), (2.0, 3.0), (2**62, 2**62), ("2", 3)],
)
def test_shape_that_does_not_fit_the_bytes_is_a_value_error(shape, fortran):
    fits = Claims((2, 3), np.dtype("f4"), fortran, bytes(24))
    assert pickles.load_pickle(pickle.dumps(fits)).shape == (2, 3)
    with pytest.raises(ValueError):
        pickles.load_pickle(pickle.dumps(Claims(shape, np.dtype("f4"), fortran, bytes(24))))


@pytest.mark.parametrize("size", [0, 23, 25, 48])
def test_bytes_that_do_not_fit_the_shape_are_a_value_error(size):
    with pytest.raises(ValueError):
        pickles.load_pickle(pickle.dumps(Claims((2, 3), np.dtype("f4"), False, bytes(size))))


def test_contents_that_are_no_bytes_are_refused():
    for contents in ([1.0] * 6, None, "x" * 24):
        with pytest.raises((ValueError, pickle_reader.UnsafePickle)):
            pickles.load_pickle(pickle.dumps(Claims((2, 3), np.dtype("f4"), False, contents)))


def test_an_array_without_contents_is_a_value_error():
    with pytest.raises(ValueError):
        pickles.load_pickle(
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R."
        )


def test_endless_nesting_is_a_value_error():
    itself = []
    itself.append(itself)
    with pytest.raises(ValueError):
        pickles.load_pickle(pickle.dumps(itself))
    with pytest.raises(ValueError):
        pickles.load_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
