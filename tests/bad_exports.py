"""The bad inputs for export.py, and the bad exported files for test.py, as in bad_inputs.py."""

import importlib.util

from bad_inputs import Bad, file, resnet_8, test_py

WANTED = "--trained_param param.pkl --to"


def export(what, flags, prepare=lambda folder, monkeypatch: None):
    return Bad(what, tuple(flags.split()), prepare, ("export.py",))


def without_package(name):
    """A package that is not installed."""

    def prepare(folder, monkeypatch):
        find = importlib.util.find_spec
        missing = lambda module, *args: None if module == name else find(module, *args)
        monkeypatch.setattr("importlib.util.find_spec", missing)

    return prepare


def trained(folder, monkeypatch):
    resnet_8(folder / "param.pkl")


def with_folder(name):
    """A parameter file, and a folder of someone else's."""

    def prepare(folder, monkeypatch):
        trained(folder, monkeypatch)
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text("mine")

    return prepare


def exported(what, name, content=b"garbage", flags="--dataset DIGITS"):
    """A file for test.py."""
    return test_py(what, f"--trained_param {name} {flags}", file(name, content))


EXPORTS = [
    export("neither `--to` nor `--against`", "--trained_param param.pkl"),
    export("`--to pb`", f"{WANTED} pb"),
    export("`--types` without `--to tflite`", f"{WANTED} onnx --types int8"),
    export("`--json` without `--against`", f"{WANTED} onnx --json"),
    export("a missing `--out`", f"{WANTED} onnx --out missing"),
    export("a missing file to export", f"{WANTED} onnx"),
    export("`--pixels` for a parameter file", f"{WANTED} onnx --pixels 0..1"),
    export("`--arch` for a Keras model", "--trained_param x.keras --to onnx --arch ResNet-8"),
    export("a Keras model without `--pixels` and data", "--trained_param x.keras --to onnx"),
    export(
        "a Keras model in int8 without data", "--trained_param x.keras --to tflite --pixels 0..1"
    ),
    export(
        "a Keras model against a parameter file",
        "--trained_param x.keras --against param.pkl --pixels 0..1",
    ),
    export("no ONNX Runtime", f"{WANTED} keras onnx", without_package("onnxruntime")),
    export("no LiteRT", "--trained_param x.pkl --against y.pkl", without_package("ai_edge_litert")),
    export(
        "a Keras model to the file that it is",
        "--trained_param x.keras --to keras --pixels 0..1",
        file("x.keras", b"garbage"),
    ),
    export(
        "a damaged Keras model",
        "--trained_param x.keras --to onnx --pixels 0..1",
        file("x.keras", b"garbage"),
    ),
    export(
        "a folder in the place of a SavedModel",
        f"{WANTED} savedmodel",
        with_folder("param.savedmodel"),
    ),
    export("a folder in the place of a file", f"{WANTED} onnx", with_folder("param.onnx")),
    exported("an exported file without a data set", "x.onnx", flags=""),
    exported("`--arch` for an exported file", "x.onnx", flags="--dataset DIGITS --arch ResNet-8"),
    exported("`--latency` for an exported file", "x.onnx", flags="--latency"),
    exported("`--pixels` for an ONNX file", "x.onnx", flags="--dataset DIGITS --pixels 0..1"),
    test_py("`--pixels` and no Keras file", "--trained_param param.pkl --pixels 0..1"),
    test_py("a missing exported file", "--trained_param x.onnx --dataset DIGITS"),
    test_py(
        "a folder that is no SavedModel",
        "--trained_param x --dataset DIGITS",
        with_folder("x"),
    ),
    exported("a damaged TFLite file", "x.tflite"),
    exported("a TFLite file of zeros", "x.tflite", b"\x18\0\0\0TFL3" + bytes(200)),
    exported("a damaged ONNX file", "x.onnx"),
    exported("a damaged Keras file", "x.keras"),
    test_py(
        "a TFLite file without LiteRT",
        "--trained_param x.tflite --dataset DIGITS",
        lambda folder, monkeypatch: (
            file("x.tflite", b"garbage")(folder, monkeypatch),
            without_package("ai_edge_litert")(folder, monkeypatch),
        ),
    ),
]
