"""Two processes on this machine that run one command together, as two machines with TF_CONFIG
would.
"""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from coloured import write_coloured
from networks import randomised
from processes import ROOT, ends, records, start

from nets import build_network
from nets.parameters import read_parameters, write_parameters

pytestmark = pytest.mark.long

# The warm-up is a training like the others; test_imagenet_machines.py has one.
COMMAND = (
    "--arch ResNet-8 --dataset CIFAR10 --baseline_epoch 1 --train_epoch 1 --search_target_rate 0.92"
    " --val_per_class 4 --subset_per_class 6 --search_warmup_epoch 0 --search_batch_size 40"
    " --num_teacher 2 --batch_size 32 --baseline_batch_size 32 --val_batch_size 16"
    " --steps_per_call 3 --resident_mib 64"
).split()
TRAIN, TEST = 110, 31  # images; no whole number of batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The flags of a few images: noise around a colour per class."""
    path = write_coloured(tmp_path_factory.mktemp("data") / "small.npz", TRAIN, TEST)
    return ["--data_path", path]


@pytest.fixture(scope="module")
def given(data, tmp_path_factory):
    """The flags of these images and of a network, which saves the runs a baseline."""
    path = str(tmp_path_factory.mktemp("given") / "start.pkl")
    # Random everywhere: a new network's branches output 0, and all their filters score the same.
    write_parameters(path, randomised(build_network("ResNet-8", 10, 32).parameters(), 0), {})
    return [*data, "--trained_param", path]


