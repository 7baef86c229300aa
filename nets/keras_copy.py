"""A network as a Keras model of plain layers, with the same weights and the same outputs.

The copy has every layer that is left after pruning, and nothing of this project: a file of it loads
wherever Keras does.
"""

import keras
import numpy as np
import tensorflow as tf

from nets.batch_norm import BN_DECAY, BN_EPSILON
from nets.mobilenet_v2 import InvertedResidual
from nets.parts import ConvPart, Head
from nets.resnet import Block, PooledStem

L = keras.layers
LARGEST_OUTPUT = {tf.nn.relu: None, tf.nn.relu6: 6.0}  # of the activations that networks have


def keras_copy(network, mean, std, folded=False, silent=()):
    """The keras.Model of a network: pixels, float32 [B, S, S, 3], to logits, float32 [B, classes].

    Pixels are 0..255; the first layer normalises them.

    Args:
        network: Network.
        mean, std: the normalisation, three floats each.
        folded: whether batch norms become part of the convolutions before them. That is for
            inference only. Without it the copy trains on, and its batch norms have the network's
            moving averages.
        silent: names of Keras layers, activations within residual branches, that are taken to give
            0. Such a branch becomes the constant that is left of it. Only with `folded`.

    The constants that are left of blocks without filters do not train, except behind a projection.
    """
    x = image = keras.Input(network.image_shape, name="images", dtype="float32")
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std)]
    x = L.Rescaling(scale, offset, name="normalise")(x)
    copy = _Folded(silent) if folded else _Trainable()
    for part in network.parts:
        if type(part) not in PARTS:
            name = type(part).__name__
            raise TypeError(f"{name} has no Keras layers; add it to PARTS in nets/keras_copy.py")
        x = PARTS[type(part)](part, x, copy)
    return keras.Model(image, x, name=network.name)


class _Trainable:
    """Copies layers as they are."""

    silent = ()

    def conv_bn(self, conv, bn, x, constant=None):
        """Convolution and batch norm, plus a Constant or None."""
        strides = conv.strides
        if conv.kernel_size == 1 and strides > 1:
            # As in nets.tcl: with strides, oneDNN's gradient of a 1x1 kernel is wrong on CPUs.
            x, strides = L.MaxPooling2D(1, strides, name=_name(conv, "subsample"))(x), 1
        x = _convolution(conv, x, [conv.kernel.numpy()], strides)
        names = "gamma", "beta", "moving_mean", "moving_variance"
        gamma, beta, *averages = (_vector(bn, name) for name in names)
        layer = L.BatchNormalization(momentum=BN_DECAY, epsilon=BN_EPSILON, name=_name(bn))
        y = layer(x)
        layer.set_weights([gamma, beta + _constant(constant), *averages])
        return y


class _Folded:
    """Copies a convolution and its batch norm as one convolution with a bias."""

    def __init__(self, silent):
        self.silent = silent

    def conv_bn(self, conv, bn, x, constant=None):
        """Convolution and batch norm, plus a Constant or None."""
        scale, shift = _scale_and_shift(bn)
        factor = scale.reshape([-1] + [1] * (-1 - conv.filter_axis))
        weights = [conv.kernel.numpy() * factor, shift + _constant(constant)]
        return _convolution(conv, x, weights, conv.strides)


def _scale_and_shift(bn):
    """(s, t), float64 [C]: (x * k - mean) gamma / deviation + beta = x * (k s) + t."""
    gamma, beta, mean, variance = (
        np.float64(_vector(bn, name))
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + BN_EPSILON)
    return scale, beta - mean * scale


