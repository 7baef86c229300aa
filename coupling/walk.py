"""One run through a model on random data, with a label per channel beside the values."""

import functools
import typing

import keras
import numpy as np
import tensorflow as tf

from coupling.experiments import Input, understand
from coupling.graph import flatten, inference_flags, inlined, is_training_norm, run_graph
from coupling.labels import Labels, Tensor
from coupling.reshapes import is_reshape, reshaped
from coupling.rules import rule_for
from coupling.weights import Visited, Weight
from utils import UserError

UNCLEAR = "mixes channels or has their number inside"
PLAIN_ARGUMENTS = (int, float, str, slice, type(None), type(...))


class Walk:
    """What one run through a model has found.

    labels: Labels.
    layers: dict id(layer) -> Visited, layers with weights in the order of the data.
    weights: dict id(variable) -> Weight.
    reshapes: dict id(operation) -> (axis, labels) of the output.
    """

    def __init__(self, model, inputs):
        """
        Args:
            model: functional model.
            inputs: list of arrays, one per input of the model.

        Raises UserError if the model cannot be run on them.
        """
        self.labels = Labels()
        self.layers: dict[int, Visited] = {}
        self.weights: dict[int, Weight] = {}
        self.reshapes: dict[int, tuple[int, np.ndarray]] = {}
        self._ports: dict[tuple[int, int], Tensor] = {}  # inputs of nested models
        self._readers: dict[int, list[bool]] = {}  # per kernel: whether its readers are batch norms
        self._known: dict[tuple, typing.Any] = {}  # behaviours of operations seen before
        self._inside = ""  # path of the nested model in which the walk is
        tensors = [
            self._frozen(tf.convert_to_tensor(x), f"tied to the model's input {ref.name}")
            for x, ref in zip(inputs, model.inputs)
        ]
        outputs = run_graph(model, tensors, self._operation_fn)
        for tensor, ref in zip(outputs, model.outputs):
            layer = ref._keras_history.operation
            self._read_by([tensor], batch_norm=False)
            if tensor.labels is not None:
                why = f"tied to the model's output {layer.name}"
                self.labels.freeze(tensor.labels, why, first=True)
        for key, readers in self._readers.items():
            self.weights[key].normed = all(readers)

    # ------------------------------------------------------------------------------ used by rules

    def tie(self, variable, axis, labels=None):
        """The labels along an axis of a variable, united with `labels`: int64 [size].

        They are the same at every use, so all uses of a shared layer are united.
        """
        axes = self.weights[id(variable)].labels
        if axis not in axes:
            axes[axis] = self.labels.fresh(variable.shape[axis])
        if labels is not None:
            self.labels.unite(axes[axis], labels)
        return axes[axis]

    def writes(self, layer, kernel, axis, places):
        """Notes that a layer's kernel writes filters along `axis`, at so many places per image."""
        visited, weight = self.layers[id(layer)], self.weights[id(kernel)]
        if not any(w is weight for w, _ in visited.writes):
            visited.writes.append((weight, axis))
        self.counts(layer, kernel, places)

    def counts(self, layer, variable, macs):
        """Notes so many multiply-accumulates per image for each number in a variable."""
        self.layers[id(layer)].macs.append((self.weights[id(variable)], macs))

    # ---------------------------------------------------------------------------------- operations

    def _operation_fn(self, operation):
        return functools.partial(self._call, operation)

    def _call(self, operation, *args, **kwargs):
        """Runs an operation on Tensors; returns its outputs as Tensors."""
        tensors = [leaf for leaf in flatten((args, kwargs)) if isinstance(leaf, Tensor)]
        nested = inlined(operation)
        if nested is not None:
            return self._nested(operation, nested, tensors)
        self._read_by(tensors, is_training_norm(operation))
        run = functools.partial(_run, operation, args, kwargs)
        try:
            value = run([tensor.value for tensor in tensors])
        except Exception as error:  # whatever a model may raise where it does not fit its inputs
            reason = str(error).strip().partition("\n")[0][:200]
            raise UserError(
                f"the model cannot be run on random inputs: {self._inside}{operation.name}:"
                f" {type(error).__name__}: {reason}"
            ) from error
        if isinstance(operation, keras.Layer) and operation.weights:
            return self._with_weights(operation, tensors, value)
        name = f"{type(operation).__name__} {operation.name}"
        if is_reshape(operation):
            return self._reshape(name, operation, run, tensors, value)
        return self._by_experiment(name, _key(operation, args, kwargs), run, tensors, value)

    def _with_weights(self, layer, tensors, value):
        visited = self._visit(layer)
        rule, why = None, f"{type(layer).__name__} {layer.name} has weights and several inputs"
        if len(tensors) == 1:
            rule, why = rule_for(layer, tensors[0])
        if rule is None:
            visited.ruled = False
            self._freeze(tensors, why)
            return tf.nest.map_structure(lambda y: self._frozen(y, why), value)
        weights = {w.name: w for w in layer.weights}
        output = rule.apply(self, layer, weights, tensors[0], value)
        if visited.writes:
            visited.reads = tensors[0].labels
        if not rule.activated or layer.activation is keras.activations.linear:
            return output
        self._read_by([output], batch_norm=False)
        run = lambda values, target=None: layer.activation(values[0])
        name = f"the activation of {type(layer).__name__} {layer.name}"
        return self._by_experiment(name, layer.activation, run, [output], value)

    def _nested(self, operation, model, tensors):
        """Walks through a nested model. All its uses unite, and so do the labels of its inputs."""
        inputs = []
        for i, tensor in enumerate(tensors):
            port = self._ports.setdefault((id(operation), i), tensor)
            if port is not tensor and tensor.labels is not None and port.labels is not None:
                if tensor.axis == port.axis and len(tensor.labels) == len(port.labels):
                    self.labels.unite(tensor.labels, port.labels)
                else:
                    why = f"{operation.name} is used on inputs of several shapes"
                    self._freeze([tensor, port], why)
            inputs.append(tensor)
        outside, self._inside = self._inside, f"{self._inside}{operation.name}/"
        outputs = run_graph(model, inputs, self._operation_fn)
        self._inside = outside
        return outputs[0] if len(outputs) == 1 else outputs

    def _visit(self, layer):
        if id(layer) not in self.layers:
            path = self._inside + layer.name
            weights = []
            for variable in layer.weights:
                weight = Weight(variable, f"{path}/{variable.name}")
                weights.append(self.weights.setdefault(id(variable), weight))
            self.layers[id(layer)] = Visited(path, layer, weights)
        return self.layers[id(layer)]

    def _freeze(self, tensors, why):
        for tensor in tensors:
            if tensor.labels is not None:
                self.labels.freeze(tensor.labels, why)

    def _frozen(self, value, why):
        """A Tensor with frozen channels along its last axis."""
        rank = len(getattr(value, "shape", ()))
        return Tensor(value, self.labels.fresh(value.shape[-1], why) if rank > 1 else None)

    def _read_by(self, tensors, batch_norm):
        """Notes for the kernels that have just written these tensors what reads them."""
        for tensor in tensors:
            if tensor.kernel is not None:
                self._readers.setdefault(id(tensor.kernel), []).append(batch_norm)

    # ------------------------------------------------------------------ operations without weights

    def _reshape(self, name, operation, run, tensors, value):
        output = self._by_experiment(name, None, run, tensors, value)
        axis, labels = self.reshapes.setdefault(id(operation), (output.axis, output.labels))
        if labels is not output.labels:  # a second use of the same layer
            if axis == output.axis and len(labels) == len(output.labels):
                self.labels.unite(labels, output.labels)
            else:
                why = f"{name} is used on inputs of several shapes"
                self.labels.freeze(labels, why)
                self._freeze([output], why)
        return output

    def _by_experiment(self, name, key, run, tensors, value):
        """The outputs of an operation without weights.

        Args:
            name: of the operation, for the user.
            key: equal for operations that do the same on the same shapes; None: not known.
            run: function (values of all tensors, target) -> a structure like `value`.
            tensors: list of Tensor, the inputs.
            value: the outputs, a structure of arrays; returned as such a structure of Tensors.
        """
        channels = [t for t in tensors if t.labels is not None]
        reasons = [self.labels.frozen_for(t.labels) for t in channels]
        if all(reason is not None for reason in reasons):
            why = reasons[0] if reasons else f"{name} makes them from nothing that can be pruned"
            return tf.nest.map_structure(lambda y: self._frozen(y, why), value)
        behaviour = self._behaviour(key, run, tensors)
        if behaviour is None:
            single = all(len(t.labels) == 1 for t in channels)
            why = f"{name} has a single channel" if single else f"{name} {UNCLEAR}"
            self._freeze(channels, why)
            # A softmax still has a channel for each of its input: they stay for the same reason.
            one = channels[0]
            same = lambda y: len(channels) == 1 and y.shape == one.value.shape
            keep = lambda y: Tensor(y, one.labels, one.axis) if same(y) else self._frozen(y, why)
            return tf.nest.map_structure(keep, value)
        constant = self.labels.fresh(1, f"{name} adds channels that are constant")
        labels = np.concatenate([constant, *(t.labels for t in channels)])
        self.labels.unite(labels[behaviour.groups], labels)
        if behaviour.spread.any():
            self.labels.freeze(labels[behaviour.spread], f"{name} spreads one channel over all")
        outputs = [
            Tensor(y, None if o.numbers is None else labels[o.numbers], o.axis)
            for y, o in zip(flatten(value), behaviour.outputs)
        ]
        return tf.nest.pack_sequence_as(value, outputs)

    def _behaviour(self, key, run, tensors):
        """What experiments find; the same operation on the same shapes is tried once."""
        inputs = [
            Input(tuple(t.value.shape), t.axis, t.value.dtype)
            for t in tensors
            if t.labels is not None
        ]

        def run_part(values, target):
            """Runs on other values of the tensors that have channels."""
            left = iter(values)
            parts = [t.value if t.labels is None else next(left) for t in tensors]
            return flatten(run(parts, target))

        if key is None or len(inputs) < len(tensors):
            return understand(run_part, inputs)
        known = (key, *inputs)
        if known not in self._known:
            self._known[known] = understand(run_part, inputs)
        return self._known[known]


