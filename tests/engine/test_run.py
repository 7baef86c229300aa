"""What a run remembers of broken images, for a start that goes on."""

import types

import pytest
from imagenet_files import pictures, write_folders

from dataloader import FileOptions, load_dataset
from engine.run import Run
from utils import UserError


@pytest.fixture
def data_path(tmp_path):
    write_folders(tmp_path / "data" / "train", pictures(2))
    write_folders(tmp_path / "data" / "val", pictures(1, first=100))
    return str(tmp_path / "data")


def run_of(data_path, folder, runtime):
    data = load_dataset("ImageNet", data_path, FileOptions(32))
    files = types.SimpleNamespace(writes=True, file=lambda name: str(folder / name))
    return Run(None, data, None, None, runtime, files, None)


def test_what_was_broken_stays_so_in_the_next_start(data_path, tmp_path, runtime):
    """Also where the file has been mended since: the bank has no row of it."""
    run = run_of(data_path, tmp_path, runtime)
    run.keep_broken()
    assert not (tmp_path / "broken.json").exists()
    run.data.x_train.broken = {3: "cut short", 7: "text"}
    run.keep_broken()
    again = run_of(data_path, tmp_path, runtime)
    again.recall_broken()
    assert again.data.x_train.broken == {3: "cut short", 7: "text"} and again.broken() == 2


def test_a_list_of_other_data_is_none(data_path, tmp_path, runtime):
    run = run_of(data_path, tmp_path, runtime)
    run.data.x_train.broken = {3: "cut short"}
    run.keep_broken()
    write_folders(tmp_path / "data" / "train", pictures(3))
    other = run_of(data_path, tmp_path, runtime)
    other.recall_broken()
    assert not other.data.x_train.broken


@pytest.mark.parametrize("content", ["{", "[]", '{"images": {"a": "b"}}', '{"images": 3}'])
def test_a_damaged_list_is_one_line(data_path, tmp_path, runtime, content):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(UserError, match=r"broken.json is damaged \(.*\); delete it"):
        run_of(data_path, tmp_path, runtime).recall_broken()


def test_a_list_of_images_that_are_not_there_is_damaged(data_path, tmp_path, runtime):
    run = run_of(data_path, tmp_path, runtime)
    run.data.x_train.broken = {99: "text"}
    run.keep_broken()
    with pytest.raises(UserError, match=r"it names an image that is not there"):
        run_of(data_path, tmp_path, runtime).recall_broken()
