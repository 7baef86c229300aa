"""A network that is ready to predict: images in, logits out."""

import tensorflow as tf

from distribution.runtime import Runtime
from nets.gates import Context


class Predictor:
    """Images to logits, with moving averages: float32 [B, classes].

    Called with uint8 images [B, S, S, 3], which are normalised as in training, or with float32
    images that already are. Any B, one trace for each of the two types. Raises ValueError for
    images of another shape or type.

    network: the Network. mean, std: what uint8 images are normalised with, three floats each.
    """

    def __init__(self, network, mean, std):
        self.network, self.mean, self.std = network, mean, std
        gpu = bool(tf.config.list_logical_devices("GPU"))
        multiple = Runtime(tf.distribute.get_strategy(), gpu=gpu).channel_multiple(masked=False)

        @tf.function(reduce_retracing=True, autograph=False)
        def predict(images):
            if images.dtype == tf.uint8:
                images = (tf.cast(images, tf.float32) - mean) / std
            return network(images, Context("moving", multiple=multiple))

        self._predict = predict

    def __call__(self, images):
        images = tf.convert_to_tensor(images)
        if images.dtype == tf.float64:
            images = tf.cast(images, tf.float32)
        size = self.network.input_size
        if images.dtype not in (tf.uint8, tf.float32) or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images are {images.dtype.name} {images.shape.as_list()}, expected uint8 or"
                f" float32 [B, {size}, {size}, 3]"
            )
        return self._predict(images)
