"""A Keras model in the steps of a run: passes with masks, probes and batch statistics."""

import typing

import keras
import numpy as np
import tensorflow as tf

from coupling.extraction import Extraction
from coupling.graph import run_graph
from coupling.masking import masked_values
from coupling.network import KerasNetwork
from coupling.passes import FirstPass, Pass, probed
from coupling.samples import sample_inputs
from nets.batch_norm import BN_DECAY
from utils import UserError


class Norm:
    """A batch norm that the steps of a run move (nets.batch_norm.BatchNorm.move)."""

    def __init__(self, layer, path):
        self.path = path
        names = ("moving_mean", "moving_variance")
        self.arrays = {name: getattr(layer, name).value for name in names}

    def move(self, mean, variance, decay=BN_DECAY):
        """moving = decay * moving + (1 - decay) * batch, for float32 [C] batch statistics.

        The decay is that of the method: the 0.99 of Keras takes more steps than a fine-tuning has.
        """
        for variable, batch in zip(self.arrays.values(), (mean, variance)):
            variable.assign(decay * variable + (1 - decay) * tf.cast(batch, variable.dtype))


class PrunableModel(KerasNetwork):
    """A Keras model of logits that offers what the stages of a run ask of a network
    (engine.networks.Prunable).

    Dropped filters are zeros in its passes, and none is left out of the arrays. Dropout and
    stochastic depth stay off.

    Args:
        model: keras.Model with one input of images. Several outputs become one, [B, classes], in
            their order.
        input_size: see coupling.samples.sample_inputs.

    Raises UserError for other inputs or outputs.
    """

    def __init__(self, model, input_size=None):
        super().__init__(model, input_size)
        self.arch = self.model.name
        check_input(self.model)
        (sample,) = sample_inputs(self.model, input_size)
        self.image_shape, self.input_size = sample.shape[1:], sample.shape[1]
        self.classes = sum(int(np.prod(y.shape[1:])) for y in self.model.outputs)
        self.branches: list = [None] * len(self.gates)
        # To a search of several sub-networks in a call, the whole model is one part, the head.
        self.parts, self.first_parts = [self], [0] * len(self.gates)
        paths = {id(visited.layer): visited.path for visited in self.layers}
        first = FirstPass(self)
        self._run(sample, first)
        self.batch_norms = [Norm(layer, paths[id(layer)]) for layer in first.norms]
        # (operation, number of its call) -> places of its output's channels, of outputs that a
        # convolution or a dense layer reads
        self._observed = first.observed

    # ------------------------------------------------------------------------------------- arrays

    @property
    def trainable(self):
        """The trainable variables, in network order."""
        return [variable.value for variable in self.model.trainable_variables]

    def variables_by_name(self):
        """dict name -> variable, in network order."""
        named: dict[str, typing.Any] = {}
        for weight in self.weights:
            name, number = weight.path, 1
            while name in named:
                number += 1
                name = f"{weight.path}#{number}"
            named[name] = weight.variable.value
        return named

    def parameters(self):
        """dict name -> array, as in a parameter file."""
        return {name: variable.numpy() for name, variable in self.variables_by_name().items()}

    def assign(self, arrays):
        """Sets all variables. arrays: dict as from `parameters`; raises ValueError for others."""
        variables = self.variables_by_name()
        shapes = lambda named: {name: tuple(value.shape) for name, value in named.items()}
        if shapes(arrays) != shapes(variables):
            raise ValueError("it holds the arrays of another model")
        for name, variable in variables.items():
            variable.assign(arrays[name])

    def layer_filters(self, filters=None):
        """dict layer path -> filters when gate i keeps filters[i] filters, in network order."""
        last = {visited.path: visited.writes[-1] for visited in self.layers if visited.writes}
        size = lambda weight, axis: self.costs.shape(weight.variable, filters)[axis]
        return {path: size(*write) for path, write in last.items()}

    def filter_weights(self, masks):
        """Yields (places, weights), see ekg.extraction.filter_weights."""
        extraction = Extraction(self, masks, keep_norms=True)
        for visited in self.layers:
            for weight, axis in visited.writes:
                places = self.filters[id(weight.variable)].get(axis)
                if places is None:
                    continue
                kernel = np.moveaxis(extraction.sliced(weight.variable), axis, 0)
                rows = kernel.reshape(len(kernel), -1).astype(np.float64)
                stays = places[(places < 0) | (masks[places] > 0)]
                yield stays[stays >= 0], rows[stays >= 0]

    # --------------------------------------------------------------------------------------- passes

    def split_masks(self, flat):
        """The masks of a Context, a list of float32 [C], from a flat float32 [F]."""
        return tf.split(flat, self.gate_sizes.tolist())

    def __call__(self, images, ctx):
        """Logits, float32 [B, classes], of images, float32 [B, ...]. ctx: nets.gates.Context."""
        return tf.cast(self._run(images, Pass(self, ctx)), tf.float32)

    def _run(self, images, current):
        state = []
        if current.ctx.masks is not None:
            state = masked_values(self, tf.concat(current.ctx.masks, 0), keep_norms=True)
        with keras.StatelessScope(state_mapping=state):
            outputs = run_graph(self.model, [tf.convert_to_tensor(images)], current.function)
        if len(outputs) == 1 and len(outputs[0].shape) == 2:
            return outputs[0]
        flat = [tf.cast(tf.reshape(y, [tf.shape(y)[0], -1]), tf.float32) for y in outputs]
        return tf.reshape(tf.concat(flat, 1), [-1, self.classes])

    def observe(self, call, y, ctx):
        """y, the output of a call, (operation, number); with probes if it is to be observed."""
        if ctx.tape is None or not tf.is_tensor(y) or call not in self._observed:
            return y
        return self._with_probes(ctx, y, self._observed[call])

    def _with_probes(self, ctx, y, places):
        """y, with a probe for each gate that has channels of it (nets.gates.Context.observe)."""
        starts = np.concatenate([[0], np.cumsum(self.gate_sizes)])
        owner = np.searchsorted(starts, places, "right") - 1
        probes, index, total = [], np.full(len(places), -1), 0
        for gate in np.unique(owner[places >= 0]).tolist():
            probe = tf.zeros([self.gates[gate].size])
            ctx.tape.watch(probe)
            ctx.probes[gate].append(probe)
            own = (owner == gate) & (places >= 0)
            index[own] = places[own] - starts[gate] + total
            probes.append(probe)
            total += self.gates[gate].size
        return probed(y, tf.concat(probes, 0), index)


