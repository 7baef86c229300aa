"""A run that is killed at any moment goes on by the same command, and ends as the one that was
never interrupted, to the bit.
"""

import json
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import QUIET

from files.npz import load_npz
from nets.parameters import read_parameters

pytestmark = pytest.mark.long

HERE = pathlib.Path(__file__).resolve().parent
COMMAND = (
    "--arch ResNet-8 --dataset DIGITS --baseline_epoch 2 --train_epoch 2 --search_target_rate 0.93"
    " --num_teacher 3 --baseline_learning_rate 0.2 --subset_per_class 20 --val_per_class 8"
    " --search_batch_size 80 --search_warmup_batch_size 100"
).split()
SHORT = [*COMMAND, *"--batch_size 100 --baseline_batch_size 100 --val_batch_size 20".split()]
WHOLE = [*COMMAND, *"--batch_size 128 --baseline_batch_size 128 --val_batch_size 40".split()]
KILL, TERM, INT = int(signal.SIGKILL), int(signal.SIGTERM), int(signal.SIGINT)


def command(folder, flags, images, moment=0, number=KILL):
    """A process that gets the signal `number` at `moment`."""
    return [
        sys.executable,
        str(HERE / "killed.py"),
        *map(str, (moment, number, folder, images)),
        *flags,
    ]