def in_one_process(folder, more):
    """Makes the run in one process with two replicas; returns its folder."""
    # In a process of its own: a second MirroredStrategy takes the first one's collective operations
    # for its own.
    flags = [*COMMAND, *more, "--train_path", str(folder), "--cpu_replicas", "2"]
    run = subprocess.run(
        [sys.executable, "train_cifar.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def single(given, tmp_path_factory):
    """The folder of one process with two replicas."""
    return in_one_process(tmp_path_factory.mktemp("single") / "run", given)


def assert_same_run(folder, single):
    """The same gates, widths, bank and parameters."""
    searched, expected = (records(path, "search.jsonl") for path in (folder, single))
    assert [line["gate"] for line in searched] == [line["gate"] for line in expected] and len(
        searched
    ) > 3
    assert [line["widths"] for line in searched] == [line["widths"] for line in expected]
    banks = [np.load(path / "memory_bank.npy").astype(np.float32) for path in (folder, single)]
    np.testing.assert_allclose(*banks, atol=2e-3 * np.abs(banks[1]).max())
    names = sorted(path.name for path in single.glob("*_param.pkl"))
    assert names[-2:] == ["slimmed_param.pkl", "trained_param.pkl"]
    for name in names:
        arrays, expected = (read_parameters(str(path / name))[0] for path in (folder, single))
        assert arrays.keys() == expected.keys()
        for key, array in arrays.items():
            assert np.abs(array - expected[key]).max() <= 1e-5 * max(
                np.abs(expected[key]).max(), 1e-3
            ), (name, key)


@pytest.fixture(scope="module")
def several(given, tmp_path_factory):
    """(the folder of two machines, [exit code, stdout, stderr] of each)."""
    folder = tmp_path_factory.mktemp("several") / "run"
    flags = [*COMMAND, *given, "--train_path", str(folder)]
    return folder, ends(start(flags, flags, watched=folder))


def test_two_machines_are_two_replicas_and_the_chief_writes_all_but_rows(several, single):
    folder, (chief, worker) = several
    assert (chief[0], worker[0]) == (0, 0), chief[2] + worker[2]
    assert "is the result" in chief[1]
    assert worker[1].splitlines() == [
        line for line in worker[1].splitlines() if line.startswith("machine 1 of 2")
    ]

    assert_same_run(folder, single)
    names = lambda folder: sorted(
        path.name for path in folder.rglob("*") if "tfevents" not in path.name
    )
    assert names(folder) == names(single) and len(list(folder.glob("events.out.tfevents.*"))) == 1


@pytest.mark.slow
def test_a_finished_run_says_so_on_the_chief(several, given):
    flags = [*COMMAND, *given, "--train_path", str(several[0])]
    (code, out, err), _ = ends(start(flags, flags))
    assert code == 0 and "nothing is left to do" in out, err


@pytest.mark.slow
def test_the_other_program_takes_the_same_cluster(several, data):
    """Both machines must be asked the same."""
    folder, _ = several
    flags = [*data, "--trained_param", str(folder / "trained_param.pkl"), "--json"]
    flags += ["--val_batch_size", str(TEST + 1)]
    chief, worker = ends(start(flags, flags, program="test.py"))
    assert chief[0] == 2 and "does not divide into 2 replicas" in chief[2]
    flags[-1] = "16"
    chief, worker = ends(start(flags, flags, program="test.py"))
    assert (chief[0], worker[0], worker[1]) == (0, 0, ""), chief[2] + worker[2]
    figures = json.loads((folder / "result.json").read_text())["pruned"]
    assert (
        json.loads(chief[1])["top1"] == figures["top1"] and json.loads(chief[1])["images"] == TEST
    )
    for code, _, err in ends(start(flags, [*flags, "--val_batch_size", "8"], program="test.py")):
        assert (
            code == 2
            and "val_batch_size: 16 at the chief, 8 there" in err.splitlines()[-1]
            and "Traceback" not in err
        ), err


def interrupted(folder, data, victim, number, after):
    """(exit codes, lines on stderr) of two machines, one of which gets a signal when the chief has
    printed `after`.
    """
    flags = [*COMMAND, *data, "--train_path", str(folder)]
    processes = start(flags, flags)
    try:
        for line in processes[0].stdout:
            if after in line:
                break
        processes[victim].send_signal(number)
        begin = time.monotonic()
        said = [process.communicate(timeout=120)[1].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - begin < 120
    return [process.returncode for process in processes], said


@pytest.mark.parametrize(
    "victim, after",
    [
        (1, "no trained"),
        pytest.param(0, "step   1", marks=pytest.mark.slow),
        pytest.param(1, "step   1", marks=pytest.mark.slow),
    ],
    ids=["1, baseline", "0, search", "1, search"],
)
def test_a_machine_that_dies_ends_the_other_with_one_line(tmp_path, data, victim, after):
    codes, said = interrupted(tmp_path / "run", data, victim, signal.SIGKILL, after)
    assert codes[1 - victim] == 1
    (line,) = said[1 - victim]
    assert "has stopped or is out of reach" in line and line.endswith(
        "; the same command resumes the run"
    )


@pytest.mark.slow
def test_a_machine_that_is_stopped_stops_the_other_and_both_go_on_later(tmp_path, data):
    """In the same step, of a training and of the search, with all saved by the chief, although it
    was the other that was told.
    """
    folder, unfinished = tmp_path / "run", tmp_path / "run" / "checkpoints"
    for number, after, begun in (
        (signal.SIGTERM, "no trained", "baseline.npz"),
        (signal.SIGINT, "step   1", "search.npz"),
    ):
        codes, said = interrupted(folder, data, 1, number, after)
        assert codes == [128 + number] * 2, said
        for lines in said:
            assert (
                lines[-1]
                == f"train_cifar.py: stopped by {number.name}, everything is saved; the same"
                " command resumes the run"
            )
        assert (unfinished / begun).exists()
    steps = len(records(folder, "search.jsonl"))
    flags = [*COMMAND, *data, "--train_path", str(folder)]
    chief, worker = ends(start(flags, flags))
    assert (chief[0], worker[0]) == (0, 0), chief[2] + worker[2]
    assert (
        "baseline epoch" not in chief[1]
        and f"the search resumes after step {steps - 1}" in chief[1]
    )
    assert_same_run(folder, in_one_process(tmp_path / "single", data))


@pytest.mark.slow  # test_machines.py has it without processes
@pytest.mark.parametrize(
    "second, said",
    [
        (["--seed", "3"], ["machine 1, 127.0.0.1:", "seed: 0 at the chief, 3 there"]),
        (["--train_path", "elsewhere"], ["elsewhere is not the chief's"]),
        (["--trained_param", "missing.pkl"], ["missing.pkl"]),
    ],
    ids=["seed", "folder", "start"],
)
def test_machines_that_would_not_compute_the_same_are_refused_on_all(tmp_path, data, second, said):
    """The second machine has other flags, or a file that it does not find."""
    flags = [*COMMAND, *data, "--train_path", str(tmp_path / "run")]
    other = [str(tmp_path / flag) if flag == "elsewhere" else flag for flag in second]
    for code, _, err in ends(start(flags, [*flags, *other])):
        assert code == 2 and len(err.splitlines()) == 1, err
        assert all(words in err for words in said), err
    assert not (tmp_path / "elsewhere").exists()
