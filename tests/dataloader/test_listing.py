"""Folders as people have them: hidden and system files, other formats of images, empty folders, and
folders that hold something else.
"""

import io
import re

import numpy as np
import pytest
from imagenet_files import WNIDS, pictures, write_flat, write_folders
from PIL import Image

from dataloader import FileOptions, load_dataset
from dataloader.formats import DECODES_WEBP
from dataloader.imagenet import find_imagenet
from utils import UserError

TRAIN, VAL = pictures(5), pictures(3, first=100)
GREEN = np.full((60, 70, 3), (0, 128, 0), np.uint8)


@pytest.fixture
def root(tmp_path):
    write_folders(tmp_path / "train", TRAIN)
    write_folders(tmp_path / "val", VAL)
    return tmp_path


def found_in(root):
    found = find_imagenet(str(root))
    return {split: (one.names, one.labels.tolist(), one.notes) for split, one in found.items()}


def image(form):
    file = io.BytesIO()
    Image.fromarray(GREEN).save(file, form, **{"lossless": True} if form == "WEBP" else {})
    return file.getvalue()


def test_clean_folders_have_no_notes(root):
    assert all(notes == () for _, _, notes in found_in(root).values())


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"]
)
def test_hidden_folders_are_no_classes(root, name):
    """.ipynb_checkpoints would be class 0 and shift every label."""
    clean = found_in(root)
    for split in ("train", "val"):
        (root / split / name).mkdir()
        (root / split / name / "a-checkpoint.JPEG").write_bytes(TRAIN[0][2])
    messy = found_in(root)
    for split in clean:
        assert messy[split][:2] == clean[split][:2]
        (note,) = messy[split][2]
        assert note == f"{root / split}: skipped hidden and system files ({name})"


def test_hidden_and_system_files_are_no_images(root):
    clean = found_in(root)["train"]
    for name in ("._n01440764_0.JPEG", ".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "train" / WNIDS[1] / name).write_bytes(b"\0\5\x16\7")
    names, labels, notes = found_in(root)["train"]
    assert (names, labels) == clean[:2]
    assert notes == (
        f"{root / 'train'}: skipped hidden and system files (.DS_Store, ._n01440764_0.JPEG,"
        " .hidden.png, and 2 more)",
    )


def test_what_is_skipped_is_counted_in_one_note(root):
    clean = found_in(root)["train"]
    for folder in WNIDS[:2]:
        for ending in (".tiff", ".TIFF", ".heic", ".txt", ".csv", ""):
            (root / "train" / folder / f"a{ending}").write_bytes(b"x")
    (root / "train" / WNIDS[0] / "more").mkdir()
    (root / "train" / "beside.JPEG").write_bytes(TRAIN[0][2])
    names, labels, notes = found_in(root)["train"]
    assert (names, labels) == clean[:2] and len(notes) == 1
    assert re.fullmatch(
        r".*train: skipped 4 \.tiff, 2 \.\w+, 2 [.\w ]+, 4 others, 1 images beside the folders of"
        r" classes, 1 folders within folders of classes; images end in \.jpg, \.jpeg, .*",
        notes[0],
    )


FORMATS = {"BMP": ".bmp", "GIF": ".gif", **({"WEBP": ".webp"} if DECODES_WEBP else {})}
CASES = [(form, ending) for form, ending in FORMATS.items()]
CASES += [("PNG", ".PnG"), ("JPEG", ".Jpeg"), ("JPEG", ".jfif"), ("BMP", ".BMP")]


@pytest.mark.long
@pytest.mark.parametrize("form, ending", CASES)
def test_images_of_other_formats_are_read(tmp_path, form, ending):
    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True)
            for n in range(2):
                (folder / f"{n}{ending}").write_bytes(image(form))
    data = load_dataset("ImageNet", str(tmp_path), FileOptions(input_size=48))
    assert (len(data.x_train), len(data.x_test), data.notes) == (4, 4, ())
    data.x_test.check()
    ((_, pixels),) = data.x_test.batches([np.arange(4)], strict=True)
    assert np.abs(pixels.astype(int) - GREEN[0, 0]).max() <= 2


def test_a_class_without_images_is_named(root):
    (root / "train" / "n00000001").mkdir()
    (root / "train" / "n00000001" / "scan.tiff").write_bytes(b"x")
    with pytest.raises(UserError, match=r"the class .*n00000001 has no images; it holds 1 other"):
        find_imagenet(str(root))
    (root / "val" / "n00000001").mkdir()
    (note,) = find_imagenet(str(root), ("val",))["val"].notes
    assert note == f"{root / 'val'}: no images in n00000001"


HOLDS = {
    "archives": (lambda t: (t / "train.tar").write_bytes(b"x"), r"train holds 1 other file \("),
    "nothing": (lambda t: None, "train holds nothing"),
    "one level more": (
        lambda t: write_folders(t / "train", TRAIN),
        r"the folders in train have no images .*train/train holds 4 folders \(n01440764,",
    ),
    "images without folders": (
        lambda t: [(t / f"{n}.png").write_bytes(b"x") for n in range(5)],
        r"not in one folder per class; it holds 5 images \(0.png, 1.png, 2.png, and 2 more\)",
    ),
    "hidden folders alone": (lambda t: (t / ".git").mkdir(), "train holds nothing"),
}


@pytest.mark.parametrize("what", HOLDS)
def test_a_train_that_holds_something_else_says_what(tmp_path, what):
    make, said = HOLDS[what]
    (tmp_path / "train").mkdir()
    make(tmp_path / "train")
    write_folders(tmp_path / "val", VAL)
    with pytest.raises(UserError, match=said) as error:
        find_imagenet(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_without_train_says_what_it_holds(tmp_path):
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(UserError, match=rf"{tmp_path} holds 1 folder \(imagenet\)"):
        find_imagenet(str(tmp_path))


def test_hidden_files_in_a_flat_folder_need_no_label(tmp_path):
    write_folders(tmp_path / "train", TRAIN)
    listed = write_flat(tmp_path / "val", VAL)
    (tmp_path / "val" / "._ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("".join(f"{name} {label}\n" for name, label in listed))
    found = find_imagenet(str(tmp_path), ("val",), str(tmp_path / "labels.txt"))["val"]
    assert len(found.labels) == len(VAL) and len(found.notes) == 2


def test_names_send_nothing_to_the_terminal(root):
    (root / "train" / WNIDS[0] / "a.\x1b[2J\nx").write_bytes(b"x")
    (note,) = found_in(root)["train"][2]
    assert note.isprintable()
