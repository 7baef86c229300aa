"""Decodes untrusted JPEG and PNG images.

The decoders allocate the size that an image's header announces, and take time for each scan of a
progressive JPEG. So both are checked before an image is decoded.
"""

import re

import tensorflow as tf

from files.guards import refusals

# 8192 x 8192, 200 MB as uint8 RGB. A JPEG may announce 65,500 x 65,500; photographs have 2**18 to
# 2**25 pixels.
MOST_PIXELS = 2**26
# Pixels x scans, a few seconds of decoding. Progressive photographs have about ten scans.
MOST_SCANNED = 2**30
LARGEST = 2**25  # bytes of an encoded image; decoding takes eight times that, plus the pixels
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
SCAN = re.compile(b"\xff\xda")  # starts a scan; the regex is faster than bytes.count


def decode_image(encoded, scans=None, exact=True):
    """uint8 [H, W, 3] of a JPEG or PNG: colour, grey, CMYK, palette, 16 bit or alpha.

    The first bytes decide which of the two it is.

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


def count_scans(encoded):
    """An upper bound of the number of scans of a JPEG, given as bytes.

    In image data a byte 255 is followed by 0, so the marker always starts a scan, or is part of a
    thumbnail.
    """
    return len(SCAN.findall(encoded))


def _decode(encoded, scans, window, exact):
    with refusals():
        encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), [])
        size = tf.strings.length(encoded)
        tf.debugging.Assert(size <= LARGEST, ["an encoded image of too many bytes", size])
        starts_with = lambda magic: tf.strings.substr(encoded, 0, len(magic)) == tf.constant(magic)
        jpeg, png = (
            lambda: _jpeg(encoded, scans, window, exact),
            lambda: _png(encoded, starts_with(PNG), window),
        )
        return tf.ensure_shape(tf.cond(starts_with(JPEG), jpeg, png), [None, None, 3])


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


def _png(encoded, is_png, window):
    with tf.control_dependencies([tf.debugging.Assert(is_png, ["neither a JPEG nor a PNG"])]):
        # The chunk IHDR is always first: 4 bytes length, 4 bytes name, then width and height.
        size = tf.io.decode_raw(
            tf.strings.substr(encoded, len(PNG) + 8, 8), tf.int32, little_endian=False
        )
    width, height = tf.unstack(tf.ensure_shape(size, [2]))
    with tf.control_dependencies(_bounded(tf.cast(height, tf.int64), tf.cast(width, tf.int64))):
        image = tf.io.decode_png(encoded, channels=3)
    if window is None:
        return image
    top, left, height, width = tf.unstack(window(height, width))
    return image[top : top + height, left : left + width]


def _bounded(height, width, scans=1):
    """[assertion that the image is within the limits]. height, width, scans: int64 scalars."""
    sides = (height > 0) & (width > 0) & (width <= MOST_PIXELS) & (height <= MOST_PIXELS)
    ok = sides & (height * width <= MOST_PIXELS) & (height * width * scans <= MOST_SCANNED)
    return [
        tf.debugging.Assert(
            ok, ["an image of impossible height, width or number of scans", height, width, scans]
        )
    ]
