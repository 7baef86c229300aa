"""The program prune_keras.py: what it prints of a model, and its answers to mistakes."""

import json
import subprocess
import sys

import keras
import pytest
from keras_models import L, conv, conv_bn
from processes import QUIET, ROOT

import prune_keras
from cli.program import run_program


@pytest.fixture
def program(tmp_path, monkeypatch, capfd):
    """program(flag, ...) -> (exit code, stdout, stderr), from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["prune_keras.py", *map(str, flags)])
        # Once TensorFlow has started, as in a test, devices cannot be hidden any more.
        monkeypatch.setattr("tensorflow.config.set_visible_devices", lambda *_: None)
        capfd.readouterr()
        try:
            code = run_program(prune_keras.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def model(tmp_path):
    """The path of a model with a residual block and a layer normalisation."""
    x = i = keras.Input((None, None, 3))
    x = conv_bn(x, 8, "a")
    x = L.ReLU()(L.Add()([x, conv(8, name="c")(conv(4, name="b")(x))]))
    x = L.LayerNormalization(name="ln")(conv(6, name="d")(x))
    x = L.Dense(3, activation="softmax", name="probabilities")(L.GlobalAveragePooling2D()(x))
    keras.Model(i, x, name="block").save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def test_json_has_gates_members_frozen_filters_and_costs(program, model):
    code, out, err = program(model, "--gates", "--json", "--input_size", 8)
    facts = json.loads(out)
    assert code == 0 and err == ""
    assert [(g["name"], g["size"], g["uses"]) for g in facts["gates"]] == [("a", 8, 2), ("b", 4, 1)]
    assert facts["gates"][0]["writers"] == ["a", "c"]
    places = {(m["weight"], m["axis"]): m["indices"] for m in facts["gates"][1]["members"]}
    four = [[0], [1], [2], [3]]
    assert places == {("b/kernel", 3): four, ("b/bias", 0): four, ("c/kernel", 2): four}
    assert facts["frozen"] == [
        {
            "layer": "d",
            "count": 6,
            "filters": 6,
            "why": "there is no rule for the weights of LayerNormalization ln",
        },
        {
            "layer": "probabilities",
            "count": 3,
            "filters": 3,
            "why": "tied to the model's output probabilities",
        },
    ]
    assert (facts["filters"], facts["filters_that_can_go"]) == (29, 20)
    flops = {layer["layer"]: layer["flops"] for layer in facts["layers"]}
    assert flops["a"] == 27 * 8 * 64 and flops["a_bn"] == 2 * 8 * 64 and flops["ln"] is None
    assert facts["flops"] == sum(filter(None, flops.values()))
    assert facts["params"] == sum(layer["params"] for layer in facts["layers"])
    assert facts["least"]["flops"] < facts["flops"]


def test_text_says_the_same(program, model):
    code, out, _ = program(model, "--gates", "--input_size", 8)
    assert code == 0
    assert "69.0% of the filters can go: 20 of 29, in 2 gates" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["a", "8", "2", "a,", "a_bn,", "b,", "c,", "d"] in lines
    assert ["d", "6", *"there is no rule for the weights of LayerNormalization ln".split()] in lines
    assert any(line[:2] == ["ln", "LayerNormalization"] and "not" in line for line in lines)


def test_a_model_without_anything_to_prune_is_still_described(program, tmp_path):
    i = keras.Input((4,))
    keras.Model(i, L.Dense(2, name="only")(i)).save(tmp_path / "m.keras")
    code, out, _ = program("m.keras", "--gates")
    assert code == 0 and "0.0% of the filters can go: 0 of 2, in 0 gates" in out
    assert json.loads(program("m.keras", "--gates", "--json")[1])["gates"] == []


@pytest.mark.parametrize(
    "flags, words",
    [
        (["missing.keras", "--gates"], "missing.keras: no such file"),
        ([".", "--gates"], "is a folder"),
        ([], "the following arguments are required: MODEL"),
        (["m.keras", "--input_size", "0"], "--input_size"),
        (["m.keras", "--prune"], "unrecognized arguments: --prune"),
        (["m.keras"], "--data_path is needed to prune the model; --gates only looks at it"),
        (["m.keras", "--json"], "--json goes with --gates"),
        (["m.keras", "--data_path", "x", "--views", "none", "flip"], "--views: none goes alone"),
        (["m.keras", "--data_path", "x", "--least_filters", "0"], "--least_filters is for"),
        (
            ["m.keras", "--data_path", "x", "--search_precision", "bfloat16"],
            "--search_precision is",
        ),
        (
            ["m.keras", "--data_path", "x", "--latency_batch_size", "8"],
            "--latency_batch_size is for",
        ),
        (["m.keras", "--data_path", "x", "--slice_by", "time"], "--slice_by is for the networks"),
        (["missing.keras", "--data_path", "x"], "--data_path x: there is no such file"),
    ],
)
def test_a_mistake_is_one_line(program, flags, words):
    code, out, err = program(*flags)
    assert code == 2 and out == ""
    assert len(err.splitlines()) == 1 and err.startswith("prune_keras.py: error: ") and words in err


def test_flags_are_answered_without_tensorflow():
    code = (
        "import sys, prune_keras; sys.argv = ['prune_keras.py', '--help']\n"
        "try: prune_keras.main()\n"
        "finally: assert not {'tensorflow', 'keras', 'h5py'} & set(sys.modules)"
    )
    end = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=QUIET, capture_output=True, text=True
    )
    assert end.returncode == 0 and "--trust" in end.stdout, end.stderr


@pytest.mark.long
def test_the_program_runs_quietly(model):
    end = subprocess.run(
        [sys.executable, "prune_keras.py", model, "--gates", "--json"],
        cwd=ROOT,
        env=QUIET,
        capture_output=True,
        text=True,
    )
    assert end.returncode == 0 and end.stderr == ""
    assert json.loads(end.stdout)["model"] == "block"
