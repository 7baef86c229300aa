"""A network as a function of images to logits."""

import tensorflow as tf

from distribution.runtime import Runtime
from nets.gates import Context

# How far float32 images may exceed the range of normalised pixels: room for noise and for other
# statistics, but less than pixels of 0 to 255 that were not normalised.
SLACK = 4


class Predictor:
    """A function of images to logits, float32 [B, classes], with moving averages.

    Call it with uint8 images [B, S, S, 3], which it normalises as in training, or with float32
    images that are already normalised. B may vary; each of the two types is traced once. float64
    images are cast to float32. Raises ValueError for images of another shape or type, and for float
    images far outside the range of normalised pixels, such as pixels of 0 to 255. Pixels of 0 to 1
    are within that range, so they are not noticed. In a graph the range is not checked.

    network: Network.
    mean, std: the normalisation of uint8 images, three floats each.
    """

    def __init__(self, network, mean, std):
        self.network, self.mean, self.std = network, mean, std
        self.largest = max(max(m, 255 - m) / s for m, s in zip(mean, std))  # of normalised pixels
        gpu = bool(tf.config.list_logical_devices("GPU"))
        tf.config.experimental.enable_tensor_float_32_execution(False)  # as in trainings
        multiple = Runtime(tf.distribute.get_strategy(), gpu=gpu).channel_multiple(masked=False)

        def predict(images):
            if images.dtype == tf.uint8:
                images = (tf.cast(images, tf.float32) - mean) / std
            return network(images, Context("moving", multiple=multiple))

        size = network.input_size
        spec = lambda dtype: [tf.TensorSpec([None, size, size, 3], dtype)]
        self._predict = {
            dtype: tf.function(predict, input_signature=spec(dtype), autograph=False)
            for dtype in (tf.uint8, tf.float32)
        }

    def __call__(self, images):
        images = tf.convert_to_tensor(images)
        if images.dtype == tf.float64:
            images = tf.cast(images, tf.float32)
        size = self.network.input_size
        if images.dtype not in self._predict or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images are {images.dtype.name} {images.shape.as_list()}, expected uint8 or"
                f" float32 [B, {size}, {size}, 3]"
            )
        if images.dtype == tf.float32 and tf.executing_eagerly():
            self._check_range(images)
        return self._predict[images.dtype](images)

    def _check_range(self, images):
        found = float(tf.reduce_max(tf.abs(images)))
        if found > SLACK * self.largest:
            raise ValueError(
                f"float images are expected normalised, within -{self.largest:.2f} to"
                f" {self.largest:.2f}; these reach {found:.6g}; pass pixels of 0 to 255 as uint8,"
                " or normalise them"
            )
