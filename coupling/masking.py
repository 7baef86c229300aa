"""Runs a Keras model with masks, without changing it."""

import functools

import keras
import numpy as np
import tensorflow as tf

from coupling.graph import flatten, inference_flags, inlined, run_graph
from nets.gates import masked_kernel

STATISTICS = ("moving_mean", "moving_variance")


def masked_values(network, mask, keep_norms=False):
    """The masked values of all variables that gates touch: list of (variable, tf.Tensor).

    What is read is masked as well as what is written, so nothing that an activation makes of a
    dropped channel reaches a kept one. Moving averages stay: with a variance of 0 a batch norm
    could divide by zero, and nobody reads its dropped channels.

    Args:
        network: KerasNetwork.
        mask: float32 [F], 1 for the filters kept; a tensor or an array. One trace serves all.
        keep_norms: rescale each kernel whose output only batch norms read to the norm of the whole
            kernel (METHOD 1a).
    """
    mask = tf.convert_to_tensor(mask, tf.float32)
    stays = int(network.gate_sizes.sum())  # the place of channels that always stay
    extended = tf.concat([mask, [1.0]], 0)
    values = []
    for weight in network.weights:
        axes = network.filters[id(weight.variable)]
        if not axes or weight.variable.name in STATISTICS:
            continue
        value = tf.convert_to_tensor(weight.variable.value)
        masks = {
            axis % len(value.shape): tf.gather(extended, np.where(places < 0, stays, places))
            for axis, places in axes.items()
        }
        values.append((weight.variable, _masked(value, masks, keep_norms and weight.normed)))
    return values


def _masked(value, masks, keep_norm):
    """A variable with masked slices set to 0. masks: dict axis -> float32 [size]."""
    masks = {axis: tf.cast(mask, value.dtype) for axis, mask in masks.items()}
    if keep_norm:
        return masked_kernel(value, masks)
    for axis, mask in masks.items():
        behind = [1] * (len(value.shape) - 1 - axis)
        value *= tf.reshape(mask, [-1, *behind])
    return value


def masked_outputs(network, mask, inputs, statistics="moving", keep_norms=False):
    """The outputs of the model with masks: flat list of tensors. No variable changes.

    Args:
        network: KerasNetwork.
        mask: float32 [F], see masked_values.
        inputs: flat list of tensors, one per input of the model.
        statistics: "batch" or "moving", what batch norms use. One that is not trainable uses
            its moving averages anyway.
        keep_norms: see masked_values.
    """
    values = masked_values(network, mask, keep_norms)
    with keras.StatelessScope(state_mapping=values):
        return outputs_of(network.model, inputs, statistics)


def outputs_of(model, inputs, statistics="moving"):
    """The outputs of a functional model: flat list of tensors.

    Only batch norms are told to train, by statistics "batch", so dropout and stochastic depth stay
    off. Outside of a StatelessScope that changes their moving averages.
    """

    def called(operation):
        nested = inlined(operation)
        if nested is not None:
            return functools.partial(_nested, nested, statistics)
        return functools.partial(_call, operation, statistics)

    return run_graph(model, [tf.convert_to_tensor(x) for x in inputs], called)


def _nested(model, statistics, *args, **kwargs):
    tensors = [x for x in flatten((args, kwargs)) if tf.is_tensor(x)]
    outputs = outputs_of(model, tensors, statistics)
    return outputs[0] if len(outputs) == 1 else outputs


def _call(operation, statistics, *args, **kwargs):
    flags = inference_flags(operation)
    if statistics == "batch" and type(operation) is keras.layers.BatchNormalization:
        flags = {"training": True}
    return operation(*args, **{**kwargs, **flags})


def whole_mask(network):
    """float32 [F]: the mask that keeps all filters; with it an extraction is a copy."""
    return np.ones(network.gate_sizes.sum(), np.float32)


def kept_filters(network, mask):
    """int [G]: the number of filters that a mask, float32 [F], keeps of each gate."""
    parts = np.split(np.asarray(mask) > 0, np.cumsum(network.gate_sizes)[:-1])
    return np.array([part.sum() for part in parts], np.int64)
