"""Views of a photograph, computed in a graph: random resized crops for training, the centre for
everything else.
"""

import numpy as np
import tensorflow as tf

from dataloader.encoded import decode_image, decode_window

AREA = 0.08, 1.0  # range of a crop's area / the image's area
RATIO = 3 / 4, 4 / 3  # range of a crop's width / height
TRIES = 10  # crops that are tried until one fits (Szegedy et al. 2015, and usual since)
CROP_DRAWS = 2 * TRIES  # random numbers per view: area and ratio of each try
WHOLE = 256 / 224  # shorter side / input size, before the centre is cropped


def crop_factors(draws):
    """float32 [..., TRIES, 2]: height and width of each try, for an image of area 1.

    draws: float32 [..., CROP_DRAWS] in [0, 1).
    """
    area, ratio = np.moveaxis(draws.reshape(*draws.shape[:-1], TRIES, 2), -1, 0)
    area = AREA[0] + (AREA[1] - AREA[0]) * area
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio  # uniform in its logarithm
    return np.sqrt(np.stack([area / ratio, area * ratio], -1)).astype(np.float32)


def crop_window(height, width, place, factors):
    """int32 [4]: top, left, height and width of a random resized crop of an image.

    The first try that fits is used. If none fits, the crop is the largest one at the centre whose
    ratio is in RATIO.

    height, width: int32 scalars, of the image; place: float32 [2], vertical and horizontal position
    of the crop as a fraction of the free space, uniform in [0, 1); factors: see crop_factors.
    """
    size = tf.cast(tf.stack([height, width]), tf.float32)
    crops = tf.maximum(tf.round(factors * tf.sqrt(size[0] * size[1])), 1)
    fits = tf.reduce_all(crops <= size, 1)
    first = tf.argmax(fits)
    centre = tf.maximum(tf.round(tf.minimum(size, size[::-1] * [1 / RATIO[0], RATIO[1]])), 1)
    crop = tf.where(fits[first], crops[first], centre)
    room = size - crop
    place = tf.floor(tf.where(fits[first], place * (room + 1), room / 2))
    return tf.cast(tf.concat([place, crop], 0), tf.int32)


def training_views(encoded, scans, places, factors, size):
    """uint8 [V, size, size, 3]: V random crops of one image, resized bilinearly (METHOD 8).

    Flips and colours follow in the step (dataloader.augment). For one view, only its window is
    decoded; for several, the whole image is decoded once.

    Args:
        encoded: scalar string.
        scans: int64, of a JPEG; None counts them.
        places: float32 [V, 2], see crop_window.
        factors: float32 [V, TRIES, 2], see crop_factors.
        size: pixels per side.
    """
    window = lambda row: lambda height, width: crop_window(height, width, *row)
    rows = list(zip(tf.unstack(places), tf.unstack(factors)))
    if len(rows) == 1:
        return _resized(decode_window(encoded, window(rows[0]), scans, exact=False)[None], size)
    image = decode_image(encoded, scans, exact=False)
    height, width = tf.unstack(tf.shape(image)[:2])
    windows = [window(row)(height, width) for row in rows]
    return tf.concat(
        [_resized(image[None, w[0] : w[0] + w[2], w[1] : w[1] + w[3]], size) for w in windows], 0
    )


def _resized(images, size):
    # No anti-aliasing: it would take as long as decoding. Bilinear values stay within 0..255.
    return tf.cast(
        tf.raw_ops.ResizeBilinear(images=images, size=[size, size], half_pixel_centers=True) + 0.5,
        tf.uint8,
    )


def centre_view(encoded, scans, size):
    """uint8 [size, size, 3]: the centre of the image after resizing.

    The shorter side becomes size * 256 / 224, bicubic with anti-aliasing.
    """
    image = decode_image(encoded, scans)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.round(size * WHOLE) / tf.reduce_min(shape)
    # One kernel scales and crops, and computes only the pixels of the crop.
    view = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size, size],
        scale=tf.stack([scale, scale]),
        translation=-tf.round((shape * scale - size) / 2),
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.cast(tf.clip_by_value(tf.round(view[0]), 0, 255), tf.uint8)


def whole_view(encoded, scans, shape):
    """uint8 [H, W, C]: the whole image, resized bilinearly without regard to its sides' ratio.

    encoded: scalar string; scans: int64, of a JPEG; shape: (H, W, C), C: 1 (grey), 3 or 4 (alpha).
    """
    image = decode_image(encoded, scans)  # refuses what goes beyond the limits, whatever C is
    if shape[2] == 1:
        image = tf.image.rgb_to_grayscale(image)
    elif shape[2] == 4:
        image = tf.io.decode_image(encoded, 4, expand_animations=False)
    image = tf.image.resize(image, shape[:2], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
