"""Bars on a terminal, lines elsewhere, and not too many lines."""

import pytest

from engine import console as progress
from engine.console import Bar, Console, duration


def test_off_a_terminal_a_loop_prints_whole_lines_and_rarely(capsys, monkeypatch):
    for item in Bar(range(3), "bank", 3, live=False):
        assert item in range(3)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    bar = Bar(range(3), "bank", 3, live=False)
    for _ in bar:
        bar.show(loss=0.51234, left="45.0%")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and err == ""  # none at the end: the stage says what came of it
    assert lines[0].startswith("  bank 1/3, loss 0.5123, left 45.0%, ") and lines[0].endswith(
        " to go"
    )


def test_on_a_terminal_a_bar_shows_the_figures(capsys):
    with Bar((), "search", 100, live=True) as bar:
        bar.show(FLOPs="90.0%", loss=1.5)
        bar.to(18.2)
        bar.tqdm.refresh()
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        "search  18%" in err
        and "18.2/100" in err
        and "FLOPs=90.0%, loss=1.5" in err
        and "to go" in err
    )


def test_console_is_quiet_where_stderr_is_no_terminal(capsys):
    console = Console()
    assert not console.live
    console.say("one line")
    assert capsys.readouterr().out == "one line\n"


@pytest.mark.parametrize(
    "seconds, said", [(3.42, "3.4 s"), (125.4, "2 min 05 s"), (4330, "1 h 12 min")]
)
def test_duration(seconds, said):
    assert duration(seconds) == said