def _run(operation, args, kwargs, values, target=None):
    """Calls an operation with `values` in the places of the Tensors of its arguments.

    target: (axis, channels) of a reshape's output, if it is narrower than usual.
    """
    left = iter(values)
    fill = lambda leaf: next(left) if isinstance(leaf, Tensor) else leaf
    args, kwargs = tf.nest.map_structure(fill, (args, kwargs))
    if target is not None and is_reshape(operation):
        operation = reshaped(operation, *target)
    return operation(*args, **{**kwargs, **inference_flags(operation)})


def _key(operation, args, kwargs):
    """What tells operations of Keras apart, besides the shapes of their inputs; else None."""
    others = [leaf for leaf in flatten((args, kwargs)) if not isinstance(leaf, Tensor)]
    simple = all(isinstance(leaf, PLAIN_ARGUMENTS) for leaf in others)
    of_keras = type(operation).__module__.partition(".")[0] == "keras"
    if not (simple and of_keras) or isinstance(operation, keras.layers.Lambda):
        return None
    try:
        config = {**operation.get_config(), "name": None}
    except NotImplementedError:
        return None
    plainly = lambda leaf: 0 if isinstance(leaf, Tensor) else leaf
    structure = tf.nest.map_structure(plainly, (args, kwargs))
    return type(operation), repr(config), repr(structure)
