"""Where the images are: folders a class, a flat folder with its list of labels, shards; and what is
no such thing.
"""

import collections

import numpy as np
import pytest
from imagenet_files import WNIDS, pictures, write_flat, write_folders, write_shards

from dataloader import FileOptions, load_dataset, load_test_set
from dataloader.imagenet import find_imagenet
from dataloader.val_labels import read_val_labels
from utils import UserError

TRAIN, VAL = pictures(5), pictures(3, first=100)
LABEL_OF = {data: label for label, _, data in TRAIN + VAL}


def check(found, images):
    """Every image is there once, with its label."""
    seen = [(found.files.read(i), int(label)) for i, label in enumerate(found.labels)]
    assert collections.Counter(seen) == collections.Counter(
        (data, label) for label, _, data in images
    )
    assert found.labels.dtype == np.int64


@pytest.mark.parametrize("val", ["val", "validation"])
def test_folders_a_class(tmp_path, val):
    write_folders(tmp_path / "train", TRAIN)
    write_folders(tmp_path / val, VAL)
    (tmp_path / "train" / WNIDS[0] / "Thumbs.db").write_bytes(b"x")
    found = find_imagenet(str(tmp_path))
    check(found["train"], TRAIN)
    check(found["val"], VAL)
    assert found["train"].names == list(WNIDS) and (np.diff(found["train"].labels) >= 0).all()


def test_a_class_without_validation_images_keeps_its_number(tmp_path):
    write_folders(tmp_path / "train", TRAIN)
    write_folders(tmp_path / "val", [image for image in VAL if image[0] != 1])
    check(find_imagenet(str(tmp_path), ("val",))["val"], [image for image in VAL if image[0] != 1])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("folder", ["", "train"])
def test_shards_count_classes_from_0_or_from_1(tmp_path, first, folder):
    write_shards(tmp_path / folder, "train", TRAIN, 3, first)
    write_shards(tmp_path, "validation", VAL, 2, first)
    found = find_imagenet(str(tmp_path))
    check(found["train"], TRAIN)
    check(found["val"], VAL)


def lists(listed, path):
    """The forms in which lists of labels are passed around: name -> (lines, whether a line stands
    for the image at its place).
    """
    wnid = lambda label: WNIDS[label]
    return {
        "a wnid a line": "".join(f"{wnid(label)}\n" for _, label in listed),
        "a number a line, from 0": "".join(f"{label}\n" for _, label in listed),
        "a number a line, from 1": "".join(f"{label + 1}\n" for _, label in listed),
        "name and number": "".join(f"{name} {label}\n" for name, label in listed[::-1]),
        "path, wnid and more, with commas": (
            "ImageId,PredictionString\n"
            + "".join(
                f"val/{name.removesuffix('.JPEG')},{wnid(label)} 85 1 499 {wnid(0)} 3 4\n"
                for name, label in listed[::-1]
            )
        ),
    }[path]