def check_input(model):
    """Raises UserError unless a functional model takes images, and nothing else."""
    if len(model.inputs) != 1:
        raise UserError(f"{model.name} has {len(model.inputs)} inputs; one is needed")
    shape = model.inputs[0].shape
    if len(shape) != 4 or shape[-1] is None:
        raise UserError(
            f"{model.name} takes {_sizes(shape)}; images [height, width, channels] are needed"
        )


def check_output(model, several):
    """Raises UserError unless a functional model gives [B, classes].

    several: whether it may give several outputs of any shape that is known.
    """
    shapes = [y.shape for y in model.outputs]
    if several:
        open_ones = [shape for shape in shapes if None in shape[1:]]
        if open_ones:
            raise UserError(f"{model.name} gives {_sizes(open_ones[0])} per image; say how many")
    elif len(shapes) != 1:
        raise UserError(
            f"{model.name} has {len(shapes)} outputs; one is needed, or in Python a loss function"
        )
    elif len(shapes[0]) != 2 or shapes[0][-1] is None:
        raise UserError(
            f"{model.name} gives {_sizes(shapes[0])} per image; [classes] is needed, or in Python a"
            " loss function"
        )


def _sizes(shape):
    return f"[{', '.join('any' if n is None else str(n) for n in shape[1:])}]"
