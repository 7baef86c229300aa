"""Odd terminals and starts: streams that are closed, pipes that nobody reads, narrow windows, names
that are no text, signals before the program listens.
"""

import os
import pathlib
import runpy
import shlex
import signal
import subprocess
import sys

import pytest
from processes import QUIET, ROOT

import analyze
import train_cifar
import train_imagenet
from cli.parser import Parser
from cli.program import run_program
from engine.console import Console
from engine.signals import resumable_from_here
from nets import build_network
from nets.parameters import write_parameters

PROGRAMS = sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text())
RUN = """--arch ResNet-8 --dataset DIGITS --train_epoch 0 --search_warmup_epoch 0
    --search_target_rate 0.97 --val_per_class 4 --subset_per_class 4 --search_batch_size 40
    --search_teacher none --finetune_teacher none""".split()


@pytest.mark.long
def test_a_run_with_closed_streams_and_a_plain_locale_runs_to_its_end(tmp_path):
    """Were the descriptors left free, the files of the run would take their numbers."""
    start, run = tmp_path / "start.pkl", tmp_path / "run"
    write_parameters(str(start), build_network("ResNet-8", 10, 32).parameters(), {})
    flags = [*RUN, "--trained_param", str(start), "--train_path", str(run)]
    command = shlex.join([sys.executable, "train_cifar.py", *flags])
    environment = {**QUIET, "LC_ALL": "C", "PYTHONUTF8": "0", "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run(
        ["bash", "-c", f"{command} <&- >&- 2>&-"], cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0 and (run / "result.json").exists()
    for path in run.rglob("*"):
        if path.suffix in (".json", ".jsonl"):
            assert path.read_text().startswith(("{", "["))


def test_a_console_without_streams_is_silent(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    console = Console()
    console.say("text")
    assert list(console.bar(range(3), "steps")) == [0, 1, 2]


# -------------------------------------------------------------------------------------------- pipes


def broken():
    raise BrokenPipeError(32, "Broken pipe")


def test_a_broken_pipe_says_that_the_same_command_goes_on(capfd):
    def main():
        resumable_from_here()
        broken()

    assert run_program(main, resumable=True) == 1
    line = capfd.readouterr().err
    assert line.endswith(
        ": stopped: nobody reads its output any more (broken pipe); the same command resumes the"
        " run\n"
    )
    assert run_program(broken) == 1
    assert "resumes" not in capfd.readouterr().err


@pytest.mark.parametrize("program", ["train_cifar.py", "report.py"])
def test_help_into_a_pipe_that_nobody_reads_has_no_traceback(program):
    process = subprocess.Popen(
        [sys.executable, program, "--help"],
        cwd=ROOT,
        env=QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert "Traceback" not in (lines := process.stderr.read()) and "Exception" not in lines
    assert len(lines.splitlines()) <= 1 and process.wait() <= 1


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_modules_are_imported_has_no_traceback(tmp_path, program):
    """NumPy is the first import that takes time."""
    (tmp_path / "numpy.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    )
    done = subprocess.run(
        [sys.executable, program, "--help"],
        cwd=ROOT,
        env={**QUIET, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        timeout=60,
    )
    assert (done.returncode, done.stderr, done.stdout) == (-signal.SIGINT, "", "")


def test_importing_a_program_leaves_signals_alone():
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
    assert train_cifar.ready is analyze.ready


# --------------------------------------------------------------------------------- TensorFlow's log


@pytest.mark.parametrize(
    "level, asked", [(None, False), ("3", False), ("", False), ("0", True), ("2", True)]
)
def test_tensorflows_log_is_asked_for_by_a_level_below_3(monkeypatch, level, asked):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    assert runpy.run_path(str(ROOT / "distribution/startup.py"))["LOG_ASKED_FOR"] is asked


# --------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("columns, widest", [(40, 40), (80, 80), (300, 110), (5, 40)])
def test_help_is_as_wide_as_the_terminal(monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", str(columns))
    parser = Parser(prog="train.py")
    train_imagenet.add_flags(parser)
    lines = parser.format_help().splitlines()
    assert len(lines) > 50 and max(map(len, lines)) <= 110
    # Only what cannot be broken is longer: a flag with its choices, and a heading.
    longer = [line.split() for line in lines if len(line) > widest]
    assert all(words[0].startswith("--") or words[-1].endswith(":") for words in longer)
    assert len(longer) == 0 or columns <= 40


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("parse", [train_cifar.parse, train_imagenet.parse])
def test_a_folder_whose_name_is_no_text_is_refused_before_anything(capsys, parse, tmp_path):
    path = os.fsdecode(bytes(tmp_path / "run") + b"\xff")
    with pytest.raises(SystemExit) as stop:
        parse(["--train_path", path])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and len(line.splitlines()) == 1
    assert "run\\udcff' is not UTF-8" in line and "choose another folder" in line
    assert not pathlib.Path(path).exists()


def test_a_file_whose_name_is_no_text_is_named(tmp_path):
    name = os.fsdecode(bytes(tmp_path / "weights") + b"\xff.pkl")
    done = subprocess.run(
        [sys.executable, "test.py", "--trained_param", name],
        cwd=ROOT,
        env=QUIET,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "weights\\udcff.pkl: No such file" in done.stderr
    assert len(done.stderr.splitlines()) == 1
