"""--search_from: which searches are taken over, and that copying can be interrupted anywhere."""

import json
import shutil

import numpy as np
import pytest

from distribution.machines import Alone
from ekg.history import SearchState, SubNetwork
from engine import adoption
from engine.adoption import NEEDED, TAKEN, find_search
from engine.configuration import ADOPTED, described
from engine.run_files import STAGES
from engine.run_folder import RunFolder
from nets.parameters import write_parameters
from train_cifar import parse
from utils import UserError

START = "a baseline trained here"


def options(path, *flags):
    return parse(["--train_path", str(path), *map(str, flags)])


def describe(chosen):
    return described(chosen, START, 1)


def search_state(path, loss=0.5):
    SearchState(
        [SubNetwork((1.0,), np.array([3]), np.arange(3, dtype=np.int32), loss, 0.0)],
        np.zeros((2, 2), np.float32),
        7.0,
    ).save(path)


@pytest.fixture
def searched(tmp_path):
    """The folder of a run of small files, finished but for nothing that counts here."""
    path = tmp_path / "searched"
    folder = RunFolder(str(path), describe(options(path, "--num_teacher", 3)), {}, Alone())
    for n, stage in enumerate(("baseline", "warm_up", "extraction", "fine_tuning")):
        write_parameters(
            folder.file(STAGES[stage]), {"conv/kernel:0": np.full(2, n, np.float32)}, {}
        )
    search_state(folder.file(STAGES["search"]))
    folder.add_line("search.jsonl", {"step": 0, "flops_rate": 1.0, "loss": 0.5, "accuracy": 0.5})
    for stage in ("baseline", "warm_up", "fine_tuning"):
        folder.add_line(
            "training.jsonl", {"stage": stage, "epoch": 1, "loss": 1.0, "accuracy": 0.5}
        )
    folder.update_result(
        seconds=dict.fromkeys(STAGES, 5.0), peak_rss_mib=dict.fromkeys(STAGES, 9.0)
    )
    folder.close()
    return path


def opened(path, searched, *flags):
    """The run folder `path` of a run with --search_from, as ekg.pipeline opens it."""
    chosen = options(path, "--search_from", searched, *flags)
    adopted = find_search(chosen, describe(chosen))
    return RunFolder(
        str(path),
        describe(chosen) | {ADOPTED: adopted.identity},
        {},
        Alone(),
        chosen.overwrite,
        adopted,
    )


