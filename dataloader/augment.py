"""Augmentation in the compiled step, from uint8 images and random numbers that are inputs.

The random numbers are drawn on the host, for each view of each image, and are part of the batch. So
the augmentation depends only on the seed and the epoch, not on XLA, accumulation or the number of
replicas.
"""

import numpy as np
import tensorflow as tf

DRAWS = 5  # random numbers per view: flip, row, column, contrast, saturation; uniform in [0, 1)
STRENGTH = 0.2  # METHOD 8: contrast and saturation factors are in 1 +- STRENGTH


def draw(rng, images, views, draws=DRAWS):
    """float32 [images, views, draws], uniform in [0, 1).

    Numbers after the first DRAWS are for the decoder (dataloader.images).
    """
    return rng.random((images, views, draws), np.float32)


def normalise(images, augmentation):
    """float32 [..., S, S, 3], normalised, from pixels 0..255 of any dtype."""
    mean, std = (tf.constant(value, tf.float32) for value in (augmentation.mean, augmentation.std))
    return (tf.cast(images, tf.float32) - mean) / std


def contrast(images, factor):
    """(x - mean) * factor + mean, with the mean per image and channel.

    images: float32 [B, S, S, 3]; factor: float32 [B].
    """
    mean = tf.reduce_mean(images, [1, 2], keepdims=True)
    return (images - mean) * factor[:, None, None, None] + mean


def saturation(images, factor):
    """Multiplies the HSV saturation by `factor`, up to saturation 1.

    Same result as tf.image.adjust_saturation, but without converting to HSV: for constant hue and
    value, a channel's distance to the brightest channel is proportional to the saturation.

    images: float32 [B, S, S, 3]; factor: float32 [B].
    """
    brightest = tf.reduce_max(images, -1, keepdims=True)
    spread = brightest - tf.reduce_min(images, -1, keepdims=True)
    # 1 / saturation, the largest factor. After `contrast`, pixels may be below 0.
    most = tf.math.divide_no_nan(tf.maximum(brightest, 0.0), spread)
    return brightest - (brightest - images) * tf.minimum(factor[:, None, None, None], most)


def crop(images, top, left, flip, pad):
    """Pads images by reflection, crops them to their size, and flips them (METHOD 8).

    Args:
        images: [B, S, S, 3], any dtype.
        top, left: int32 [B], the crop's corner in the padded image.
        flip: bool [B], whether to flip horizontally.
        pad: pixels per side.
    """

    def source(start, size):
        """int32 [B, S]: the source pixels of the padded image's pixels start + 0, 1, ..."""
        i = tf.abs(start[:, None] + tf.range(size)[None] - pad)
        return tf.where(i >= size, 2 * (size - 1) - i, i)

    columns = source(left, images.shape[2])
    columns = tf.where(flip[:, None], columns[:, ::-1], columns)
    images = tf.gather(images, source(top, images.shape[1]), axis=1, batch_dims=1)
    images = tf.gather(tf.transpose(images, [0, 2, 1, 3]), columns, axis=1, batch_dims=1)
    return tf.transpose(images, [0, 2, 1, 3])


def augment(images, draws, augmentation, colour):
    """float32 [B, V, S, S, 3], normalised: V views per image with random flip and crop.

    images: uint8 [B, S, S, 3], or [B, V, S, S, 3] if they are crops already; draws: float32
    [B, V, DRAWS]; colour: whether to change contrast and saturation too.
    """
    b, v = draws.shape[:2]
    draws = tf.unstack(tf.reshape(draws, [b * v, DRAWS]), axis=1)
    flips = tf.logical_and(draws[0] < 0.5, augmentation.flip)
    top, left = (tf.cast(d * (2 * augmentation.pad + 1), tf.int32) for d in draws[1:3])
    x = (
        tf.repeat(images, v, 0)
        if len(images.shape) == 4
        else tf.reshape(images, [b * v, *images.shape[2:]])
    )
    if colour:
        x = contrast(tf.cast(x, tf.float32), 1 - STRENGTH + 2 * STRENGTH * draws[3])
        x = saturation(x, 1 - STRENGTH + 2 * STRENGTH * draws[4])
    if augmentation.pad:
        x = crop(x, top, left, flips, augmentation.pad)
    else:
        x = tf.where(flips[:, None, None, None], x[:, :, ::-1], x)
    x = normalise(x, augmentation)
    return tf.reshape(x, [b, v, *x.shape[1:]])
