"""The page: its numbers, its structure, and that it needs nothing from outside."""

import base64
import dataclasses
import os
import re
import subprocess
import sys

import pytest
from html_page import Page
from run_folders import (
    NETWORKS,
    make_analysis,
    make_potential,
    make_run,
    search_records,
    write,
    write_lines,
)

import report
from engine.run_files import read_object
from reports import pictures
from reports.page import START
from utils import UserError, digest


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """shown(folder, ..., flag, ...) -> the Page that report.py writes about these runs."""
    monkeypatch.chdir(tmp_path)

    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["report.py", "--out", "page.html", *arguments])
        report.main()
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Pages have places for pictures, but nothing is drawn, which takes most of their time."""
    blank = pictures.Picture("data:,light", "data:,dark", 1, 1, "")
    monkeypatch.setattr(
        pictures, "picture", lambda draw, alt, *_, **__: dataclasses.replace(blank, alt=alt)
    )


def check_self_contained(page):
    for name, attributes in page.elements:
        assert name not in ("script", "link", "iframe", "object", "base")
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "srcset", "href", "data"):
                assert value.startswith(("#", "data:image/")), value
    assert "http" not in re.sub(r"data:\S+", "", page.text)
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {link["href"][1:] for link in page.all("a")} <= ids


def check_pictures(page, count):
    images = page.all("img")
    assert len(images) == len(page.all("picture")) == len(page.all("source")) == count
    for image, source in zip(images, page.all("source")):
        assert int(image["width"]) > 100 and int(image["height"]) > 100 and len(image["alt"]) > 20
        assert source["media"] == "(prefers-color-scheme: dark)"
        assert source["srcset"] != image["src"]
        for uri in (image["src"], source["srcset"]):
            kind, data = re.fullmatch(r"data:image/(svg\+xml|png);base64,(\S+)", uri).groups()
            content = base64.b64decode(data, validate=True)
            assert (b"<svg" in content[:1000]) if kind == "svg+xml" else content[:4] == b"\x89PNG"
            assert b"Traceback" not in content and b'href="http' not in content


def test_a_finished_run(tmp_path, shown):
    page = shown(make_run(tmp_path / "my run"))
    check_self_contained(page)
    # Search, baseline and fine-tuning, each with loss and accuracy.
    check_pictures(page, 6)
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    assert "finished" in page.texts and "unfinished" not in page.texts
    for number in ("98.03 %", "97.75 %", "−0.28 points", "45.0 % left", "50.0 % left"):
        assert number in page.texts
    assert page.after("latency, batch 1", 2) == ["1.50 × as fast", "3.00 ms → 2.00 ms"]
    assert page.after("accuracy on D_val", 4) == ["99.00 %", "95.00 %", "–", "−4.00 points"]
    assert page.after("memory bank", 4) == ["done", "–", "4 min 00 s", "1,003 MiB"]
    assert page.after("first", 1) == ["3 of 8"] and page.after("second", 1) == ["16 of 16"]
    assert page.after("--train_epoch", 2) == ["4", "100"]
    assert "2 cores of a Test CPU" in page.texts and "2023-11-14 22:13 UTC" in page.text
    # A step of the search: its number, gate and filters.
    assert page.after("BasicBlock1.0/conv1", 2) == ["9 of 10", "86.25 %"]


@pytest.mark.long
def test_the_page_lies_in_the_run_folder_and_is_written_again(tmp_path, monkeypatch, capsys):
    folder = make_run(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["report.py", folder])
    report.main()
    path = tmp_path / "run" / "report.html"
    first = path.read_bytes()
    assert first.startswith(START.encode()) and "report.html shows run" in capsys.readouterr().out
    report.main()
    assert path.read_bytes() == first, "the same run is the same page"


@pytest.mark.long
def test_text_of_files_is_text(tmp_path, shown):
    evil = "<script>alert(1)</script>"
    folder = make_run(tmp_path / "<img src=x onerror=alert(1)>", "--data_path", f"\"'>{evil}")
    config = read_object(folder, "config.json", {})
    config["options"]["arch"] = config["options"]["start"] = f"{evil}&amp;"
    config["options"]["search"] |= {"<b>": [evil]}
    config["versions"] = {evil: evil, "hardware": f"$\\frac{evil}"}
    write(folder, "config.json", config)
    gates = {"gate": f"{evil}\ud800"}
    write_lines(folder, "search.jsonl", [r | gates for r in search_records()])
    other = make_run(tmp_path / "_$x$")
    page = shown(folder, other)
    check_self_contained(page)
    check_pictures(page, 15)
    assert not page.all("b") or all("style" in attributes for attributes in page.all("b"))
    assert f"{evil}&amp;" in page.texts and f"\"'>{evil}" in page.texts
    assert "<img src=x onerror=alert(1)>" in page.text and f"{evil}?" in page.text


@pytest.mark.long
def test_an_unfinished_run_says_what_is_missing(tmp_path, shown):
    page = shown(make_run(tmp_path / "run", until="extraction", tuned=2))
    check_self_contained(page)
    check_pictures(page, 6)
    assert "unfinished" in page.texts
    missing = "Fine-tuning is unfinished after epoch 2 of 4; still to come: the comparison of both"
    assert f"{missing} networks." in page.texts
    # The test set is known from the epochs so far, the latency is not.
    assert page.after("top-1", 2) == ["−1.00 points", "93.00 % → 92.00 %"]
    assert page.after("latency, batch 1", 2) == ["–", "not measured yet"]
    assert "after fine-tuning, 2 of 4 epochs" in page.texts


def test_a_run_that_has_hardly_begun(tmp_path, shown):
    folder = make_run(tmp_path / "run", until="baseline")
    write_lines(folder, "training.jsonl", [])
    os.unlink(os.path.join(folder, "result.json"))
    page = shown(folder)
    check_self_contained(page)
    check_pictures(page, 0)
    assert "The search has not begun." in page.texts
    assert any("still to come: warm-up, search, memory bank" in text.lower() for text in page.texts)


def test_a_random_search_is_shown_at_its_best(tmp_path, undrawn, shown):
    folder = make_run(tmp_path / "run", "--train_epoch", "0", until="extraction")
    draws = [r | {"best": i == 2, "gate": None} for i, r in enumerate(search_records())]
    write_lines(folder, "search.jsonl", draws)
    page = shown(folder)
    assert page.after("FLOPs (MACs)", 2) == ["72.5 % left", "1\xa0M → 725\xa0k"]
    assert "19 of 20" in page.texts


@pytest.mark.long
def test_a_target_in_time_is_shown_with_what_was_measured(tmp_path, shown):
    flags = "--search_target latency --search_target_rate 0.5 --latency_batch_size 64".split()
    folder = make_run(tmp_path / "run", *flags)
    result = read_object(folder, "result.json", {})
    result["latency"] = {"batch_size": 64, "ms": {"baseline": 40.0, "pruned": 16.0}}
    write(folder, "result.json", result)
    page = shown(folder)
    assert "50 % of the time, predicted for 64 images per call" in page.text
    found = page.after("latency at the batch size of the target", 4)
    assert found == ["40.00 ms", "–", "16.00 ms", "2.50 × as fast"]


@pytest.mark.long
def test_several_runs_side_by_side(tmp_path, shown):
    runs = [make_run(tmp_path / str(seed), "--seed", str(seed)) for seed in range(3)]
    runs.append(make_run(tmp_path / "other", "--search_step", "0.1", until="warm_up"))
    page = shown(*runs)
    check_self_contained(page)
    check_pictures(page, 3 + 3 * 6 + 2)
    assert "Comparison of 4 runs" in page.texts
    assert page.texts.count("finished") == 2 * 3 and page.texts.count("unfinished") >= 2
    assert page.after("--seed", 4) == ["0", "1", "2", "0"]
    assert page.after("--search_step", 4) == ["0.2", "0.2", "0.2", "0.1"]
    assert [attributes["id"] for attributes in page.all("article") if "id" in attributes] == [
        f"run-{i}" for i in range(1, 5)
    ]


def test_many_runs_have_lines_of_their_own():
    lines = [tuple(pictures.line_of(i).values()) for i in range(24)]
    assert len(set(lines)) == 24


def test_a_picture_of_several_runs_as_a_file(tmp_path, shown, undrawn, monkeypatch):
    names = "_a $x^$ b", "other", "unfinished", "without"
    runs = [make_run(tmp_path / name) for name in names[:2]]
    runs.append(make_run(tmp_path / names[2], until="warm_up"))
    runs.append(make_run(tmp_path / names[3], "--train_epoch", "0"))
    shown(*runs, "--picture", "new.png")
    assert (tmp_path / "new.png").read_bytes().startswith(b"\x89PNG")
    figures = []
    monkeypatch.setattr("reports.picture_file.save_plot", lambda figure, *_: figures.append(figure))
    shown(*runs, "--picture", "new.png")
    ax = figures[0].axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        *names[:2],
        "before pruning",
    ]
    for line in ax.lines[:2]:
        assert list(line.get_xdata()) == [1, 2, 3, 4]
        assert list(line.get_ydata()) == pytest.approx([91, 92, 93, 94])
    assert list(ax.lines[2].get_ydata()) == pytest.approx([98.03, 98.03])
    config = read_object(runs[1], "result.json", {})
    config["baseline"]["top1"] = 0.97  # of another network
    write(runs[1], "result.json", config)
    shown(*runs, "--picture", "new.png")
    assert len(figures[1].axes[0].lines) == 2


@pytest.mark.parametrize(
    "picture, refusal",
    [("new.png", "matplotlib; pip install"), ("no/new.png", "cannot be written")],
)
def test_a_picture_that_cannot_be_made(tmp_path, shown, undrawn, monkeypatch, picture, refusal):
    if picture == "new.png":
        monkeypatch.setattr("reports.picture_file.available", lambda: False)
    with pytest.raises(UserError, match=refusal):
        shown(make_run(tmp_path / "run"), "--picture", picture)
    assert not (tmp_path / "page.html").exists()


def test_without_matplotlib_there_are_tables(tmp_path, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    pictures.available.cache_clear()
    try:
        folder = make_run(tmp_path / "run")
        analysis = make_analysis(tmp_path / "a", {"baseline": digest(NETWORKS["baseline"])})
        page = shown(folder, make_run(tmp_path / "other"), "--analysis", analysis)
    finally:
        pictures.available.cache_clear()
    check_pictures(page, 0)
    assert "Pictures need matplotlib: pip install matplotlib." in page.texts
    assert page.after("first", 1) == ["3 of 8"] and "123.5" in page.texts
    assert "Curves" not in page.texts and "Landscape of the loss" not in page.texts


# ----------------------------------------------------------------------------------------- analyses


@pytest.mark.long
def test_curvature_is_shown_of_the_run_it_belongs_to(tmp_path, shown, capsys):
    digests = {name: digest(arrays) for name, arrays in NETWORKS.items() if name != "warm_up"}
    analysis = make_analysis(tmp_path / "analysis", {"another": "0" * 16, **digests})
    page = shown(make_run(tmp_path / "run"), "--analysis", analysis)
    check_self_contained(page)
    # Besides those of the run: the density, and contours and surface of three networks.
    check_pictures(page, 6 + 1 + 3 * 2)
    assert "Landscape of the loss" in page.texts
    # The first entry, of another network, has 123.5.
    assert "123.5" not in page.texts and "124.5" in page.texts
    assert page.after("after the search", 1) and "80, not converged" in page.texts
    # The first entry of this run: loss, eigenvalues with their residuals, condition number.
    place = page.texts.index("124.5")
    assert page.texts[place - 2 : place + 6] == [
        "320",
        "0.0500",
        "124.5",
        "1.2e−03",
        "−2.5",
        "9.0e−02",
        "49.4",
        "80, not converged",
    ]
    assert "holds no results for these runs" not in capsys.readouterr().out


def test_curvatures_of_several_runs_are_compared(tmp_path, undrawn, shown):
    analysis = make_analysis(tmp_path / "analysis", {"pruned": digest(NETWORKS["extraction"])})
    runs = [make_run(tmp_path / name) for name in "ab"]
    page = shown(*runs, "--analysis", analysis)
    assert "Condition number of the Hessian" in page.texts
    assert page.texts.count("49.4") == 2 + 2  # each on its run, and side by side


def test_an_analysis_of_other_networks_is_not_shown(tmp_path, undrawn, shown, capsys):
    analysis = make_analysis(tmp_path / "analysis", {"another": "0" * 16})
    page = shown(make_run(tmp_path / "run"), "--analysis", analysis)
    assert "Curvature of the loss" not in page.texts
    assert "holds no results for these runs" in capsys.readouterr().out


@pytest.mark.long
def test_potential_performance_is_shown_of_the_run_that_holds_it(tmp_path, shown):
    page = shown(make_potential(make_run(tmp_path / "run")), make_run(tmp_path / "other"))
    check_self_contained(page)
    check_pictures(page, 2 * 6 + 3 + 2)
    assert page.texts.count("Potential performance") == 1 and "95% interval" in page.texts
    rows = page.after("95% interval", 1 + 4 * 5)[1:]
    assert [rows[i : i + 5] for i in range(0, 20, 5)] == [
        ["loss on D_val", "Pearson", "+0.81", "+0.56 to +0.86", "5"],
        ["loss on D_val", "Spearman", "+0.92", "+0.67 to +0.97", "5"],
        ["condition number", "Pearson", "−0.33", "−0.58 to −0.28", "5"],
        ["condition number", "Spearman", "–", "–", "5"],
    ]
    alts = [image["alt"] for image in page.all("img")]
    for what in ("loss on D_val", "condition number"):
        assert f"test loss of 5 fine-tuned sub-networks over their {what}" in alts


def test_potential_performance_is_shown_of_runs_from_the_same_network(
    tmp_path, undrawn, shown, capsys
):
    start = f"parameters {digest(NETWORKS['baseline'])}, width multiplier 1.0"
    study = make_potential(tmp_path / "study", start)
    run = make_run(tmp_path / "run")
    assert "Potential performance" in shown(run, "--analysis", study).texts
    assert "holds no results for these runs" not in capsys.readouterr().out
    study = make_potential(tmp_path / "another", "parameters 0123456789abcdef")
    assert "Potential performance" not in shown(run, "--analysis", study).texts
    assert "holds no results for these runs" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", ["notes.html", "config.json"])
def test_no_other_file_is_replaced(tmp_path, monkeypatch, name):
    folder = make_run(tmp_path / "run")
    path = tmp_path / "run" / name
    if not path.exists():
        path.write_text("<!DOCTYPE html>\nmine\n")
    before = path.read_bytes()
    monkeypatch.setattr(sys, "argv", ["report.py", folder, "--out", str(path)])
    with pytest.raises(UserError, match=r"was not written by report\.py"):
        report.main()
    assert path.read_bytes() == before


@pytest.mark.long
def test_a_page_needs_no_tensorflow(tmp_path):
    folder = make_run(tmp_path / "run")
    code = (
        "import sys; sys.modules['tensorflow'] = None; import report;"
        f" sys.argv = ['report.py', {folder!r}]; report.main()"
    )
    root = os.path.dirname(os.path.abspath(report.__file__))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
