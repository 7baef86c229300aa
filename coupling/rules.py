"""Layers with weights: which axis of which weight has which channels.

A layer with weights that has no rule here freezes what it touches.
"""

import math
import typing

import keras
import numpy as np

from coupling.labels import Tensor


class Rule(typing.NamedTuple):
    """A layer with weights.

    apply: function (walk, layer, weights, x, y) -> Tensor, the output with its labels. walk:
        coupling.walk.Walk; weights: dict name -> variable; x: Tensor; y: the value of the output,
        before the activation where `activated`.
    weights: the names of weights that the rule knows; a layer that has others has no rule.
    activated: whether the layer ends in an activation function of its own.
    fits: function (layer, x) -> text that says why the rule does not hold here, None if it does.
    """

    apply: typing.Callable
    weights: tuple[str, ...]
    activated: bool
    fits: typing.Callable


def rule_for(layer, x):
    """(Rule, None), or (None, text that says why there is none)."""
    kind = type(layer).__name__
    rule = RULES.get(type(layer))
    unknown = [w.name for w in layer.weights if rule is None or w.name not in rule.weights]
    if rule is None or unknown:
        return None, f"there is no rule for the weights of {kind} {layer.name}"
    reason = rule.fits(layer, x)
    return (None, f"{kind} {layer.name} {reason}") if reason else (rule, None)


def positions(value, *axes):
    """Size of a tensor without the batch and these axes, counted from the end: a product."""
    rank = len(value.shape)
    return math.prod(n for i, n in enumerate(value.shape) if i and i - rank not in axes)


def _channels_last(layer, x):
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "has its channels first"
    return None if x.axis == -1 else "reads another axis than that of the channels"


def _bn_axis(layer, x):
    rank = len(x.value.shape)
    same = layer.axis % rank - rank == x.axis
    return None if same else "normalises another axis than that of the channels"


def _convolution(walk, layer, weights, x, y):
    kernel = weights["kernel"]
    read, filters = kernel.shape[-2:]
    if layer.groups == 1:
        walk.tie(kernel, -2, x.labels)
        labels = walk.tie(kernel, -1)
    elif read == 1:
        # One input channel per group: whole groups can go.
        labels = walk.tie(kernel, -1, np.repeat(x.labels, filters // layer.groups))
    else:
        # Every group keeps as many channels as the others: those at the same place.
        walk.tie(kernel, -2, _across_groups(walk, x.labels, layer.groups))
        labels = walk.tie(kernel, -1)
        _across_groups(walk, labels, layer.groups)
    return _written(walk, layer, weights, kernel, labels, y, positions(y, -1))


def _across_groups(walk, labels, groups):
    """Unites what is at the same place of each group; returns the labels of the first group."""
    first, *others = np.reshape(labels, [groups, -1])
    for other in others:
        walk.labels.unite(first, other)
    return first


def _transposed(walk, layer, weights, x, y):
    kernel = weights["kernel"]  # [..., filters, channels]
    walk.tie(kernel, -1, x.labels)
    labels = walk.tie(kernel, -2)
    return _written(walk, layer, weights, kernel, labels, y, positions(x.value, -1), axis=-2)


def _depthwise(walk, layer, weights, x, y):
    kernel = weights["kernel"]  # [..., channels, multiplier]
    walk.tie(kernel, -2, x.labels)
    labels = np.repeat(x.labels, kernel.shape[-1])
    return _written(walk, layer, weights, kernel, labels, y, positions(y, -1), axis=-2)


def _separable(walk, layer, weights, x, y):
    depthwise, pointwise = weights["depthwise_kernel"], weights["pointwise_kernel"]
    walk.tie(depthwise, -2, x.labels)
    walk.writes(layer, depthwise, -2, positions(y, -1))
    walk.tie(pointwise, -2, np.repeat(x.labels, depthwise.shape[-1]))
    labels = walk.tie(pointwise, -1)
    return _written(walk, layer, weights, pointwise, labels, y, positions(y, -1))


def _dense(walk, layer, weights, x, y):
    kernel = weights["kernel"]
    walk.tie(kernel, -2, x.labels)
    labels = walk.tie(kernel, -1)
    return _written(walk, layer, weights, kernel, labels, y, positions(y, -1))


def _written(walk, layer, weights, kernel, labels, y, places, axis=-1):
    """The output of a layer whose kernel writes along `axis` at so many places per image."""
    walk.writes(layer, kernel, axis, places)
    if "bias" in weights:
        walk.tie(weights["bias"], -1, labels)
    return Tensor(y, labels, kernel=kernel)


def _batch_norm(walk, layer, weights, x, y):
    for vector in weights.values():
        walk.tie(vector, -1, x.labels)
    # METHOD 9: 2 multiply-accumulates per element, scale and shift
    walk.counts(layer, weights["moving_mean"], 2 * positions(x.value, x.axis))
    return Tensor(y, x.labels, x.axis)


def _prelu(walk, layer, weights, x, y):
    alpha = weights["alpha"]  # the shape of an image, 1 along shared axes
    if alpha.shape[x.axis] == len(x.labels):
        walk.tie(alpha, x.axis, x.labels)
    return Tensor(y, x.labels, x.axis)


def _kernel(apply):
    return Rule(apply, ("kernel", "bias"), True, _channels_last)


TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
SEPARABLE = "depthwise_kernel", "pointwise_kernel", "bias"
BATCH_NORM = "gamma", "beta", "moving_mean", "moving_variance"
RULES = {
    keras.layers.Conv1D: _kernel(_convolution),
    keras.layers.Conv2D: _kernel(_convolution),
    keras.layers.Conv3D: _kernel(_convolution),
    **{layer: _kernel(_transposed) for layer in TRANSPOSED},
    keras.layers.DepthwiseConv1D: _kernel(_depthwise),
    keras.layers.DepthwiseConv2D: _kernel(_depthwise),
    keras.layers.SeparableConv1D: Rule(_separable, SEPARABLE, True, _channels_last),
    keras.layers.SeparableConv2D: Rule(_separable, SEPARABLE, True, _channels_last),
    keras.layers.Dense: _kernel(_dense),
    keras.layers.BatchNormalization: Rule(_batch_norm, BATCH_NORM, False, _bn_axis),
    keras.layers.PReLU: Rule(_prelu, ("alpha",), False, lambda layer, x: None),
}
