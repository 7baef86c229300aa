"""Writes an Exportable in one format. All files but .keras take uint8 images, [B, H, W, C], and
give logits and probabilities, float32 [B, classes], for any B.
"""

import contextlib
import dataclasses
import logging
import warnings

import numpy as np
import tensorflow as tf

from distribution.startup import without_greetings
from exports.formats import OPSET, TFLITE
from utils import UserError, whole_file


class Serving(tf.Module):
    """The function that files contain.

    exportable: Exportable; dtype: of the images.
    """

    def __init__(self, exportable, dtype=tf.uint8):
        super().__init__()
        model, activation = exportable.inference, exportable.activation
        # tf.Module does not see Keras' variables, only TensorFlow's inside them.
        self.kept = [variable.value for variable in model.variables]

        def serve(images):
            logits = model(tf.cast(images, tf.float32), training=False)
            return {"logits": logits, "probabilities": activation(logits)}

        self.spec = tf.TensorSpec([None, *exportable.image_shape], dtype, name="images")
        self.serve = tf.function(serve, input_signature=[self.spec], autograph=False)


def write(exportable, wanted, path, representative=None):
    """Writes the file, or for a SavedModel the folder, at `path`.

    Args:
        exportable: Exportable.
        wanted: Format.
        path: str.
        representative: uint8 [N, H, W, C], training images; only TFLite int8 needs them.

    Raises UserError if the format has no counterpart of something in the network.
    """
    writers = {"savedmodel": _savedmodel, "keras": _keras, "onnx": _onnx}
    with _quiet():
        try:
            if wanted.opener == "tflite":
                _tflite(exportable, wanted, path, representative)
            else:
                writers[wanted.opener](exportable, path)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # converters raise whatever they stumble over
            reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
            raise UserError(
                f"{exportable.name} cannot be converted to {wanted.name} ({reason})"
            ) from error


def _savedmodel(exportable, path):
    module = Serving(exportable)
    signature = module.serve.get_concrete_function()
    tf.saved_model.save(module, path, signatures={"serving_default": signature})


def _keras(exportable, path):
    exportable.trainable.save(path)


def _tflite(exportable, wanted, path, representative):
    int8 = wanted is TFLITE["int8"]
    if int8:
        model = exportable.for_int8(representative)
        exportable = dataclasses.replace(exportable, inference=model)
    # For int8 the converter itself turns the float32 input into uint8: then all is integers.
    module = Serving(exportable, tf.float32 if int8 else tf.uint8)
    concrete = [module.serve.get_concrete_function()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(concrete, module)
    if wanted is TFLITE["float16"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.representative_dataset = lambda: (
            {"images": image[None].astype(np.float32)} for image in representative
        )
    with whole_file(path) as file:
        file.write(converter.convert())


def _onnx(exportable, path):
    import tf2onnx

    module = Serving(exportable)
    model, _ = tf2onnx.convert.from_function(
        module.serve, input_signature=[module.spec], opset=OPSET
    )
    with whole_file(path) as file:
        file.write(model.SerializeToString())


@contextlib.contextmanager
def _quiet():
    """Leaves out the converters' own messages; errors are raised all the same."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), without_greetings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
