"""The formats that networks are exported to. Nothing here imports TensorFlow."""

import dataclasses
import importlib.util
import os

from utils import UserError

OPSET = 17  # of ONNX files
TFLITE_TYPES = ("float32", "float16", "int8")
INSTALL = "pip install -r requirements-export.txt"


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        name: as people call it.
        ending: of the file's name.
        opener: how exports/runner.py opens it.
        packages: what it needs besides TensorFlow: module -> name of the package.
        largest_difference: of the outputs from the network's, relative to the largest logit; an
            export that differs more is an error.
        least_agreement: smallest share of images with the network's top-1.
    """

    name: str
    ending: str
    opener: str
    packages: dict = dataclasses.field(default_factory=dict)
    largest_difference: float = 1e-4
    least_agreement: float = 0.98


LITERT = {"ai_edge_litert": "ai-edge-litert"}
ONNX = {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}
# float32 sums in another order differ by some 1e-6, float16 weights by some 1e-3. With 8 bits every
# logit differs: what counts is the class.
TFLITE = {
    "float32": Format("TFLite float32", ".float32.tflite", "tflite", LITERT),
    "float16": Format("TFLite float16", ".float16.tflite", "tflite", LITERT, 3e-2, 0.95),
    "int8": Format("TFLite int8", ".int8.tflite", "tflite", LITERT, 1.0, 0.8),
}
FORMATS = {
    "savedmodel": Format("SavedModel", ".savedmodel", "savedmodel"),
    "keras": Format("Keras", ".keras", "keras"),
    "onnx": Format("ONNX", ".onnx", "onnx", ONNX),
}
CHOICES = ("savedmodel", "keras", "tflite", "onnx")  # of --to


def formats(names, types=TFLITE_TYPES):
    """list of Format, in the order of `names`, each once.

    names: of CHOICES; types: of TFLITE_TYPES, for "tflite".
    """
    found = [
        [TFLITE[kind] for kind in types] if name == "tflite" else [FORMATS[name]] for name in names
    ]
    return list({each.ending: each for group in found for each in group}.values())


def check_installed(wanted):
    """Raises UserError if a package is missing. wanted: list of Format."""
    needed = {module: name for each in wanted for module, name in each.packages.items()}
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed: {INSTALL}")


def exported_format(path):
    """The Format of an exported file, by its name; None for any other file.

    A folder is a SavedModel if it holds one, or its name says so; else None.
    """
    if os.path.isdir(path):
        found = os.path.exists(os.path.join(path, "saved_model.pb"))
        return FORMATS["savedmodel"] if found or path.endswith(".savedmodel") else None
    if path.endswith(".tflite"):
        types = [each for each in TFLITE.values() if path.endswith(each.ending)]
        return types[0] if types else Format("TFLite", ".tflite", "tflite", LITERT)
    return next((each for each in FORMATS.values() if path.endswith(each.ending)), None)
