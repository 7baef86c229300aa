"""CIFAR from every official form is the same set of images; data that are missing or damaged are
answered in one line.
"""

import os
import pickle
import zipfile

import numpy as np
import pytest
from cifar_files import (
    CLASSES,
    FORMS,
    PER_FILE,
    TEST,
    TRAIN,
    files_of,
    generate,
    planes,
    write,
    write_archive,
    write_npz,
    write_python,
)
from python2 import python2

from dataloader import load_dataset
from utils import UserError


def load(name, path):
    data = load_dataset(name, str(path))
    return [data.x_train, data.y_train, data.x_test, data.y_test]


def refusal_of(name, path, *mentioned):
    """The one line with which `path` is refused; it names the path and whatever else is
    `mentioned`.
    """
    with pytest.raises(UserError) as refusal:
        load_dataset(name, str(path))
    message = str(refusal.value)
    assert len(message.splitlines()) == 1, message
    assert str(path) in message, message
    for word in mentioned:
        assert word in message, message
    return message


# -------------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_very_same_set(tmp_path, form, name):
    arrays = generate(name)
    read = load(name, write(form, tmp_path, name, arrays))
    for ours, theirs in zip(read, arrays):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_channels_rows_and_columns_keep_their_places(tmp_path, form):
    """One image that is black but for a red pixel in row 1, column 5, a green one at (20, 2) and a
    blue one at (31, 30).
    """
    arrays = generate("CIFAR10")
    arrays[0][3] = 0
    arrays[0][3, 1, 5, 0] = 200
    arrays[0][3, 20, 2, 1] = 100
    arrays[0][3, 31, 30, 2] = 50
    image = load("CIFAR10", write(form, tmp_path, "CIFAR10", arrays))[0][3]
    assert {tuple(map(int, place)): int(image[tuple(place)]) for place in np.argwhere(image)} == {
        (1, 5, 0): 200,
        (20, 2, 1): 100,
        (31, 30, 2): 50,
    }


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_dataset_says_what_it_is(tmp_path, name):
    data = load_dataset(name, str(write("binary", tmp_path, name, generate(name))))
    assert (data.name, data.classes, data.input_size) == (name, CLASSES[name], 32)
    triples = {
        "CIFAR10": ((113.9, 123.0, 125.3), (66.7, 62.1, 63.0)),
        "CIFAR100": ((112, 124, 129), (70, 65, 68)),
    }
    assert (data.augmentation.mean, data.augmentation.std) == triples[name]
    assert data.augmentation.flip and data.augmentation.pad == 4


def test_a_pickle_of_python_3_is_read_too(tmp_path):
    arrays = generate("CIFAR10")
    folder = tmp_path / "repacked"
    folder.mkdir()
    for file, (images, labels) in files_of("CIFAR10", arrays).items():
        (folder / file).write_bytes(
            pickle.dumps({b"data": planes(images), b"labels": labels.tolist()})
        )
    np.testing.assert_array_equal(load("CIFAR10", folder)[0], arrays[0])


def test_npz_with_labels_in_a_column_is_read(tmp_path):
    """So Keras keeps them."""
    arrays = generate("CIFAR10")
    path = write_npz(
        tmp_path,
        arrays,
        y_train=arrays[1][:, None].astype(np.uint8),
        y_test=arrays[3][:, None].astype(np.uint8),
    )
    for ours, theirs in zip(load("CIFAR10", path), arrays):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_other_folders_beside_the_official_one_do_not_matter(tmp_path, name, kind):
    """A folder for data often holds others called train and test."""
    arrays = generate(name)
    write(kind, tmp_path, name, arrays)
    for other in ("train", "test", "test_batch"):
        (tmp_path / other).mkdir()
    np.testing.assert_array_equal(load(name, tmp_path)[2], arrays[2])


def test_the_folder_is_left_as_it_was(tmp_path):
    archive = write("python archive", tmp_path, "CIFAR10", generate("CIFAR10"))
    before = sorted(map(str, tmp_path.rglob("*")))
    load("CIFAR10", archive)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


