"""Decodes untrusted BMP, GIF and WebP images, within the bounds of dataloader.encoded.

Each function decodes one format: encoded, scalar string -> uint8 [H, W, 3]. `bounded(height, width,
times)` gives the assertions that must hold before the decoder runs.
"""

import tensorflow as tf

BMP, GIF, RIFF, WEBP = b"BM", b"GIF8", b"RIFF", b"WEBP"
# Pixels of all frames of a GIF: the decoder unpacks every frame, one byte per pixel.
MOST_IN_FRAMES = 2**27
# WebP is newer than the oldest TensorFlow supported here.
DECODES_WEBP = hasattr(tf.io, "decode_webp")


def numbers(encoded, offset, count, kind=tf.uint8, little_endian=True):
    """int64 [count]: the integers of a type at an offset. Fails if the bytes end before."""
    data = tf.strings.substr(encoded, offset, count * kind.size)
    found = tf.io.decode_raw(data, kind, little_endian=little_endian)
    return tf.cast(tf.ensure_shape(found, [count]), tf.int64)


def decode_bmp(encoded, bounded):
    """A BMP of 24 or 32 bits per pixel. TensorFlow takes the numbers of a palette for greys, and
    does not unpack.
    """
    width, height = tf.unstack(numbers(encoded, 18, 2, tf.int32))
    bits = numbers(encoded, 28, 1, tf.uint16)[0]
    packed = numbers(encoded, 30, 1, tf.int32)[0]
    plain = ((bits == 24) | (bits == 32)) & (packed == 0)
    checks = [
        tf.debugging.Assert(plain, ["a BMP with a palette, or packed: save it as a PNG", bits]),
        *bounded(tf.abs(height), width),
    ]
    with tf.control_dependencies(checks):
        return tf.io.decode_bmp(encoded)[..., :3]


def decode_gif(encoded, frames, bounded):
    """The first frame of a GIF. frames: int64 from `count_frames`."""
    width, height = tf.unstack(numbers(encoded, 6, 2, tf.uint16))
    few = frames * height * width <= MOST_IN_FRAMES
    checks = [
        tf.debugging.Assert(few, ["a GIF of too many frames", frames]),
        *bounded(height, width),
    ]
    with tf.control_dependencies(checks):
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_webp(encoded, bounded):
    """A WebP that is no animation, which TensorFlow would abort on."""
    if not DECODES_WEBP:
        wrong = ["a WebP, which this version of TensorFlow does not decode; save it as a PNG"]
        with tf.control_dependencies([tf.debugging.Assert(False, wrong)]):
            return tf.zeros([1, 1, 3], tf.uint8)
    # The first chunk tells the form. In two of them width and height are packed in 14 bits each.
    data = numbers(encoded, 12, 18)
    form = tf.strings.substr(encoded, 12, 4)
    low = lambda at, n: sum(data[at - 12 + i] * 256**i for i in range(n))
    lossless, lossy, extended = form == b"VP8L", form == b"VP8 ", form == b"VP8X"
    in_14_bits = low(21, 4)
    of_form = lambda *sizes: tf.where(lossless, sizes[0], tf.where(lossy, *sizes[1:]))
    width = of_form(in_14_bits % 2**14 + 1, low(26, 2) % 2**14, low(24, 3) + 1)
    height = of_form(in_14_bits // 2**14 % 2**14 + 1, low(28, 2) % 2**14, low(27, 3) + 1)
    moves = (low(20, 1) // 2 % 2 > 0) | (tf.strings.substr(encoded, 30, 4) == b"ANIM")
    moves &= extended
    checks = [
        tf.debugging.Assert(~moves, ["an animated WebP; save one image of it"]),
        *bounded(height, width),
    ]
    with tf.control_dependencies(checks):
        return tf.io.decode_webp(encoded)[0, ..., :3]


def count_frames(data):
    """How often the pixels of a GIF, given as bytes, are unpacked: the area of all its frames by
    that of the picture, rounded up.
    """
    at, area = 13 + _table(data, 10), 0
    side = lambda at: int.from_bytes(data[at : at + 2], "little")
    while at < len(data) and data[at] in b",!":
        if data[at] == 0x2C:  # a frame: place, size, colours, then its data
            area += side(at + 5) * side(at + 7)
            at += 10 + _table(data, at + 9) + 1
        else:
            at += 2
        while at < len(data) and data[at]:  # blocks of data, the last of length 0
            at += data[at] + 1
        at += 1
    return -(-area // max(1, side(6) * side(8)))


def _table(data, at):
    """Bytes of the table of colours that the byte at `at` announces."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
