"""From a Keras model and a mask to a smaller Keras model with the same outputs (METHOD 6)."""

import dataclasses
import typing

import keras
import numpy as np
import tensorflow as tf

from coupling.graph import flatten, inlined, run_graph
from coupling.masking import masked_values, whole_mask
from coupling.reshapes import is_reshape, reshaped
from coupling.rules import TRANSPOSED
from utils import UserError


def extract(network, mask, keep_norms=False):
    """The keras.Model that is left of a model: a plain functional one, with weights of its own.

    Every layer is made from its configuration with the narrower sizes. Lambda layers, and layers
    without weights or configuration, keep what they have inside.

    Args:
        network: KerasNetwork.
        mask: float32 [F], 1 for the filters kept; at least one per gate.
        keep_norms: as in coupling.masking.masked_values.
    """
    return Extraction(network, mask, keep_norms).model()


def copied(model):
    """A copy of a functional model, with weights of its own."""
    network = _Ungated(model)
    return Extraction(network, whole_mask(network), keep_norms=False).model()


@dataclasses.dataclass
class _Ungated:
    """A KerasNetwork without gates: nothing is known of the model, and nothing can go."""

    model: keras.Model
    gate_sizes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    weights: tuple = ()
    filters: dict = dataclasses.field(default_factory=dict)
    reshapes: dict = dataclasses.field(default_factory=dict)


class Extraction:
    """One extraction, and what it has made so far."""

    def __init__(self, network, mask, keep_norms):
        self.network = network
        self._kept = np.append(np.asarray(mask) > 0, True)  # place -1: channels that always stay
        # Kernels rescaled to their whole norm (METHOD 1a), still masked: the same to the bit.
        normed = {id(w.variable) for w in network.weights if keep_norms and w.normed}
        values = masked_values(network, mask, keep_norms)
        self._rescaled = {id(v): value for v, value in values if id(v) in normed}
        self._made: dict[int, typing.Any] = {}  # id(operation) -> the operation in the new model
        self._layers: list[tuple] = []  # (layer, its copy)

    def model(self):
        """The new model, with its weights."""
        model = self.network.model
        made = self._copy(model, [tensor.shape for tensor in model.inputs])
        for layer, copy in self._layers:
            self._set_weights(layer, copy)
        return made

    def _copy(self, model, shapes):
        """A copy of a functional model with inputs of these shapes."""
        inputs = [
            keras.Input(batch_shape=shape, dtype=x.dtype, name=x._keras_history.operation.name)
            for shape, x in zip(shapes, model.inputs)
        ]
        outputs = run_graph(model, inputs, self._operation)
        # Old files have lists of one; a dict of one is what its user asked for.
        plain = lambda of, leaves: len(leaves) == 1 and not isinstance(of, dict)
        structure = lambda of, leaves: leaves[0] if plain(of, leaves) else _packed(of, leaves)
        return keras.Model(
            structure(model.input, inputs), structure(model.output, outputs), name=model.name
        )

    def _operation(self, operation):
        """The operation in the new model. A shared one is made once."""
        nested = inlined(operation)
        if nested is not None:
            return lambda *args, **kwargs: self._nested(operation, nested, args, kwargs)
        if id(operation) not in self._made:
            self._made[id(operation)] = self._narrower(operation)
        return self._made[id(operation)]

    def _nested(self, operation, model, args, kwargs):
        tensors = [x for x in flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        if id(operation) not in self._made:
            # What the nested model leaves open stays open; the other sizes are those of the call.
            shapes = [
                tuple(None if n is None else m for n, m in zip(old.shape, new.shape))
                for old, new in zip(model.inputs, tensors)
            ]
            self._made[id(operation)] = self._copy(model, shapes)
        made = self._made[id(operation)]
        return made(tensors[0] if len(tensors) == 1 else _packed(made.input, tensors))

    def _narrower(self, operation):
        if is_reshape(operation) and id(operation) in self.network.reshapes:
            axis, places = self.network.reshapes[id(operation)]
            return reshaped(operation, axis, int(self._kept[places].sum()))
        if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.Lambda):
            return _unconnected(operation)
        try:
            config = operation.get_config()
            copy = type(operation).from_config({**config, **self._sizes(operation)})
        except (NotImplementedError, TypeError) as error:
            if not operation.weights:
                return _unconnected(operation)
            kind = type(operation).__name__
            raise UserError(
                f"{kind} {operation.name} cannot be copied: its class needs get_config()"
            ) from error
        self._layers.append((operation, copy))
        return copy

    def _sizes(self, layer):
        """The entries of a layer's configuration that are smaller, a dict."""
        weights = {w.name: w for w in layer.weights}
        shapes = {name: self._shape(w) for name, w in weights.items() if self._gated(w)}
        if type(layer) is keras.layers.Dense and "kernel" in shapes:
            return {"units": shapes["kernel"][-1]}
        if "pointwise_kernel" in shapes:
            return {"filters": shapes["pointwise_kernel"][-1]}
        if "kernel" not in shapes or not hasattr(layer, "filters"):
            return {}
        kernel, whole = shapes["kernel"], weights["kernel"].shape
        if type(layer) in TRANSPOSED:
            return {"filters": kernel[-2]}
        sizes = {"filters": kernel[-1]}
        if layer.groups > 1 and whole[-2] == 1:
            sizes["groups"] = layer.groups * kernel[-1] // whole[-1]
        return sizes

    def _gated(self, variable):
        return self.network.filters.get(id(variable))

    def _shape(self, variable):
        """The shape of the part of a variable that stays, a list."""
        shape = list(variable.shape)
        for axis, places in self._gated(variable).items():
            shape[axis] = int(self._kept[places].sum())
        return shape

    def sliced(self, variable):
        """The part of a variable that stays, a NumPy array."""
        array = keras.ops.convert_to_numpy(self._rescaled.get(id(variable), variable))
        for axis, places in (self._gated(variable) or {}).items():
            array = np.compress(self._kept[places], array, axis)
        return array

    def _set_weights(self, layer, copy):
        for old, new in zip(layer.weights, copy.weights, strict=True):
            new.assign(self.sliced(old))
        if isinstance(layer, keras.layers.Normalization):
            copy.finalize_state()  # it computes with constants that it makes from its weights


def _unconnected(operation):
    """The same operation, without weights, in no graph yet. It shares all else: a function, say.

    Used as it is, it would have two places, and Keras 3.0 saves the wrong one.
    """
    copy = object.__new__(type(operation))
    copy.__dict__.update(operation.__dict__)
    copy.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])
    return copy


def _packed(structure, leaves):
    """The leaves in the lists, tuples and dicts of `structure`."""
    return tf.nest.pack_sequence_as(structure, leaves)