# --------------------------------------------------------------------------------- missing, damaged


@pytest.mark.parametrize("path", ["missing", "missing.tar.gz", "missing.npz", "no/such/folder"])
def test_missing_path_is_refused(tmp_path, path):
    refusal_of("CIFAR10", tmp_path / path)


def test_folder_without_the_set_is_refused(tmp_path):
    refusal_of("CIFAR10", tmp_path, "cifar-10-batches-py")
    write_python(tmp_path, "CIFAR100", generate("CIFAR100"))
    refusal_of("CIFAR10", tmp_path, "cifar-10-batches-py")


@pytest.mark.parametrize(
    "form, file",
    [
        (form, file)
        for form in ("python", "binary")
        for file in ("data_batch_1", "data_batch_3", "data_batch_5", "test_batch")
    ],
)
def test_missing_batch_file_is_named(tmp_path, form, file):
    folder = write(form, tmp_path, "CIFAR10", generate("CIFAR10"))
    file = file if form == "python" else f"{file}.bin"
    (folder / file).unlink()
    refusal_of("CIFAR10", folder, file)
    refusal_of("CIFAR10", write_archive(folder), file)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_missing_file_of_cifar100_is_named(tmp_path, missing):
    folder = write("python", tmp_path, "CIFAR100", generate("CIFAR100"))
    (folder / missing).unlink()
    refusal_of("CIFAR100", folder, f"{missing} is missing")


@pytest.mark.parametrize("form", ["python", "binary"])
def test_folder_in_place_of_a_batch_file_is_refused(tmp_path, form):
    folder = write(form, tmp_path, "CIFAR10", generate("CIFAR10"))
    file = folder / ("data_batch_2" if form == "python" else "data_batch_2.bin")
    file.unlink()
    file.mkdir()
    refusal_of("CIFAR10", folder, file.name)


@pytest.mark.parametrize("file", ["data_batch_4", "test_batch"])
@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1000, -1])
def test_truncated_pickle_is_named(tmp_path, file, keep):
    folder = write("python", tmp_path, "CIFAR10", generate("CIFAR10"))
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:keep])
    refusal_of("CIFAR10", folder, file)
    refusal_of("CIFAR10", write_archive(folder), file)


@pytest.mark.parametrize(
    "name, file",
    [("CIFAR10", "data_batch_2.bin"), ("CIFAR10", "test_batch.bin"), ("CIFAR100", "train.bin")],
)
@pytest.mark.parametrize("cut", [1, 1000, 3072, 3075, None])
def test_binary_cut_inside_an_image_is_named(tmp_path, name, file, cut):
    folder = write("binary", tmp_path, name, generate(name))
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-cut] if cut else b"")
    refusal_of(name, folder, file)


@pytest.mark.parametrize("name, record", [("CIFAR10", 3073), ("CIFAR100", 3074)])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("images", [1, 3])
def test_binary_cut_at_the_end_of_an_image_is_named(tmp_path, name, record, split, images):
    folder = write("binary", tmp_path, name, generate(name))
    file = folder / f"{TRAIN[name][-1] if split == 'train' else TEST[name]}.bin"
    file.write_bytes(file.read_bytes()[: -images * record])
    refusal_of(name, folder, file.name)


def test_python_batch_with_fewer_images_is_named(tmp_path):
    arrays = generate("CIFAR10")
    folder = write("python", tmp_path, "CIFAR10", arrays)
    (folder / "data_batch_2").write_bytes(
        python2({"data": planes(arrays[0][:7]), "labels": arrays[1][:7].tolist()})
    )
    refusal_of("CIFAR10", folder, "data_batch_2")


@pytest.mark.parametrize("keep", [0, 1, 5, 15, 1000, 20_000, 0.5, 0.9, -1000, -9, -1])
def test_truncated_archive_is_refused(tmp_path, keep):
    archive = write("python archive", tmp_path, "CIFAR10", generate("CIFAR10"))
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refusal_of("CIFAR10", archive)


