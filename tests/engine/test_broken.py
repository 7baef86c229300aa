"""The record of broken images, which a resumed run reads."""

import types

import pytest
from imagenet_files import pictures, write_folders

from dataloader import FileOptions, load_dataset
from distribution.machines import Alone
from engine.broken import BrokenImages
from utils import UserError


@pytest.fixture
def data_path(tmp_path):
    write_folders(tmp_path / "data" / "train", pictures(2))
    write_folders(tmp_path / "data" / "val", pictures(1, first=100))
    return str(tmp_path / "data")


def broken_in(data_path, folder):
    data = load_dataset("ImageNet", data_path, FileOptions(32))
    files = types.SimpleNamespace(writes=True, file=lambda name: str(folder / name))
    return BrokenImages(data, files, Alone())


def test_what_was_broken_stays_so_in_the_next_start(data_path, tmp_path):
    """Also where the file has been mended since: the bank has no row of it."""
    broken = broken_in(data_path, tmp_path)
    broken.save()
    assert not (tmp_path / "broken.json").exists()
    broken.data.x_train.broken = {3: "cut short", 7: "text"}
    broken.save()
    again = broken_in(data_path, tmp_path)
    again.load()
    assert again.data.x_train.broken == {3: "cut short", 7: "text"} and again.count() == 2


def test_a_list_of_other_data_is_none(data_path, tmp_path):
    broken = broken_in(data_path, tmp_path)
    broken.data.x_train.broken = {3: "cut short"}
    broken.save()
    write_folders(tmp_path / "data" / "train", pictures(3))
    other = broken_in(data_path, tmp_path)
    other.load()
    assert not other.data.x_train.broken


@pytest.mark.parametrize("content", ["{", "[]", '{"images": {"a": "b"}}', '{"images": 3}'])
def test_a_damaged_list_is_one_line(data_path, tmp_path, content):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(UserError, match=r"broken.json is damaged \(.*\); delete it"):
        broken_in(data_path, tmp_path).load()


def test_a_list_of_images_that_are_not_there_is_damaged(data_path, tmp_path):
    broken = broken_in(data_path, tmp_path)
    broken.data.x_train.broken = {99: "text"}
    broken.save()
    with pytest.raises(UserError, match=r"it names an image that does not exist"):
        broken_in(data_path, tmp_path).load()
