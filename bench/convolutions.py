"""A network's convolutions alone, forward and backward: a bound on how fast any step can be that
takes them from oneDNN.
"""

import numpy as np
import tensorflow as tf

from nets.tcl import Conv2d, same_size


def random_kernels(convs):
    """Variables float32 [kh, kw, in, out] of the shapes of `convs`, that keep the variance of what
    passes through them.

    So that a chain of them without batch norm neither vanishes nor overflows: denormal and infinite
    numbers have a speed of their own.
    """
    rng, shapes = np.random.default_rng(0), [conv.shape("kernel") for conv in convs]
    return [
        tf.Variable(rng.standard_normal(s, np.float32) / np.float32(np.sqrt(s[0] * s[1] * s[2])))
        for s in shapes
    ]


def source_of(conv, outputs):
    """The place in `outputs`, tensors [B, H, W, C], of what `conv` reads: the last one that has its
    channels and size.

    A projection and the convolution beside it both find the block's input, since the projection
    changes width and size.
    """
    channels = conv.shape("kernel")[2]
    fits = lambda x: x.shape[3] == channels and same_size(x.shape[1], conv.strides) == conv.out_size
    return max(i for i, x in enumerate(outputs) if fits(x))


def convolutions_step(network, batch_size, dtype):
    """A function that makes one call: all convolutions of `network` on a random batch, and their
    gradients.

    Every kernel gets a gradient, and every input but the images, as in training. Kernels are
    float32 and cast to `dtype`, as the network's layers do. No batch norm, no ReLU, no shortcut, no
    update. Gives the gradients, float32.
    """
    convs = [layer for layer in network.network_layers if isinstance(layer, Conv2d)]
    kernels = random_kernels(convs)
    images = tf.cast(
        tf.random.stateless_normal([batch_size, network.input_size, network.input_size, 3], [0, 0]),
        dtype,
    )

    @tf.function(autograph=False)
    def step(images):
        with tf.GradientTape() as tape:
            outputs, read = [images], set()
            for conv, kernel in zip(convs, kernels):
                source = source_of(conv, outputs)
                read.add(source)
                outputs.append(
                    tf.nn.conv2d(outputs[source], tf.cast(kernel, dtype), conv.strides, "SAME")
                )
            # What nothing reads, the last output and the projections', has to count, or its
            # gradients would be left out.
            ends = [x for i, x in enumerate(outputs) if i not in read]
            total = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in ends])
        return tape.gradient(total, kernels)

    return lambda: [gradient.numpy() for gradient in step(images)]
