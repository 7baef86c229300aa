"""Reshapes have the number of channels in their configuration, so a narrower copy is needed."""

import keras
from keras.src.ops.numpy import Reshape


def is_reshape(operation):
    """Whether this is keras.layers.Reshape or keras.ops.reshape."""
    return type(operation) in (keras.layers.Reshape, Reshape)


def reshaped(operation, axis, channels):
    """A copy of a reshape whose output has so many channels.

    axis: negative, where the channels of the output lie.
    """
    layer = isinstance(operation, keras.Layer)
    shape = list(operation.target_shape if layer else operation.newshape)
    if shape[axis] != -1:  # else the size follows from the input
        shape[axis] = channels
    if layer:
        config = {**operation.get_config(), "target_shape": tuple(shape)}
        return type(operation).from_config(config)
    return Reshape(tuple(shape))