def _convolution(conv, x, weights, strides):
    """The convolution of x. weights: list of the kernel, and the bias if there is one."""
    padding = "same"
    if conv.padding != "SAME":
        x = L.ZeroPadding2D(conv.kernel_size // 2, name=_name(conv, "pad"))(x)
        padding = "valid"
    settings = dict(strides=strides, padding=padding, use_bias=len(weights) > 1, name=_name(conv))
    if conv.filter_axis == -1:
        layer = L.Conv2D(conv.filters, conv.kernel_size, **settings)
    else:
        layer = L.DepthwiseConv2D(conv.kernel_size, **settings)
    y = layer(x)
    layer.set_weights(weights)
    return y


def _name(layer, suffix=""):
    """The name of a Keras layer, which has no slashes."""
    return "_".join(filter(None, (*layer.path.split("/"), suffix)))


def _vector(layer, array_name):
    """An array of a batch norm or a Constant, float32 [C]."""
    return layer.arrays[array_name].numpy().reshape(-1)


def _constant(constant):
    """float32 [C] of a Constant; 0 for None."""
    return 0.0 if constant is None else _vector(constant, "beta")


def _activated(conv, x):
    """The activation behind a convolution."""
    return L.ReLU(LARGEST_OUTPUT[conv.after], name=_name(conv, "relu"))(x)


def _left_of(inner, last, copy):
    """What a branch gives if an activation in it is 0 everywhere, float64 [C]; else None.

    Behind zeros every place has the same values. They come to 1x1 convolutions only: there are no
    borders.

    inner: (convolution, batch norm)s with an activation each; last: that without one.
    """
    silent = [i for i, (conv, _) in enumerate(inner) if _name(conv, "relu") in copy.silent]
    if not silent:
        return None
    value = None
    for conv, bn in [*inner[silent[-1] + 1 :], last]:
        scale, shift = _scale_and_shift(bn)
        value = shift if value is None else value @ conv.kernel.numpy()[0, 0] * scale + shift
        if conv is not last[0]:
            value = np.clip(value, 0, LARGEST_OUTPUT[conv.after])
    return value


# ------------------------------------------------------------------------- functions of whole parts


def _conv_part(part, x, copy):
    return _activated(part.conv, copy.conv_bn(part.conv, part.bn, x))


def _pooled_stem(part, x, copy):
    x = L.ReLU(name="conv_relu")(copy.conv_bn(part.conv, part.bn, x))
    if part.conv.padding == "SAME":
        return L.MaxPooling2D(3, 2, "same", name="pool")(x)
    x = L.ZeroPadding2D(1, name="pool_pad")(x)  # after ReLU a border of 0 is one of -inf
    return L.MaxPooling2D(3, 2, name="pool")(x)


def _shifted(bn, offset, x):
    """x plus `offset`, a vector, which is all that is left of a branch. bn: names it."""
    return L.Rescaling(1.0, offset.tolist(), name=_name(bn, "constant"))(x)


def _block(block, x, copy):
    """nets.resnet.Block."""
    y = shortcut = x
    if block.projection is not None:
        y = shortcut = copy.conv_bn(*block.projection, x, block.constant)
    elif block.constant is not None:
        y = _shifted(block.constant, _constant(block.constant), x)
    *inner, last = block.convs or [None]
    left = _left_of(inner, last, copy)
    if left is not None:
        y = _shifted(last[1], left, shortcut)
    elif block.convs:
        for conv, bn in inner:
            x = _activated(conv, copy.conv_bn(conv, bn, x))
        y = L.Add(name=_name(last[0], "add"))([copy.conv_bn(*last, x), shortcut])
    return L.ReLU(name=_name(block.layers[-1], "out"))(y)


def _inverted_residual(block, x, copy):
    """nets.mobilenet_v2.InvertedResidual."""
    if block.constant is not None:
        return _shifted(block.constant, _constant(block.constant), x)
    left = _left_of(block.inner, (block.conv2, block.bn2), copy)
    if block.shortcut and left is not None:
        return _shifted(block.bn2, left, x)
    y = x
    for conv, bn in block.inner:
        y = _activated(conv, copy.conv_bn(conv, bn, y))
    y = copy.conv_bn(block.conv2, block.bn2, y)
    return L.Add(name=_name(block.conv2, "add"))([y, x]) if block.shortcut else y


def _head(part, x, copy):
    x = L.GlobalAveragePooling2D(name="mean")(x)
    kernel, biases = part.fc.kernel.numpy(), part.fc.biases.numpy().reshape(-1)
    layer = L.Dense(len(biases), name="fc")
    y = layer(x)
    layer.set_weights([kernel, biases])
    return y


PARTS = {
    ConvPart: _conv_part,
    PooledStem: _pooled_stem,
    Block: _block,
    InvertedResidual: _inverted_residual,
    Head: _head,
}