FORMS = [
    "a wnid a line",
    "a number a line, from 0",
    "a number a line, from 1",
    "name and number",
    "path, wnid and more, with commas",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trained", [True, False])
def test_flat_folder_with_a_list_of_labels(tmp_path, form, trained):
    if trained:
        write_folders(tmp_path / "train", TRAIN)
    listed = write_flat(tmp_path / "val", VAL)
    (tmp_path / "labels.txt").write_text(lists(listed, form))
    found = find_imagenet(str(tmp_path), ("val",), str(tmp_path / "labels.txt"))["val"]
    check(found, VAL)
    assert bool(found.notes) == ("number" in form)


def test_numbers_of_the_development_kit_are_those_of_its_meta_mat(tmp_path):
    """ILSVRC2012's ids are in no order of the names; the first 1,000 synsets are leaves, others
    follow.
    """
    from scipy import io

    listed = write_flat(tmp_path / "val", VAL)
    ids = {0: 3, 1: 1, 2: 4, 3: 2}
    order = sorted(ids, key=ids.get)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array(
        [(ids[k], WNIDS[k], "a word", 0) for k in order] + [(5, "n00000000", "all of them", 4)],
        kinds,
    )
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{ids[label]}\n" for _, label in listed))
    write_folders(tmp_path / "train", TRAIN)
    with pytest.raises(UserError, match=r"meta.mat; put it in the same folder"):
        find_imagenet(str(tmp_path), ("val",), str(truth))
    io.savemat(tmp_path / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    check(find_imagenet(str(tmp_path), ("val",), str(truth))["val"], VAL)
    (tmp_path / "meta.mat").write_bytes(b"MATLAB" * 100)
    with pytest.raises(UserError, match=r"meta.mat is not ILSVRC2012's meta.mat"):
        find_imagenet(str(tmp_path), ("val",), str(truth))


def test_names_with_spaces_and_endings_that_differ_are_told_apart(tmp_path):
    images = ["a b.JPEG", "c.JPEG", "c.png"]
    path = tmp_path / "labels.txt"
    for text in (
        "a b.JPEG 2\nc.JPEG 0\nc.png 1\n",
        "a b.JPEG,2 7 7\nc.png,1\nc.JPEG,0\n",
        "a b\t2\nc.JPEG\t0\nc.png\t1\n",
    ):
        path.write_text(text)
        assert read_val_labels(str(path), images, list("xyz"))[0].tolist() == [2, 0, 1]
    path.write_text("a b.JPEG 2\nc.JPEG 0\nc.JPEG 1\nc.png 1\n")
    with pytest.raises(UserError, match=r"c.JPEG has two labels"):
        read_val_labels(str(path), images, list("xyz"))
    path.write_text("²\n" * 3)
    with pytest.raises(UserError, match="is not one of the 3 classes"):
        read_val_labels(str(path), images, list("xyz"))


@pytest.mark.parametrize("first", [0, 1])
def test_validation_shards_alone_count_as_the_training_shards_do(tmp_path, first):
    """No image of class 0 among them: the network's number of classes tells, or the training
    shards.
    """
    some = [image for image in VAL if image[0] in (1, 2)]
    write_shards(tmp_path, "validation", some, 1, first)
    write_shards(tmp_path, "train", TRAIN, 2, first)
    check(find_imagenet(str(tmp_path), ("val",))["val"], some)
    write_shards(tmp_path / "alone", "validation", [image for image in VAL if image[0]], 1, 1)
    check(
        find_imagenet(str(tmp_path / "alone"), ("val",), classes=4)["val"],
        [image for image in VAL if image[0]],
    )


def test_a_broken_record_is_named_and_skipped_in_training_and_an_error_in_evaluation(tmp_path):
    write_shards(tmp_path, "train", TRAIN, 1)
    path = tmp_path / "train-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    write_shards(tmp_path, "validation", VAL, 1)
    found = find_imagenet(str(tmp_path))["train"]
    assert len(found.labels) == len(TRAIN) - 1
    assert len(found.notes) == 1 and found.notes[0].startswith(
        f"skipped: {path}: record 19: it announces"
    )
    (tmp_path / "validation-00000-of-00001").write_bytes(whole[:-100])
    with pytest.raises(
        UserError,
        match=(
            r"validation-00000-of-00001: record 19: it announces .*an evaluation needs every image"
        ),
    ):
        find_imagenet(str(tmp_path))


# ---------------------------------------------------------------------------------------- data sets


def test_data_sets_know_their_size_and_tell_themselves_from_others(tmp_path):
    write_folders(tmp_path / "train", TRAIN)
    write_folders(tmp_path / "val", VAL)
    data = load_dataset("ImageNet", str(tmp_path), FileOptions(input_size=48))
    assert (data.classes, data.input_size, len(data.x_train), len(data.x_test)) == (
        4,
        48,
        20,
        12,
    ) and data.encoded
    assert data.digest == load_dataset("ImageNet", str(tmp_path), FileOptions(input_size=48)).digest
    test = load_test_set("ImageNet", str(tmp_path), FileOptions())
    assert test.x_train is None and test.input_size == 224 and test.classes == 4
    next((tmp_path / "train").glob("*/*")).unlink()
    assert data.digest != load_dataset("ImageNet", str(tmp_path), FileOptions(input_size=48)).digest
    with pytest.raises(UserError, match="19 files are too few for 20 machines"):
        load_dataset("ImageNet", str(tmp_path), FileOptions(), (0, 20))


def test_a_test_set_of_numbers_has_the_classes_of_its_network(tmp_path):
    write_shards(tmp_path, "validation", VAL, 1)
    assert load_test_set("ImageNet", str(tmp_path), FileOptions(), classes=1000).classes == 1000
