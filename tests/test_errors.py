"""A bad input is one line on stderr, its exit code, and nothing written;
tests/data/errors.md has them all.

`make errors` writes that page anew, from what the cases of bad_inputs.py, bad_images.py,
bad_reports.py, bad_analyses.py and bad_exports.py are answered with now.
"""

import os
import pathlib
import re
import sys

import numpy as np
import pytest
from bad_analyses import ANALYSES
from bad_exports import EXPORTS
from bad_images import IMAGES
from bad_inputs import SECTIONS
from bad_reports import REPORTS
from test_programs import files_under

import ablation
import analyze
import export
import report
import test as test_py  # the program beside this folder, not Python's own tests
import train_cifar
import train_imagenet
from cli.program import run_program
from engine.run_folder import RunFolder

PAGE = pathlib.Path(__file__).resolve().parent / "data" / "errors.md"
MAINS = {
    "train_cifar.py": train_cifar.main,
    "train_imagenet.py": train_imagenet.main,
    "test.py": test_py.main,
    "ablation.py": ablation.main,
    "report.py": report.main,
    "analyze.py": analyze.main,
    "export.py": export.main,
}
FLEETING = ("test.py", "report.py", "export.py")  # programs that no second start resumes
SECTIONS = {**SECTIONS, "Images in files": IMAGES, "Reports": REPORTS, "Analyses": ANALYSES}
SECTIONS |= {"Exports": EXPORTS}
CASES = [(section, bad) for section, cases in SECTIONS.items() for bad in cases]
MADE_WITH = (
    f"Python {sys.version_info.major}.{sys.version_info.minor} and NumPy"
    f" {np.__version__.rpartition('.')[0]}"
)
HEAD = f"""# Answers to bad inputs

Made by `make errors` with {MADE_WITH}.
The test suite tries every bad input and compares the answers.
An answer is one line on stderr, after the name of the program.

- Exit code 2: the command is wrong, or a file that it names; nothing was written. Or a file of the
  run is damaged; the stage that needs it wrote nothing.
- Exit code 1: the run stopped. Everything done before is complete on the disk.
- Exit code 128 + n: signal n stopped the program.
"""


class Patches(pytest.MonkeyPatch):
    """pytest's MonkeyPatch, with callbacks that undo other changes."""

    def __init__(self):
        super().__init__()
        self.callbacks = []

    def callback(self, function):
        self.callbacks.append(function)

    def undo(self):
        for function in self.callbacks:
            function()
        self.callbacks = []
        super().undo()


@pytest.fixture
def patches():
    patches = Patches()
    yield patches
    patches.undo()


def answered(bad, program, folder, patches, capfd):
    """(exit code, the lines on stderr) of the case, run in this process from an empty folder."""
    folder.mkdir()
    patches.chdir(folder)
    bad.prepare(folder, patches)

    def started(self, stage):
        raise AssertionError(f"a run that should have been refused has reached its {stage}")

    if not bad.runs:
        patches.setattr(RunFolder, "stage", started)
    patches.setattr(sys, "argv", bad.argv(program))
    before = files_under(folder)
    capfd.readouterr()
    try:
        advice = analyze.less_memory if program == "analyze.py" else None
        code = run_program(MAINS[program], program not in FLEETING, advice)
    except SystemExit as stop:
        code = stop.code
    patches.undo()
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    if not bad.runs:
        assert files_under(folder) == before, "a refused run writes nothing"
    assert not list(folder.rglob("*.tmp")) and not (folder / "made").exists()
    return code, lines


def table(page):
    """dict (section, what) -> (programs, answer, code) of the page's tables."""
    rows, section = {}, None
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith(("| bad input", "| ---")):
            what, programs, answer, code = (
                cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:5]
            )
            rows[section, what] = programs, answer.replace("\\|", "|"), int(code)
    return rows


def programs_of(bad):
    return "both" if len(bad.programs) > 1 else bad.programs[0]


@pytest.fixture(scope="module")
def expected():
    """What the page says; with WRITE_ERRORS set, what it is to say."""
    if "WRITE_ERRORS" not in os.environ:
        yield table(PAGE.read_text())
        return
    rows = {}
    yield rows
    lines = [HEAD]
    for section, cases in SECTIONS.items():
        lines += [
            f"## {section}",
            "",
            "| bad input | program | answer | exit code |",
            "| --- | --- | --- | ---: |",
        ]
        for bad in cases:
            programs, answer, code = rows[section, bad.what]
            lines.append(
                f"| {bad.what} | {programs} | {answer.replace('|', chr(92) + '|')} | {code} |"
            )
        lines.append("")
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


@pytest.mark.long
@pytest.mark.parametrize(
    "section, bad",
    [pytest.param(section, bad, id=f"{section}: {bad.what}") for section, bad in CASES],
)
def test_the_answer_is_the_one_on_the_page(section, bad, tmp_path, patches, capfd, expected):
    for program in bad.programs:
        code, lines = answered(bad, program, tmp_path / program, patches, capfd)
        if code > 128:
            assert lines.pop(0).endswith("stopping at the next step; a second signal stops at once")
        assert len(lines) == 1 and "Traceback" not in lines[0], lines
        name, kind, answer = re.fullmatch(
            r"(\S+): (error: |stopped: |)(stopped by .*|.*)", lines[0]
        ).groups()
        assert name == program and code == bad.code
        assert (kind == "error: ") == (code == 2)
        assert str(tmp_path) not in answer
        answer = re.sub(r"in use by process \d+ on \S+;", "in use by process 4711 on host;", answer)
        if "WRITE_ERRORS" in os.environ:
            expected.setdefault((section, bad.what), (programs_of(bad), answer, code))
        row = expected[section, bad.what]
        assert row[0] == programs_of(bad) and row[2] == code
        # What Python and NumPy say within an answer is theirs to change.
        length = None if "WRITE_ERRORS" in os.environ or MADE_WITH in PAGE.read_text() else 30
        assert answer[:length] == row[1][:length]


def test_the_page_has_no_other_rows():
    if "WRITE_ERRORS" in os.environ:
        pytest.skip("it is being written")
    assert list(table(PAGE.read_text())) == [(section, bad.what) for section, bad in CASES]