def start(*arguments, **settings):
    """(exit code, stdout, stderr) of the `command`."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=900, env=QUIET, **settings
    )
    return done.returncode, done.stdout, done.stderr


def uninterrupted(folder, flags, images):
    """The number of moments of a run in `folder`."""
    code, out, err = start(folder, flags, images)
    assert code == 0, err
    return int(re.search(r"moments: (\d+)", out)[1])


def without_times(value):
    if isinstance(value, dict):
        times = ("seconds", "latency_ms", "peak_rss_mib")
        return {key: without_times(item) for key, item in value.items() if key not in times}
    return value


def same_run(one, other):
    """All that two runs wrote is the same, to the bit; but for how long it took."""
    names = {
        path.relative_to(one).as_posix() for path in one.rglob("*") if "tfevents" not in path.name
    }
    assert names == {
        path.relative_to(other).as_posix()
        for path in other.rglob("*")
        if "tfevents" not in path.name
    }
    for name in ("search.jsonl", "training.jsonl"):
        ours, theirs = (
            [json.loads(line) for line in (folder / name).read_text().splitlines()]
            for folder in (one, other)
        )
        assert [without_times(line) for line in ours] == [without_times(line) for line in theirs], (
            name
        )
    assert (one / "memory_bank.npy").read_bytes() == (other / "memory_bank.npy").read_bytes()
    for name in (
        "baseline_param.pkl",
        "checkpoints/warm_param.pkl",
        "slimmed_param.pkl",
        "trained_param.pkl",
    ):
        (ours, our_meta), (theirs, their_meta) = (
            read_parameters(str(folder / name)) for folder in (one, other)
        )
        assert our_meta == their_meta
        same_arrays(ours, theirs)
    same_arrays(
        *({**load_npz(folder / "search_state.npz"), "seconds": 0} for folder in (one, other))
    )
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (one, other))
    assert without_times(ours) == without_times(theirs)
    assert ours["seconds"].keys() == theirs["seconds"].keys() == ours["peak_rss_mib"].keys()


def same_arrays(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def interrupted(folder, flags, images, moment, number):
    """Starts a run, sends it `number` at `moment`; a signal that can be heard is answered with one
    line and its own code.
    """
    code, out, err = start(folder, flags, images, moment, number)
    if code == 0:
        assert number != KILL and "is the result" in out  # it was told when nothing was left to do
        return
    if number == KILL:
        assert code == -KILL
        return
    # TERM and INT: the line that says it was heard, and the last one.
    lines = [line for line in err.splitlines() if line.strip()]
    name = signal.Signals(number).name
    assert code == 128 + number and "Traceback" not in err, err
    assert lines[-1].startswith(f"train_cifar.py: stopped by {name}")
    then = (
        "; the same command without --overwrite resumes the run"
        if "--overwrite" in flags
        else "; the same command resumes"
    )
    assert then in lines[-1]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """(folder, number of moments) of an uninterrupted run on a few hundred images."""
    folder = tmp_path_factory.mktemp("short") / "run"
    return folder, uninterrupted(folder, SHORT, 300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, number of moments) of an uninterrupted run on all images."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, uninterrupted(folder, WHOLE, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_a_run_interrupted_at_a_random_moment_ends_as_if_it_had_not_been(whole, tmp_path, seed):
    rng, folder = np.random.default_rng(seed), tmp_path / "run"
    moment, number = int(rng.integers(1, whole[1] + 1)), (KILL, KILL, TERM, INT)[seed % 4]
    interrupted(folder, WHOLE, 0, moment, number)
    uninterrupted(folder, WHOLE, 0)
    same_run(folder, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_from_outside_ends_as_if_it_had_not_been(whole, tmp_path, seed):
    """By the clock, behind one of the lines it prints: in the middle of a step on the device, of a
    write, of a start.
    """
    rng, folder = np.random.default_rng(seed), tmp_path / "run"
    with subprocess.Popen(
        command(folder, WHOLE, 0), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(rng.integers(15)):  # the last one is that of the last epoch but one
            process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
    assert process.returncode == -KILL
    uninterrupted(folder, WHOLE, 0)
    same_run(folder, whole[0])


CONFIGURATIONS = [
    "--accum 2 --steps_per_call 2",
    "--cpu_replicas 2 --val_batch_size 40",
    "--precision float16",
    "--overwrite",
]


@pytest.mark.slow
@pytest.mark.parametrize("more", CONFIGURATIONS)
def test_other_configurations_go_on_to_the_bit(tmp_path, more):
    """Two interruptions each, the second of what the first has left; the first start of the last
    one overwrites another run.
    """
    flags, rng = [*SHORT, *more.split()], np.random.default_rng(len(more))
    moments = uninterrupted(tmp_path / "one", flags, 300)
    if more == "--overwrite":
        shutil.copytree(tmp_path / "one", tmp_path / "other")
    for first, number in ((True, TERM), (False, KILL)):
        if more == "--overwrite" and not first:
            flags = SHORT
        interrupted(
            tmp_path / "other", flags, 300, int(rng.integers(moments // 4, moments // 2)), number
        )
    uninterrupted(tmp_path / "other", [flag for flag in flags if flag != "--overwrite"], 300)
    same_run(tmp_path / "other", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_signal_during_the_start_is_answered_with_one_line(tmp_path, seed):
    """From imports to the first steps."""
    rng, number = np.random.default_rng(seed), (TERM, INT)[seed % 2]
    with subprocess.Popen(
        command(tmp_path / "run", SHORT, 300),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=QUIET,
    ) as run:
        assert run.stdout.readline() == b"listening\n"
        time.sleep(rng.uniform(0, 8))
        run.send_signal(number)
        err = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 128 + number and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith(
        f"train_cifar.py: stopped by {signal.Signals(number).name}"
    )


def out_of_room(folder, flags, images, size):
    """Starts a run that may write no file larger than `size`: it ends with one line, and without a
    file half written.
    """
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    code, _, err = start(folder, flags, images, preexec_fn=limit)
    assert code == 1, err
    said = (
        "/checkpoints/baseline.npz: File too large; files written before are complete; free some"
        " space; the same command resumes"
    )
    assert (
        len(err.splitlines()) == 1 and err.startswith("train_cifar.py: stopped: ") and said in err
    ), err
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if "tfevents" not in name} == {
        ".lock",
        "config.json",
        "training.jsonl",
    }


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((KILL,), id="once"),
        pytest.param((KILL, TERM, KILL, INT, KILL), id="five times", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(short, tmp_path, numbers):
    """Interrupted at random moments of what is left, all in one folder; before five interruptions,
    a disk that is full.
    """
    rng, left, folder = np.random.default_rng(5), short[1], tmp_path / "run"
    if len(numbers) > 2:
        # A checkpoint of ResNet-8 has 78,714 values and 78,042 velocities: 0.6 MB.
        out_of_room(folder, SHORT, 300, size=400_000)
    for number in numbers:
        moment = int(rng.integers(1, max(2, left // 3)))
        interrupted(folder, SHORT, 300, moment, number)
        left -= moment
    uninterrupted(folder, SHORT, 300)
    same_run(folder, short[0])
