"""The notebook of the documentation runs, and its pruned model is what the text says."""

import json
import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "prune_your_model.ipynb"


@pytest.mark.long
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(NOTEBOOK.parents[1])
    names: dict = {"__name__": "notebook"}
    # In its own folder a reader's notebook finds the project above it; here it is on the path.
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 7
    shorter = [source.replace("train_epoch=20", "train_epoch=6") for source in code]
    assert shorter != code
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    exec(compile(code[0], "cell 0", "exec"), names)
    monkeypatch.chdir(tmp_path)
    for number, source in enumerate(shorter[1:], 1):
        exec(compile(source, f"cell {number}", "exec"), names)
    model, smaller, x, y = (names[name] for name in ("model", "smaller", "test_x", "test_y"))
    right = [(m.predict(x, verbose=0).argmax(-1) == y).mean() for m in (model, smaller)]
    assert right[0] > 0.97 and right[1] > right[0] - 0.02
    assert smaller.count_params() < 0.6 * model.count_params()
    assert (tmp_path / "smaller.keras").exists()
    assert "4 gates" in capsys.readouterr().out
