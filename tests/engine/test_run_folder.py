"""A run folder belongs to one run and one process; temporary files of killed processes go."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from distribution.machines import Alone
from engine.configuration import version
from engine.run_files import (
    BANK,
    BROKEN,
    KERAS_RESULT,
    KERAS_UNFINISHED,
    MEASURED,
    PLOTS,
    RECORDS,
    SIDES,
    STAGES,
    TIMES,
    UNFINISHED,
    own_files,
)
from engine.run_folder import RunFolder
from utils import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPTIONS = {"seed": 0, "start": "a baseline trained here"}
VERSIONS = {"ekg": "0"}


def opened(path, options=OPTIONS, overwrite=False):
    return RunFolder(str(path), options, VERSIONS, Alone(), overwrite)


def files_under(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


HOLDER = """
import sys, time
from engine.run_folder import RunFolder
from distribution.machines import Alone
folder = RunFolder(sys.argv[1], {}, {}, Alone())
print("open", flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path):
    """Killed without a chance to tidy up: the lock does not stay behind."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "open\n"
            before = files_under(tmp_path)
            for overwrite in (False, True):
                with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
                    opened(tmp_path / "run", {}, overwrite)
            assert files_under(tmp_path) == before
        finally:
            process.send_signal(signal.SIGKILL)
    opened(tmp_path / "run", {}).close()


def test_a_folder_is_free_again_when_it_is_closed_or_could_not_be_opened(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(UserError, match="in use"):
        opened(tmp_path)
    first.close()
    with pytest.raises(UserError, match="other options"):
        opened(tmp_path, {"seed": 1})
    opened(tmp_path).close()


def test_a_folder_from_before_a_search_had_a_precision_of_its_own(tmp_path):
    """Old runs have one precision for all stages: --search_precision must be the same to resume."""
    former = OPTIONS | {"device": {"precision": "bfloat16"}}
    opened(tmp_path, former).close()
    opened(
        tmp_path, OPTIONS | {"device": {"precision": "bfloat16", "search_precision": "bfloat16"}}
    ).close()
    with pytest.raises(
        UserError,
        match=r"device.search_precision: bfloat16 there, float32 asked for\); give it the same",
    ):
        opened(
            tmp_path, OPTIONS | {"device": {"precision": "bfloat16", "search_precision": "float32"}}
        )


HERE = OPTIONS | {"data_path": "here", "files": {"val_labels": "labels.txt"}}
THERE = OPTIONS | {"data_path": "there", "files": {"val_labels": None}}


def test_a_run_goes_on_where_its_data_have_moved(tmp_path):
    opened(tmp_path, HERE | {"data": "1"}).close()
    opened(tmp_path, THERE | {"data": "1"}).close()


def test_other_data_in_the_same_place_are_refused(tmp_path):
    opened(tmp_path, HERE | {"data": "1"}).close()
    with pytest.raises(UserError, match=r"\(data: 1 there, 2 asked for\)"):
        opened(tmp_path, HERE | {"data": "2"})
    with pytest.raises(UserError, match="data_path: here there, there asked for"):
        opened(tmp_path, THERE | {"data": "2"})


def test_a_run_from_before_data_were_compared_needs_them_in_the_same_place(tmp_path):
    opened(tmp_path, HERE).close()
    opened(tmp_path, HERE | {"data": "1"}).close()
    with pytest.raises(UserError, match="data_path: here there, there asked for"):
        opened(tmp_path, THERE | {"data": "1"})


def test_a_file_system_without_locks_is_no_reason_to_fail(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / ".config.json.ab_3defg.tmp").touch()
    folder = opened(tmp_path)
    assert folder.writes and not folder.locked
    assert (tmp_path / ".config.json.ab_3defg.tmp").exists(), "it may be another process's"


def finished(path):
    folder = opened(path)
    folder.update_result(**{side: dict.fromkeys(MEASURED, 0.5) for side in SIDES})
    folder.close()


@pytest.mark.parametrize("spoilt", [{}, {"top1": "half"}, {"top1": None}], ids=str)
def test_a_result_without_its_figures_is_not_finished(tmp_path, spoilt):
    finished(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    result["pruned"] = result["pruned"] | spoilt if spoilt else {}
    (tmp_path / "result.json").write_text(json.dumps(result))
    folder = opened(tmp_path)
    assert folder.locked and not folder.finished


def test_a_finished_folder_that_another_process_has_just_overwritten_is_in_use(
    tmp_path, monkeypatch
):
    """Between the look at the result, which needs no lock, and the reading of it."""
    finished(tmp_path)
    contents = RunFolder._contents

    def late(self):
        monkeypatch.undo()
        self.other = opened(tmp_path, overwrite=True)
        return contents(self)

    monkeypatch.setattr(RunFolder, "_contents", late)
    with pytest.raises(UserError, match="in use by another process, which has just restarted it"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"\xff\xfe", b"9" * 10_000], ids=["nested", "no text", "a number"]
)
def test_json_of_any_kind_is_answered_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{name} (cannot be read|was not written by this program)"
    ) as refusal:
        opened(tmp_path)
    assert len(str(refusal.value)) < 600


def test_a_finished_folder_is_read_and_not_locked(tmp_path):
    finished(tmp_path)
    (tmp_path / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.finished and second.finished
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_overwrite_deletes_what_a_run_writes_and_nothing_else(tmp_path):
    finished(tmp_path)
    for path in own_files(str(tmp_path)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            pathlib.Path(path).touch()
    (tmp_path / "events.out.tfevents.1.host.2").touch()
    kept = {"notes.txt", "figures/mine.png", "checkpoints/mine.npz", "trained_param.npz"}
    for name in kept:
        (tmp_path / name).touch()
    folder = opened(tmp_path, {"seed": 1}, overwrite=True)
    assert files_under(tmp_path) == kept | {"config.json", ".lock"}
    assert not folder.finished and not any(folder.done(stage) for stage in STAGES)
    assert json.loads((tmp_path / "config.json").read_text())["options"] == {"seed": 1}


def test_overwrite_takes_over_files_of_an_unknown_run_but_no_strange_config(tmp_path):
    (tmp_path / "trained_param.pkl").touch()
    with pytest.raises(UserError, match="of an unknown run; choose another folder, or --overwrite"):
        opened(tmp_path)
    opened(tmp_path, overwrite=True).close()
    assert not (tmp_path / "trained_param.pkl").exists()
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with pytest.raises(UserError, match="was not written by this program"):
        opened(tmp_path, overwrite=True)
    assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'


def test_half_written_files_of_a_killed_process_are_deleted(tmp_path):
    opened(tmp_path).close()
    (tmp_path / "figures").mkdir()
    temporary = [
        ".config.json.ab_3defg.tmp",
        "checkpoints/.search.npz.12345678.tmp",
        "figures/.filters.png.aaaaaaaa.tmp",
    ]
    for name in [*temporary, "checkpoints/search.npz", "mine.tmp"]:
        (tmp_path / name).touch()
    folder = opened(tmp_path)
    assert files_under(tmp_path) == {"config.json", ".lock", "checkpoints/search.npz", "mine.tmp"}
    assert folder.begun("search") and not folder.done("search") and not folder.begun("baseline")


def test_what_a_finished_stage_kept_meanwhile_is_deleted(tmp_path):
    """Killed after the stage's file had appeared, before its checkpoint was gone."""
    opened(tmp_path).close()
    for name in (STAGES["search"], UNFINISHED["search"], UNFINISHED["fine_tuning"]):
        (tmp_path / name).touch()
    folder = opened(tmp_path)
    assert folder.done("search") and not folder.begun("search") and folder.begun("fine_tuning")
    assert not (tmp_path / UNFINISHED["search"]).exists()


