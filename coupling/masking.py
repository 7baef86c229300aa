"""Masks for a Keras model, and the values that its variables have with one."""

import numpy as np
import tensorflow as tf

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


def whole_mask(network):
    """float32 [F]: the mask that keeps all filters; with it an extraction is a copy."""
    return np.ones(network.gate_sizes.sum(), np.float32)


def kept_filters(network, mask):
    """int [G]: the number of filters that a mask, float32 [F], keeps of each gate."""
    parts = np.split(np.asarray(mask) > 0, np.cumsum(network.gate_sizes)[:-1])
    return np.array([part.sum() for part in parts], np.int64)
