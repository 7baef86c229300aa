"""Only the convolutions of a network, forward and backward: an upper bound for the speed of any
step that uses those of oneDNN.
"""

import numpy as np
import tensorflow as tf

from nets.tcl import Conv2d, same_size


def random_kernels(convs):
    """Variables float32 [kh, kw, in, out] in the shapes of `convs`, scaled to keep the variance.

    Otherwise values would vanish or overflow in a chain without batch norm. Denormal and infinite
    numbers would distort the times.
    """
    rng, shapes = np.random.default_rng(0), [conv.shape("kernel") for conv in convs]
    return [
        tf.Variable(rng.standard_normal(s, np.float32) / np.float32(np.sqrt(s[0] * s[1] * s[2])))
        for s in shapes
    ]


def source_of(conv, outputs):
    """Index in `outputs`, tensors [B, H, W, C], of the input of `conv`: the last one that fits.

    A projection and the first convolution of its block both find the block's input, since the
    projection changes width and size.
    """
    channels = conv.shape("kernel")[2]
    fits = lambda x: x.shape[3] == channels and same_size(x.shape[1], conv.strides) == conv.out_size
    return max(i for i, x in enumerate(outputs) if fits(x))


def convolutions_step(network, batch_size, dtype):
    """A function that computes all convolutions of `network` on a random batch, with gradients.

    As in training, gradients are computed for every kernel, and for every input except the images.
    Kernels are float32 and cast to `dtype`, as in the network's layers. There is no batch norm,
    ReLU, shortcut or update. The function returns the gradients, float32.
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
            # Outputs that nothing reads (the last one, and those of projections) must be in the
            # total, or their gradients would not be computed.
            ends = [x for i, x in enumerate(outputs) if i not in read]
            total = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in ends])
        return tape.gradient(total, kernels)

    return lambda: [gradient.numpy() for gradient in step(images)]