def test_seconds_add_up_over_starts_and_are_there_before_the_file(tmp_path):
    folder = opened(tmp_path)
    with folder.stage("warm_up"):
        folder.resumed_after(100.0)
        assert 100 <= folder.seconds < 110
        pathlib.Path(folder.unfinished).touch()
        with folder.completes() as path:
            result = json.loads((tmp_path / "result.json").read_text())
            assert (
                100 <= result["seconds"]["warm_up"] < 110 and result["peak_rss_mib"]["warm_up"] > 0
            )
            assert path == str(tmp_path / "checkpoints" / "warm_param.pkl")
            assert os.path.exists(folder.unfinished)
    assert not os.path.exists(folder.unfinished)


def line(step):
    return {"step": step, "flops_rate": 0.9, "loss": 1.5, "accuracy": 0.5}


def test_lines_are_whole_or_absent(tmp_path, monkeypatch):
    folder = opened(tmp_path)
    folder.add_line("search.jsonl", line(0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*search.jsonl"):
        folder.add_line("search.jsonl", line(1))
    assert (tmp_path / "search.jsonl").read_text() == json.dumps(line(0)) + "\n"
    monkeypatch.undo()
    folder.add_line("search.jsonl", line(1))
    folder.start_lines("search.jsonl", keep=lambda record: record["step"] < 1)
    assert folder.lines("search.jsonl") == [line(0)]


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", '{"step": "1"}', "[" * 100_000, '{"step": 1', "\x00"]
)
def test_a_damaged_record_is_refused(tmp_path, text):
    folder = opened(tmp_path)
    folder.add_line("search.jsonl", line(0))
    with open(tmp_path / "search.jsonl", "a") as file:
        file.write(text + "\n")
    with pytest.raises(UserError, match=r"search.jsonl is damaged \(.*\); delete it"):
        folder.lines("search.jsonl")


def test_every_file_of_a_run_is_known(tmp_path):
    names = {os.path.relpath(path, tmp_path) for path in own_files(str(tmp_path))}
    assert names == {
        *STAGES.values(),
        *UNFINISHED.values(),
        *PLOTS,
        *RECORDS,
        BANK,
        BROKEN,
        TIMES,
        KERAS_RESULT,
        KERAS_UNFINISHED,
        "config.json",
        "result.json",
    }


def test_the_version_is_that_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{version()}"\n' in text
    others = [path for path in ROOT.glob("*/*.py") if f'"{version()}"' in path.read_text()]
    assert not others, "one source"
