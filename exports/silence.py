"""Activations that never rise above 0 on training images, as far as 8 bits can tell."""

import keras
import numpy as np

BATCH = 4  # images per call: all activations of a network are in memory
LEVELS = 255 * 127  # of an input in 8 bits, times those of a kernel in 8 bits
# The kernels of XNNPACK refuse an output whose range is below 1 / 256 of its 8 bits: they would
# have to multiply by 256 or more. This is half of that.
LEAST = 2


def silent_layers(model, images):
    """list of the names of ReLUs that are silent: their outputs stay below what 8 bits of input and
    kernel can tell from 0.

    Such a ReLU is behind a convolution whose filters all have died, which happens where few of them
    are left. Its range would be that of rounding errors, and its branch is a constant in effect.

    Args:
        model: keras.Model, with convolutions that are followed by their ReLUs, named NAME and
            NAME_relu (nets.keras_copy).
        images: uint8 [N, H, W, C].
    """
    names = {layer.name for layer in model.layers}
    convs = [layer for layer in model.layers if f"{layer.name}_relu" in names]
    outputs = [x for c in convs for x in (c.input, model.get_layer(f"{c.name}_relu").output)]
    probe = keras.Model(model.input, outputs)
    largest = np.zeros(len(outputs))
    for start in range(0, len(images), BATCH):
        found = probe(images[start : start + BATCH].astype(np.float32), training=False)
        largest = np.maximum(largest, [np.abs(values).max() for values in found])
    kernels = np.array([np.abs(conv.get_weights()[0]).max() for conv in convs])
    inputs, reached = largest[::2], largest[1::2]
    silent = reached * LEVELS <= LEAST * inputs * kernels
    return [f"{conv.name}_relu" for conv, is_silent in zip(convs, silent) if is_silent]