@pytest.mark.parametrize(
    "position", [0, 3, 5_000, 50_000, -6]
)  # magic, flags, pixels, pixels, the checksum
def test_archive_with_changed_bytes_is_refused(tmp_path, position):
    """The checksum of a .gz stands at its end, behind all that tarfile needs: it has to be read
    nevertheless.
    """
    archive = write("binary archive", tmp_path, "CIFAR10", generate("CIFAR10"))
    data = bytearray(archive.read_bytes())
    for i in range(position, position + 2):
        data[i] ^= 0xFF
    archive.write_bytes(data)
    refusal_of("CIFAR10", archive)


@pytest.mark.parametrize("data", [b"no archive", b"\n" * 2000, bytes(3073 * 10)])
def test_file_that_is_no_archive_is_refused(tmp_path, data):
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(data)
    refusal_of("CIFAR10", path)


def test_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    refusal_of("CIFAR10", write_archive(tmp_path / "other"))


# ---------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_npz_without_a_key_names_it(tmp_path, key):
    refusal_of("CIFAR10", write_npz(tmp_path, generate("CIFAR10"), **{key: None}), key)


WRONG = {
    "float images": {"x_train": np.zeros((50, 32, 32, 3), np.float32)},
    "int64 images": {"x_test": np.zeros((10, 32, 32, 3), np.int64)},
    "channels first": {"x_train": np.zeros((50, 3, 32, 32), np.uint8)},
    "28 pixels": {"x_test": np.zeros((10, 28, 28, 3), np.uint8)},
    "grey": {"x_train": np.zeros((50, 32, 32), np.uint8)},
    "rows": {"x_train": np.zeros((50, 3072), np.uint8)},
    "a scalar": {"x_train": np.uint8(0)},
    "no images": {"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, np.int64)},
    "too few labels": {"y_train": np.zeros(49, np.int64)},
    "too many labels": {"y_test": np.zeros(11, np.int64)},
    "one-hot labels": {"y_test": np.eye(10, dtype=np.int64)},
    "float labels": {"y_train": np.zeros(50, np.float32)},
    "text labels": {"y_train": np.full(50, "cat")},
}


@pytest.mark.parametrize("what", WRONG)
def test_npz_of_wrong_shape_or_type_is_refused(tmp_path, what):
    refusal_of("CIFAR10", write_npz(tmp_path, generate("CIFAR10"), **WRONG[what]))


@pytest.mark.parametrize("keep", [0, 2, 4, 100, 0.3, 0.9, -30, -1])
def test_truncated_npz_is_refused(tmp_path, keep):
    path = write_npz(tmp_path, generate("CIFAR10"))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refusal_of("CIFAR10", path)


@pytest.mark.parametrize("where", ["pixels", "version needed"])
def test_npz_with_changed_bytes_is_refused(tmp_path, where):
    path = write_npz(tmp_path, generate("CIFAR10"))
    data = bytearray(path.read_bytes())
    place = len(data) // 3 if where == "pixels" else data.rindex(b"PK\x01\x02") + 6
    data[place] ^= 0xFF
    path.write_bytes(data)
    refusal_of("CIFAR10", path)


def test_npy_file_under_the_name_of_an_npz_is_refused(tmp_path):
    path = tmp_path / "cifar.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros((50, 32, 32, 3), np.uint8))
    refusal_of("CIFAR10", path)


def test_folder_under_the_name_of_an_npz_is_refused(tmp_path):
    (tmp_path / "cifar.npz").mkdir()
    refusal_of("CIFAR10", tmp_path / "cifar.npz")


def test_npz_with_an_impossible_shape_in_its_header_is_refused(tmp_path):
    path = tmp_path / "cifar.npz"
    header = (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 32, 32, 3), }".ljust(
            117
        )
        + "\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "x_train.npy",
            b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode(),
        )
    refusal_of("CIFAR10", path)


# -------------------------------------------------------------------------------- labels, malicious


