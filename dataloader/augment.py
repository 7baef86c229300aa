"""Augmentation in the compiled step, from uint8 images and random numbers that come in as data.

The random numbers of a batch are drawn on the host, some for each view of each image, and travel
with the batch. So what an image gets depends on the seed and the epoch alone, not on XLA, on
accumulation or on how many replicas share the batch.
"""

import numpy as np
import tensorflow as tf

DRAWS = 5  # flip, row, column, contrast, saturation; each uniform in [0, 1)
STRENGTH = 0.2  # contrast and saturation lie in 1 +- this


def draw(rng, images, views, draws=DRAWS):
    """float32 [images, views, draws] of uniform random numbers; those behind DRAWS are for whoever
    decodes the images.
    """
    return rng.random((images, views, draws), np.float32)


def normalise(images, augmentation):
    """float32 [..., S, S, 3] from 0..255 pixels of any type."""
    mean, std = (tf.constant(value, tf.float32) for value in (augmentation.mean, augmentation.std))
    return (tf.cast(images, tf.float32) - mean) / std


def contrast(images, factor):
    """(x - mean) * factor + mean, the mean by image and channel. images float32 [B, S, S, 3];
    factor float32 [B].
    """
    mean = tf.reduce_mean(images, [1, 2], keepdims=True)
    return (images - mean) * factor[:, None, None, None] + mean


def saturation(images, factor):
    """HSV saturation times `factor` [B], at most 1: as tf.image.adjust_saturation, without the way
    through HSV.

    With hue and value kept, a channel's distance to the brightest channel is proportional to the
    saturation.
    """
    brightest = tf.reduce_max(images, -1, keepdims=True)
    spread = brightest - tf.reduce_min(images, -1, keepdims=True)
    most = tf.math.divide_no_nan(
        tf.maximum(brightest, 0.0), spread
    )  # 1 / saturation; contrast may have left black below 0
    return brightest - (brightest - images) * tf.minimum(factor[:, None, None, None], most)


def crop(images, top, left, flip, pad):
    """Images reflect-padded by `pad` and cropped to their size at (top, left), mirrored where
    `flip`; int32, int32, bool [B].
    """
    size = images.shape[1]

    def source(start):  # the padded image's pixel start + i is the image's pixel at this index
        i = tf.abs(start[:, None] + tf.range(size)[None] - pad)
        return tf.where(i >= size, 2 * (size - 1) - i, i)

    columns = source(left)
    columns = tf.where(flip[:, None], columns[:, ::-1], columns)
    images = tf.gather(images, source(top), axis=1, batch_dims=1)
    images = tf.gather(tf.transpose(images, [0, 2, 1, 3]), columns, axis=1, batch_dims=1)
    return tf.transpose(images, [0, 2, 1, 3])


def augment(images, draws, augmentation, colour):
    """float32 [B, V, S, S, 3], normalised views: colour jitter if `colour`, flip and crop.

    images: uint8 [B, S, S, 3], or [B, V, S, S, 3] where each view is a crop already; draws: float32
    [B, V, DRAWS].
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
