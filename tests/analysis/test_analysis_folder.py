"""An analysis folder has one set of options and one process; only its own files are deleted."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest
from processes import ROOT

from analysis.folder import AnalysisFolder
from engine.folder_lock import FolderLock
from utils import UserError

OPTIONS = {"image": {"images": 1000, "seed": 0}, "points": 51}
RESULTS = {
    "slimmed_param-01234567.json",
    "slimmed_param-01234567.npz",
    "slimmed_param-01234567.png",
    "slimmed_param-01234567.process.npz",
    "slimmed_param-01234567.process.basis",
    "slimmed_param-01234567.density-0.npz",
    "run-step-3-89abcdef.density-11.process.npz",
    "run-step-3-89abcdef.density-11.process.basis",
    "grid.npz",
    "result.json",
    "surfaces.png",
    "contours.png",
    "sub-network-000.json",
    "sub-network-049.hessian.json",
    "sub-network-049.hessian.process.npz",
    "sub-network-049.hessian.process.basis",
    "correlations.json",
    "potential.png",
}
FOREIGN = {"notes.txt", "mine.json", "mine.png", "photo-2024.png", "data.npz", "x.basis"}


def opened(path, options=OPTIONS, overwrite=False, **settings):
    return AnalysisFolder(str(path), "landscape", options, {"command": "x"}, overwrite, **settings)


def names(path):
    return {file.name for file in (path / "landscape").iterdir()}


def fill(path, there):
    (path / "landscape").mkdir(exist_ok=True)
    for name in there:
        (path / "landscape" / name).touch()


def config(path):
    return json.loads((path / "landscape" / "config.json").read_text())


def test_it_says_what_was_asked_for(tmp_path):
    opened(tmp_path / "deep" / "down").close()
    written = config(tmp_path / "deep" / "down")
    assert written["options"] == OPTIONS and written["command"] == "x"
    assert {"ekg", "python", "tensorflow", "numpy"} <= written["versions"].keys()


def test_the_same_options_go_on_and_keep_the_results(tmp_path):
    opened(tmp_path).close()
    fill(tmp_path, RESULTS)
    before = config(tmp_path)
    opened(tmp_path).close()
    assert config(tmp_path) == before
    assert names(tmp_path) == RESULTS | {"config.json", ".lock"}


def test_other_options_are_refused_by_name(tmp_path):
    opened(tmp_path).close()
    before = config(tmp_path)
    for other, said in (
        (OPTIONS | {"points": 25}, r"points: 51 there, 25 asked for"),
        (OPTIONS | {"image": {"images": 1000, "seed": 4}}, r"image.seed: 0 there, 4 asked for"),
    ):
        with pytest.raises(
            UserError,
            match=rf"--analysis_path .* holds a landscape analysis with other options \({said}\);"
            " choose another folder, or --overwrite$",
        ):
            opened(tmp_path, other)
    assert config(tmp_path) == before
    opened(tmp_path).close()


def test_the_flag_of_the_folder_is_named(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(UserError, match=r"^--train_path "):
        opened(tmp_path, {}, flag="--train_path")


def test_two_kinds_have_two_folders(tmp_path):
    first = opened(tmp_path)
    second = AnalysisFolder(str(tmp_path), "hessian", {}, {})
    assert first.path != second.path
    first.close(), second.close()


def test_a_folder_in_use_is_refused(tmp_path):
    first = opened(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="in use by process"):
            opened(tmp_path, overwrite=overwrite)
    first.close()
    opened(tmp_path).close()


def test_a_folder_that_another_process_has_just_made_its_own_is_refused(tmp_path, monkeypatch):
    """Between the look at its options, which needs no lock, and the lock."""

    class Late(FolderLock):
        def __init__(self, *arguments):
            monkeypatch.undo()
            opened(tmp_path, {"points": 3}).close()
            super().__init__(*arguments)

    monkeypatch.setattr("analysis.folder.FolderLock", Late)
    with pytest.raises(UserError, match="with other options"):
        opened(tmp_path)
    assert config(tmp_path)["options"] == {"points": 3}
    opened(tmp_path, {"points": 3}).close()


HOLDER = """
import sys, time
from analysis.folder import AnalysisFolder
folder = AnalysisFolder(sys.argv[1], "landscape", {}, {})
print("open", flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_a_folder_is_free_again_when_its_process_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
                opened(tmp_path, {})
        finally:
            process.send_signal(signal.SIGKILL)
    opened(tmp_path, {}).close()


def test_overwrite_deletes_results_and_nothing_else(tmp_path):
    opened(tmp_path).close()
    fill(tmp_path, RESULTS | FOREIGN)
    opened(tmp_path, {"points": 3}, overwrite=True).close()
    assert names(tmp_path) == FOREIGN | {"config.json", ".lock"}
    assert config(tmp_path)["options"] == {"points": 3}


def test_overwrite_that_is_killed_leaves_no_results_of_unknown_options(tmp_path, monkeypatch):
    opened(tmp_path).close()
    fill(tmp_path, RESULTS)
    deleted, unlink = [], pathlib.os.unlink

    def killed(path, **settings):
        if len(deleted) == 5:
            raise KeyboardInterrupt
        deleted.append(path)
        unlink(path, **settings)

    with monkeypatch.context() as patches, pytest.raises(KeyboardInterrupt):
        patches.setattr("os.unlink", killed)
        opened(tmp_path, {"points": 3}, overwrite=True)
    assert len(deleted) == 5
    with pytest.raises(UserError, match="with other options"):
        opened(tmp_path, {"points": 3})


def test_overwrite_spares_a_folder_of_another_program(tmp_path):
    fill(tmp_path, RESULTS)
    (tmp_path / "landscape" / "config.json").write_text('{"theirs": 1}')
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"config\.json was not written by this program"):
            opened(tmp_path, overwrite=overwrite)
    assert names(tmp_path) == RESULTS | {"config.json"}


def test_results_of_unknown_options_are_not_taken_over(tmp_path):
    fill(tmp_path, {"run-01234567.json", "notes.txt"})
    with pytest.raises(
        UserError,
        match=r"holds run-01234567\.json of an unknown landscape analysis; choose another",
    ):
        opened(tmp_path)
    opened(tmp_path, overwrite=True).close()
    assert names(tmp_path) == {"notes.txt", "config.json", ".lock"}


def test_half_written_files_of_a_killed_process_are_deleted(tmp_path):
    opened(tmp_path).close()
    fill(tmp_path, {".grid.npz.ab_3defg.tmp", ".run-01234567.json.12345678.tmp", "mine.tmp"})
    opened(tmp_path).close()
    assert names(tmp_path) == {"config.json", ".lock", "mine.tmp"}


def test_a_file_system_without_locks_may_have_another_process(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    fill(tmp_path, {".grid.npz.ab_3defg.tmp"})
    opened(tmp_path).close()
    assert ".grid.npz.ab_3defg.tmp" in names(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_place_of_a_folder(tmp_path, overwrite):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, or lies inside one; choose another folder"):
        opened(tmp_path / "file", overwrite=overwrite)
