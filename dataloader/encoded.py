"""Encoded images and the shards of records they come in, from files that nobody has to trust.

The decoders take memory for the size that an image's header announces, and time for each scan of a progressive JPEG, so
both are bounded before they see it. A record's length has a check sum, but who makes up a length can compute that too.
"""

import os
import struct

import tensorflow as tf

from array_files import refusals

MOST_PIXELS = 2**26  # 8192 x 8192, 200 MB as uint8 RGB; a JPEG may announce 65,500 x 65,500. A photograph has 2**18 to 2**25
MOST_SCANNED = 2**30  # pixels times scans: a second or some. A progressive photograph has ten scans
LARGEST = 2**25  # bytes of an encoded image and of its record; decoding takes eight times that besides the pixels
HEAD, TAIL = struct.Struct("<QI"), 4  # length and its check sum, before a record; the check sum of its data, behind
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
FEATURES = {"image/encoded": tf.io.FixedLenFeature([], tf.string), "image/class/label": tf.io.FixedLenFeature([], tf.int64)}


def decode_image(encoded):
    """uint8 [H, W, 3] of a JPEG or PNG, whichever its first bytes say it is: colour, grey, CMYK, palette, 16 bit, alpha.

    encoded: scalar string. Raises ValueError of one line for what is damaged, neither, or beyond the bounds above. In a
    graph TensorFlow raises its own error, when the graph runs; `array_files.refusals` around that makes it a ValueError.
    """
    with refusals():
        encoded = tf.ensure_shape(tf.convert_to_tensor(encoded, tf.string), [])
        size = tf.strings.length(encoded)
        tf.debugging.Assert(size <= LARGEST, ["an encoded image of too many bytes", size])
        starts_with = lambda magic: tf.strings.substr(encoded, 0, len(magic)) == tf.constant(magic)
        image = tf.cond(starts_with(JPEG), lambda: _jpeg(encoded), lambda: _png(encoded, starts_with(PNG)))
        return tf.ensure_shape(image, [None, None, 3])


def _jpeg(encoded):
    height, width = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)[:2])
    data = tf.io.decode_raw(encoded, tf.uint8)
    # A byte 255 of data is followed by 0, so these two always begin a scan, or lie in a thumbnail.
    scans = tf.math.count_nonzero((data[:-1] == 0xFF) & (data[1:] == 0xDA))
    few = tf.debugging.Assert(height * width * scans <= MOST_SCANNED, ["a JPEG of too many scans", scans])
    with tf.control_dependencies([*_bounded(height, width), few]):
        # The libraries that networks were trained with decode so; the other way is off by 2 of 255 on average.
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _png(encoded, is_png):
    with tf.control_dependencies([tf.debugging.Assert(is_png, ["neither a JPEG nor a PNG"])]):
        # IHDR is always first: behind the magic, a length and its name stand width and height.
        size = tf.io.decode_raw(tf.strings.substr(encoded, len(PNG) + 8, 8), tf.int32, little_endian=False)
    width, height = tf.unstack(tf.cast(tf.ensure_shape(size, [2]), tf.int64))
    with tf.control_dependencies(_bounded(height, width)):
        return tf.io.decode_png(encoded, channels=3)


def _bounded(height, width):
    ok = (height > 0) & (width > 0) & (width <= MOST_PIXELS) & (height <= MOST_PIXELS) & (height * width <= MOST_PIXELS)
    return [tf.debugging.Assert(ok, ["an image of impossible height and width", height, width])]


def read_records(path):
    """Yields (encoded, label), bytes and int, of the records of a TFRecord shard with the customary features.

    Raises OSError, and ValueError of one line naming file and record (from 0) where a record is damaged, lacks
    image/encoded or image/class/label, or is larger than LARGEST or than what is left of the file.
    """
    whole, problem = _frames(path)
    records = iter(tf.data.TFRecordDataset(str(path)).take(whole))
    for record in range(whole):
        try:
            with refusals():
                example = tf.io.parse_single_example(next(records), FEATURES)
        except ValueError as error:
            raise ValueError(f"{path}: record {record}: {error}") from error
        yield example["image/encoded"].numpy(), int(example["image/class/label"])
    if problem:
        raise ValueError(f"{path}: record {whole}: {problem}")


def _frames(path):
    """(number of whole records from the start, what is wrong with the next). TensorFlow would take memory for the next."""
    with open(path, "rb") as file:
        left, whole = os.fstat(file.fileno()).st_size, 0
        while left:
            head = file.read(HEAD.size)
            if len(head) < HEAD.size:
                return whole, f"{len(head)} bytes are no record"
            length, _ = HEAD.unpack(head)
            left -= HEAD.size + length + TAIL
            if left < 0 or length > LARGEST:
                return whole, f"it announces {length} bytes"
            file.seek(length + TAIL, os.SEEK_CUR)
            whole += 1
    return whole, None
