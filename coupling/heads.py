"""The end of a classifier: softmax or sigmoid is taken off for logits, and put back."""

import dataclasses
import typing

import keras

from coupling.graph import inlined
from utils import UserError

SOFTMAX = keras.activations.softmax
SIGMOID = keras.activations.sigmoid


@dataclasses.dataclass(frozen=True)
class Head:
    """kind: "softmax", "sigmoid" or "logits"; put_back: function of a model of logits to one with
    this end.
    """

    kind: str
    put_back: typing.Callable

    @classmethod
    def none(cls):
        """That of a model that ends in logits, or in whatever its loss makes of it."""
        return cls("logits", lambda pruned: pruned)


def without_head(model):
    """(a model of logits, the Head that it had).

    A softmax or sigmoid within the last layer is replaced in `model` itself, so give a copy. A
    layer of its own is cut off. A model that ends in neither has logits already.

    model: functional model with one output. Raises UserError for several outputs.
    """
    if len(model.outputs) != 1:
        raise UserError(f"{model.name} has {len(model.outputs)} outputs; one is needed")
    path = _last(model)
    last = path[-1]
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and activation in (SOFTMAX, SIGMOID)
    ):
        if len(path) > 1:
            raise UserError(f"{model.name} ends in {last.name} within {path[0].name}; inline it")
        cut = keras.Model(model.input, last.input, name=model.name)
        end = type(last).from_config(last.get_config())
        put_end = lambda pruned: keras.Model(pruned.input, end(pruned.outputs[0]), name=pruned.name)
        return cut, Head("sigmoid" if activation is SIGMOID else "softmax", put_end)
    if activation not in (SOFTMAX, SIGMOID):
        return model, Head.none()
    last.activation = keras.activations.linear

    def put_back(pruned):
        _last(pruned)[-1].activation = activation
        return pruned

    return model, Head("sigmoid" if activation is SIGMOID else "softmax", put_back)


def activation_at_end(model):
    """SOFTMAX or SIGMOID if a functional model ends in it, None if its outputs are logits."""
    last = _last(model)[-1]
    if isinstance(last, keras.layers.Softmax):
        return SOFTMAX
    activation = getattr(last, "activation", None)
    return activation if activation in (SOFTMAX, SIGMOID) else None


def _last(model):
    """list: the operation that makes the output, preceded by the nested models it is in."""
    operation = model.outputs[0]._keras_history.operation
    nested = inlined(operation)
    return [operation] if nested is None else [operation, *_last(nested)]
