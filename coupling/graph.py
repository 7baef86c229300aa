"""Keras models as graphs of operations: reduced to a functional model, nested ones found, run."""

import inspect
import weakref

import keras
import tensorflow as tf
from keras.src.models import Functional

from utils import UserError

_functional_forms: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def as_functional(model):
    """The functional form of a Keras model, which shares its layers.

    A Sequential becomes the chain that it is. A subclassed model is called once on symbolic inputs.
    Raises UserError for what has no such form.
    """
    if not isinstance(model, keras.Model):
        raise UserError(f"a Keras model is needed, not a {type(model).__name__}")
    graph = inlined(model)
    if graph is not None:
        return graph
    if isinstance(model, keras.Sequential):
        raise UserError(f"{model.name} has no input shape yet: start it with a keras.Input")
    return _from_call(model)


def inlined(operation):
    """The functional form of a nested model; None for an operation that is no such model."""
    if isinstance(operation, keras.Sequential):
        if type(operation).call is not keras.Sequential.call or not operation.built:
            return None
        # A Sequential can be changed after it was built.
        layers = [id(layer) for layer in operation.layers]
        if operation not in _functional_forms or _functional_forms[operation][0] != layers:
            form = keras.Model(operation.inputs, operation.outputs, name=operation.name)
            _functional_forms[operation] = layers, form
        return _functional_forms[operation][1]
    plain = isinstance(operation, Functional) and type(operation).call is Functional.call
    return operation if plain else None


def _from_call(model):
    """The functional form of a subclassed model that has been built on one input."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if not shape or not all(n is None or isinstance(n, int) for n in shape):
        line = f"{type(model).__name__} is a subclassed model without a known input shape"
        if model.built:  # Keras tried, and forgave it
            raise UserError(
                f"{line}, because its call() does not work on symbolic inputs; build it as a"
                " functional model"
            )
        raise UserError(f"{line}: call it once on an image, or build it as a functional model")
    inputs = keras.Input(shape[1:], name="image")
    try:
        return keras.Model(inputs, model.call(inputs), name=model.name)
    except Exception as error:  # anything may go wrong in the code of the model's author
        raise UserError(
            f"{type(model).__name__} is a subclassed model whose call() does not work on symbolic"
            f" inputs ({type(error).__name__}); build it as a functional model"
        ) from error


def run_graph(model, inputs, operation_fn):
    """Calls operation_fn(operation)(*args, **kwargs) in the order of the data.

    Args:
        model: functional model.
        inputs: list of whatever the operations work on, one per input of the model.
        operation_fn: function of an operation; nested models are operations.

    Returns the flat list of outputs.
    """
    # Private, but the same from Keras 3.0 on; tests/coupling/test_graph.py pins it.
    return flatten(model._run_through_graph(inputs, operation_fn=operation_fn))


def run_nested(model, operation_fn, *args, **kwargs):
    """Runs a nested model on the tensors among its arguments, as the operation that it is."""
    tensors = [x for x in flatten((args, kwargs)) if tf.is_tensor(x)]
    outputs = run_graph(model, tensors, operation_fn)
    return outputs[0] if len(outputs) == 1 else outputs


def flatten(structure):
    """list of the leaves of nested lists, tuples and dicts."""
    return tf.nest.flatten(structure)


def is_training_norm(operation):
    """Whether this is a batch norm that uses the statistics of the batch in training."""
    return type(operation) is keras.layers.BatchNormalization and operation.trainable


def inference_flags(operation):
    """The arguments that make a layer infer: {"training": False} if it can train, else {}.

    They go before what the graph says, as in Keras' own predict: it says training=True to all
    layers of random augmentation.
    """
    if not isinstance(operation, keras.Layer):
        return {}
    return {"training": False} if "training" in inspect.signature(operation.call).parameters else {}