@pytest.mark.parametrize("name, label", [("CIFAR10", 10), ("CIFAR10", 255), ("CIFAR100", 100)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("split", [1, 3])
def test_label_out_of_range_is_refused(tmp_path, name, label, form, split):
    arrays = generate(name)
    arrays[split][4] = label
    refusal_of(name, write(form, tmp_path, name, arrays), str(label))


@pytest.mark.parametrize("form", ["python", "npz"])
@pytest.mark.parametrize("label", [-1, 2**40])
def test_label_that_no_byte_holds_is_refused(tmp_path, form, label):
    arrays = generate("CIFAR10")
    arrays[1][4] = label
    refusal_of("CIFAR10", write(form, tmp_path, "CIFAR10", arrays), str(label))


CONTENTS = {
    "a list": [1, 2, 3],
    "no data": {"labels": [0] * PER_FILE},
    "no labels": {"data": np.zeros((PER_FILE, 3072), np.uint8)},
    "data of another width": {
        "data": np.zeros((PER_FILE, 3071), np.uint8),
        "labels": [0] * PER_FILE,
    },
    "data of another type": {
        "data": np.zeros((PER_FILE, 3072), np.float32),
        "labels": [0] * PER_FILE,
    },
    "data that are images": {
        "data": np.zeros((PER_FILE, 32, 32, 3), np.uint8),
        "labels": [0] * PER_FILE,
    },
    "data that are text": {"data": "pixels", "labels": [0] * PER_FILE},
    "labels of another number": {
        "data": np.zeros((PER_FILE, 3072), np.uint8),
        "labels": [0] * (PER_FILE - 1),
    },
    "labels in lists": {
        "data": np.zeros((PER_FILE, 3072), np.uint8),
        "labels": [[0], [1, 2]] * (PER_FILE // 2),
    },
    "labels of text": {"data": np.zeros((PER_FILE, 3072), np.uint8), "labels": ["cat"] * PER_FILE},
    "labels of nothing": {
        "data": np.zeros((PER_FILE, 3072), np.uint8),
        "labels": [None] * PER_FILE,
    },
    "labels of half": {"data": np.zeros((PER_FILE, 3072), np.uint8), "labels": [0.5] * PER_FILE},
}


@pytest.mark.parametrize("what", CONTENTS)
def test_pickle_of_something_else_is_refused(tmp_path, what):
    folder = write("python", tmp_path, "CIFAR10", generate("CIFAR10"))
    for file in [*TRAIN["CIFAR10"], TEST["CIFAR10"]]:
        (folder / file).write_bytes(python2(CONTENTS[what]))
    refusal_of("CIFAR10", folder)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("archived", [False, True])
def test_malicious_pickle_is_refused_and_does_nothing(tmp_path, archived):
    arrays, made = generate("CIFAR10"), tmp_path / "made"
    folder = write("python", tmp_path, "CIFAR10", arrays)
    content = {"data": planes(arrays[2]), "labels": arrays[3].tolist(), "x": Touch(made)}
    (folder / "data_batch_3").write_bytes(python2(content))
    refusal_of("CIFAR10", write_archive(folder) if archived else folder, "data_batch_3", "system")
    assert not made.exists()
    pickle.loads((folder / "data_batch_3").read_bytes(), encoding="bytes")
    assert made.exists(), "else its absence above would prove nothing"


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_pickled_objects_in_an_npz_are_refused_and_do_nothing(tmp_path, key):
    made = tmp_path / "made"
    path = write_npz(tmp_path, generate("CIFAR10"), **{key: np.array([Touch(made)] * 10, object)})
    refusal_of("CIFAR10", path)
    assert not made.exists()


def test_object_array_in_a_pickle_is_refused(tmp_path):
    folder = write("python", tmp_path, "CIFAR10", generate("CIFAR10"))
    content = {"data": np.zeros((PER_FILE, 3072), object), "labels": [0] * PER_FILE}
    (folder / "test_batch").write_bytes(python2(content))
    refusal_of("CIFAR10", folder, "test_batch")