def files_under(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check_adopted(folder, path, searched):
    assert [stage for stage in STAGES if folder.done(stage)] == list(TAKEN)
    for name in (*(STAGES[stage] for stage in TAKEN), "search.jsonl"):
        assert (path / name).read_bytes() == (searched / name).read_bytes()
    assert [line["stage"] for line in folder.lines("training.jsonl")] == ["baseline", "warm_up"]
    assert folder.result["seconds"] == folder.result["seconds"] | dict.fromkeys(TAKEN, 5.0)
    assert "fine_tuning" not in folder.result["seconds"]


def test_what_comes_before_the_fine_tuning_is_taken_over(tmp_path, searched):
    flags = (
        "--train_epoch 7 --batch_size 64 --finetune_teacher none --temperature 3 --do_log 5".split()
    )
    folder = opened(tmp_path / "run", searched, *flags)
    check_adopted(folder, tmp_path / "run", searched)


@pytest.mark.long
@pytest.mark.parametrize("place", range(6))
def test_taking_over_may_be_interrupted_anywhere(tmp_path, searched, monkeypatch, place):
    """A second start completes it; where it was whole, it also does without the other folder."""
    copy, count = adoption._copy, iter(range(100))

    def killed(source, path):
        if next(count) == place:
            raise KeyboardInterrupt
        copy(source, path)

    monkeypatch.setattr(adoption, "_copy", killed)
    run, whole = tmp_path / "run", place == 5
    if whole:
        opened(run, searched).close()
        shutil.move(searched, tmp_path / "moved")
    else:
        with pytest.raises(KeyboardInterrupt):
            opened(run, searched)
        monkeypatch.undo()
        shutil.move(searched, tmp_path / "moved")
        with pytest.raises(
            UserError,
            match=r"--search_from .*searched holds no run with a finished search \(.* is missing\)",
        ):
            opened(run, searched)
        shutil.move(tmp_path / "moved", searched)
    check_adopted(opened(run, searched), run, searched if searched.exists() else tmp_path / "moved")


def test_a_run_that_goes_on_keeps_its_fine_tuning(tmp_path, searched):
    """Also where the pruned network was deleted, and is taken over another time."""
    run, tuned = (
        tmp_path / "run",
        {"stage": "fine_tuning", "epoch": 1, "loss": 1.0, "accuracy": 0.5},
    )
    folder = opened(run, searched)
    folder.add_line("training.jsonl", tuned)
    folder.result["seconds"]["memory_bank"] = 3.0
    folder.update_result()
    folder.close()
    (run / STAGES["extraction"]).unlink()
    folder = opened(run, searched)
    assert folder.done("extraction") and folder.lines("training.jsonl")[-1] == tuned
    assert folder.result["seconds"]["memory_bank"] == 3.0


def test_another_search_in_the_other_folder_is_noticed(tmp_path, searched):
    opened(tmp_path / "run", searched).close()
    search_state(searched / STAGES["search"], loss=0.25)
    with pytest.raises(UserError, match=r"adopted: search \w+ there, search \w+ asked for"):
        opened(tmp_path / "run", searched)
    opened(tmp_path / "run", searched, "--overwrite").close()
    assert (tmp_path / "run" / STAGES["search"]).read_bytes() == (
        searched / STAGES["search"]
    ).read_bytes()


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--search_target_rate", 0.6), "search.target_rate: 0.45 there, 0.6 asked for"),
        (("--search_teacher", "none"), "search.teacher: ensemble there, none asked for"),
        (("--seed", 1), "seed: 0 there, 1 asked for"),
        (("--val_batch_size", 64), "val_batch_size"),
        (("--subset_per_class", 64), "subsets.subset_per_class"),
        (("--baseline_epoch", 7), "baseline.epochs"),
        (("--arch", "ResNet-20"), "arch"),
        (
            ("--search_precision", "bfloat16"),
            "device.search_precision: float32 there, bfloat16 asked for",
        ),
    ],
)
def test_another_search_than_the_runs_own_is_refused(tmp_path, searched, flags, named):
    with pytest.raises(UserError, match=f"holds a search with other options .*{named}"):
        opened(tmp_path / "run", searched, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NEEDED)
def test_a_search_that_is_not_over_is_refused(tmp_path, searched, name):
    (searched / name).unlink()
    with pytest.raises(
        UserError, match=f"holds no run with a finished search \\({name} is missing\\)"
    ):
        opened(tmp_path / "run", searched)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name for name in NEEDED if name != "config.json"] + ["config.json", "result.json"]
)
def test_rubbish_in_the_other_folder_is_refused_before_anything_is_written(
    tmp_path, searched, name
):
    (searched / name).write_bytes(b"rubbish")
    with pytest.raises(UserError, match=name):
        opened(tmp_path / "run", searched)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_not_its_own_source(tmp_path, searched):
    (tmp_path / "link").symlink_to(searched)
    before = files_under(searched)
    with pytest.raises(UserError, match="is --train_path itself"):
        opened(tmp_path / "link", searched, "--overwrite")
    assert files_under(searched) == before


def test_what_was_taken_over_is_told_in_the_configuration(tmp_path, searched):
    opened(tmp_path / "run", searched).close()
    told = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert told["search_from"] == str(searched) and told[ADOPTED].startswith("search ")


def test_a_run_of_another_precision_may_take_a_search_over(tmp_path, searched):
    check_adopted(
        opened(tmp_path / "run", searched, "--precision", "bfloat16"), tmp_path / "run", searched
    )


def precision_of(path):
    return json.loads((path / "config.json").read_text())["options"]["device"]["precision"]


def test_a_baseline_trained_there_keeps_its_precision(tmp_path, searched):
    """It is the other run's to the byte; the rest of the run, and a second start, have another."""
    run, trained = tmp_path / "run", (searched / STAGES["baseline"]).read_bytes()
    for _ in range(2):
        opened(run, searched, "--precision", "bfloat16").close()
        assert (run / STAGES["baseline"]).read_bytes() == trained
        assert (precision_of(searched), precision_of(run)) == ("float32", "bfloat16")
    with pytest.raises(UserError, match=r"device\.precision: bfloat16 there, float32 asked for"):
        opened(run, searched)


def test_the_help_names_the_option_that_may_differ(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert adoption.MAY_DIFFER == ("device.precision",)
    assert "--precision may differ: a baseline that was trained there keeps the precision" in text
