"""Decodes untrusted images: JPEG, PNG, and through dataloader.formats BMP, GIF and WebP.

The decoders allocate the size that an image's header announces, and take time for each scan of a
progressive JPEG and each frame of a GIF. So all are checked before an image is decoded.
"""

import re

import numpy as np
import tensorflow as tf

from dataloader.formats import (
    BMP,
    DECODES_WEBP,
    GIF,
    RIFF,
    WEBP,
    count_frames,
    decode_bmp,
    decode_gif,
    decode_webp,
    numbers,
)
from files.guards import refusals

# 8192 x 8192, 200 MB as uint8 RGB. A JPEG may announce 65,500 x 65,500; photographs have 2**18 to
# 2**25 pixels.
MOST_PIXELS = 2**26
# Pixels x scans, a few seconds of decoding. Progressive photographs have about ten scans.
MOST_SCANNED = 2**30
LARGEST = 2**25  # bytes of an encoded image; decoding takes eight times that, plus the pixels
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
UNKNOWN = "neither a JPEG nor a PNG, BMP, GIF or WebP"
ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", *["webp"] * DECODES_WEBP)
SCAN = re.compile(b"\xff\xda")  # starts a scan; the regex is faster than bytes.count


def decode_image(encoded, scans=None, exact=True):
    """uint8 [H, W, 3] of an image: colour, grey, CMYK, palette, 16 bit or alpha.

    The first bytes decide which format it is. Of a GIF the first frame is meant.

    encoded: scalar string. scans: int64 from `count_scans`; None counts them here, which is slower.
    exact: decode a JPEG bit-identically to the libraries that networks were trained with; otherwise
    10 % faster, with a mean error of 2 of 255.

    Raises ValueError (one line) if the image is damaged, of another format, or beyond the limits
    above. In a graph, TensorFlow raises its own error when the graph runs; use
    `files.guards.refusals` there to get a ValueError.
    """
    return _decode(encoded, scans, None, exact)


def decode_window(encoded, window, scans=None, exact=True):
    """Like decode_image, but only a part of the image. A JPEG is not decoded beyond it.

    window(height, width) -> int32 [4]: top, left, height, width of the part, within the image.
    """
    return _decode(encoded, scans, window, exact)


def is_known(start):
    """Whether a file with these first 12 bytes may be an image that is decoded here."""
    if start.startswith(RIFF):
        return DECODES_WEBP and start[8:12] == WEBP
    return start.startswith((JPEG, PNG, BMP, GIF))


def count_scans(encoded):
    """An upper bound of how often the pixels of an image, given as bytes, are gone through: the
    scans of a JPEG, the frames of a GIF.

    In image data a byte 255 is followed by 0, so the marker always starts a scan, or is part of a
    thumbnail.
    """
    return count_frames(encoded) if encoded.startswith(GIF) else len(SCAN.findall(encoded))


def _decode(encoded, scans, window, exact):
    with refusals():
        encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), [])
        size = tf.strings.length(encoded)
        tf.debugging.Assert(size <= LARGEST, ["an encoded image of too many bytes", size])
        starts_with = lambda magic: tf.strings.substr(encoded, 0, len(magic)) == tf.constant(magic)
        head = tf.strings.substr(encoded, 0, 12) + tf.constant(bytes(12))  # however short it is
        riff = starts_with(RIFF) & (tf.strings.substr(head, 8, 4) == tf.constant(WEBP))
        cut = lambda image: image if window is None else _part(image, window)
        cases = [
            (starts_with(JPEG), lambda: _jpeg(encoded, scans, window, exact)),
            (starts_with(PNG), lambda: cut(_png(encoded))),
            (starts_with(BMP), lambda: cut(decode_bmp(encoded, _bounded))),
            (starts_with(GIF), lambda: cut(decode_gif(encoded, _frames(encoded, scans), _bounded))),
            (riff, lambda: cut(decode_webp(encoded, _bounded))),
        ]
        matches = tf.stack([*(matches for matches, _ in cases), tf.constant(True)])
        first = tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32)
        image = tf.switch_case(first, [*(decode for _, decode in cases), _unknown])
        return tf.ensure_shape(image, [None, None, 3])


def _unknown():
    with tf.control_dependencies([tf.debugging.Assert(False, [UNKNOWN])]):
        return tf.zeros([1, 1, 3], tf.uint8)


def _part(image, window):
    top, left, height, width = tf.unstack(window(*tf.unstack(tf.shape(image)[:2])))
    return image[top : top + height, left : left + width]


def _frames(encoded, scans):
    """int64: `scans`, or counted here."""
    if scans is not None:
        return tf.cast(scans, tf.int64)
    count = lambda data: np.int64(count_frames(np.asarray(data, object).item()))
    return tf.ensure_shape(tf.numpy_function(count, [encoded], tf.int64), [])


def _jpeg(encoded, scans, window, exact):
    height, width = tf.unstack(tf.image.extract_jpeg_shape(encoded)[:2])
    if scans is None:
        data = tf.io.decode_raw(encoded, tf.uint8)
        scans = tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA))
    how = dict(channels=3, dct_method="INTEGER_ACCURATE" if exact else "INTEGER_FAST")
    with tf.control_dependencies(
        _bounded(tf.cast(height, tf.int64), tf.cast(width, tf.int64), scans)
    ):
        if window is None:
            return tf.io.decode_jpeg(encoded, **how)
        return tf.io.decode_and_crop_jpeg(encoded, window(height, width), **how)


def _png(encoded):
    # The chunk IHDR is always first: 4 bytes length, 4 bytes name, then width and height.
    width, height = tf.unstack(numbers(encoded, len(PNG) + 8, 2, tf.int32, little_endian=False))
    with tf.control_dependencies(_bounded(height, width)):
        return tf.io.decode_png(encoded, channels=3)


def _bounded(height, width, scans=1):
    """[assertion that the image is within the limits]. height, width, scans: int64 scalars."""
    sides = (height > 0) & (width > 0) & (width <= MOST_PIXELS) & (height <= MOST_PIXELS)
    ok = sides & (height * width <= MOST_PIXELS) & (height * width * scans <= MOST_SCANNED)
    return [
        tf.debugging.Assert(
            ok, ["an image of impossible height, width or number of scans", height, width, scans]
        )
    ]
