"""Images decode to what was encoded; damaged ones are refused in one line."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dataloader import encoded, formats
from dataloader.encoded import count_scans, decode_image, decode_window
from files.guards import refusals

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
ROWS, COLUMNS = np.indices((64, 64), np.uint8) * 3
SMOOTH = np.stack([ROWS, COLUMNS, np.full_like(ROWS, 90)], -1)


def jpeg(image, **options):
    return tf.io.encode_jpeg(image, quality=100, chroma_downsampling=False, **options).numpy()


def png(image):
    return tf.io.encode_png(image).numpy()


def pil(image, form, mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(image)
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width, height):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return encoded.PNG + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def jpeg_of_size(width, height, **options):
    data = bytearray(jpeg(SMOOTH, **options))
    place = min(
        at for at in (data.find(b"\xff\xc0\x00\x11"), data.find(b"\xff\xc2\x00\x11")) if at > 0
    )
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def refusal_of(data):
    begin = time.process_time()
    with pytest.raises(ValueError) as refusal:
        decode_image(data)
    assert len(str(refusal.value).splitlines()) == 1
    assert time.process_time() - begin < 5
    return str(refusal.value)


# ------------------------------------------------------------------------------------------- images

GREY = SMOOTH[..., :1]
EXACT = {
    "colour": (png(COLOUR), COLOUR),
    "grey": (png(GREY), GREY.repeat(3, -1)),
    "alpha": (png(np.concatenate([COLOUR, COLOUR[..., :1]], -1)), COLOUR),
    "grey and alpha": (png(np.concatenate([GREY, GREY], -1)), GREY.repeat(3, -1)),
    "16 bit": (png(COLOUR.astype(np.uint16) * 257), COLOUR),
    "palette": (pil(COLOUR // 64 * 64, "PNG", "P", palette=Image.ADAPTIVE), None),
    "black and white": (
        pil(np.uint8([[0, 255], [255, 0]]), "PNG", "1"),
        np.uint8([[[0], [255]], [[255], [0]]]).repeat(3, -1),
    ),
}


@pytest.mark.parametrize("what", EXACT)
def test_png_of_every_kind_is_decoded_exactly(what):
    data, expected = EXACT[what]
    expected = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) if expected is None else expected
    )
    image = decode_image(data)
    assert image.dtype == tf.uint8 and image.shape == expected.shape
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("what", ["colour", "grey", "CMYK", "progressive"])
def test_jpeg_of_every_kind_is_decoded(what):
    data, expected = {
        "colour": lambda: (jpeg(SMOOTH), SMOOTH),
        "grey": lambda: (jpeg(GREY), GREY.repeat(3, -1)),
        "CMYK": lambda: (pil(SMOOTH, "JPEG", "CMYK", quality=100), SMOOTH),
        "progressive": lambda: (jpeg(SMOOTH, progressive=True), SMOOTH),
    }[what]()
    image = decode_image(data)
    assert image.dtype == tf.uint8 and image.shape == expected.shape
    assert np.abs(image.numpy().astype(int) - expected).max() <= 4


def test_jpeg_is_decoded_as_other_libraries_do():
    data = jpeg(RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8))
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.long
def test_images_of_both_kinds_go_through_one_map():
    """The set of the competition has a PNG and CMYK files that are called .JPEG."""
    data = [jpeg(SMOOTH), png(SMOOTH), jpeg(GREY)]
    images = list(tf.data.Dataset.from_tensor_slices(data).map(decode_image))
    assert [image.shape for image in images] == [(64, 64, 3)] * 3
    np.testing.assert_array_equal(images[1], SMOOTH)


def test_error_in_a_map_is_one_line_too():
    images = iter(tf.data.Dataset.from_tensor_slices([png(SMOOTH), b"junk"]).map(decode_image))
    next(images)
    with pytest.raises(ValueError) as refusal, refusals():
        next(images)
    assert len(str(refusal.value).splitlines()) == 1


SIZES = [(65_500, 65_500), (0, 5), (5, 0), (65_500, 1025), (8193, 8192)]


@pytest.mark.parametrize("width, height", SIZES)
def test_jpeg_that_announces_too_much_is_refused_by_its_header(width, height):
    refusal_of(jpeg_of_size(width, height))
    refusal_of(jpeg_of_size(width, height, progressive=True))


@pytest.mark.parametrize(
    "width, height", [*SIZES, (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (2**31, 2)]
)
def test_png_that_announces_too_much_is_refused_by_its_header(width, height):
    assert "impossible" in refusal_of(png_of_size(width, height))


def test_bounds_leave_room_for_photographs():
    assert decode_image(jpeg(np.zeros((4000, 6000, 1), np.uint8))).shape == (4000, 6000, 3)


def test_jpeg_of_scans_without_an_end_is_refused():
    """A scan of a few bytes goes through all pixels once more."""
    data = jpeg_of_size(8000, 8000, progressive=True)
    last = data.rindex(b"\xff\xda")
    refusal_of(data[:last] + data[last:-2] * 5000 + data[-2:])


@pytest.mark.long
def test_more_bytes_than_an_image_has_are_refused():
    assert "too many bytes" in refusal_of(jpeg(SMOOTH) + bytes(encoded.LARGEST))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xff\xd8\xff", encoded.PNG, b"GIF89a" + bytes(20), b"BM" + bytes(60), b"text"],
)
def test_what_is_no_image_is_refused(data):
    refusal_of(data)


@pytest.mark.parametrize("data", [jpeg(SMOOTH), png(COLOUR)])
def test_truncated_image_is_refused(data):
    for length in range(0, len(data) - 12, 37):
        refusal_of(data[:length])


# ------------------------------------------------------------------------------------------ windows

WINDOW = 7, 20, 30, 41  # top, left, height, width


@pytest.mark.parametrize(
    "data",
    [
        jpeg(SMOOTH),
        jpeg(GREY),
        jpeg(SMOOTH, progressive=True),
        pil(SMOOTH, "JPEG", "CMYK", quality=100),
        png(SMOOTH),
    ],
    ids=["colour", "grey", "progressive", "CMYK", "PNG"],
)
def test_window_is_that_part_of_the_image(data):
    seen = []

    def window(height, width):
        seen.append((int(height), int(width)))
        return tf.constant(WINDOW)

    top, left, height, width = WINDOW
    part = decode_window(data, window).numpy()
    assert seen == [(64, 64)] and part.shape == (height, width, 3)
    # At its edges a JPEG's colours are interpolated from what was decoded.
    whole = decode_image(data).numpy()[top : top + height, left : left + width]
    assert np.abs(part.astype(int) - whole).max() <= 4
    np.testing.assert_array_equal(part[2:-2, 2:-2], whole[2:-2, 2:-2])


def test_scans_are_those_counted_outside():
    data = jpeg(SMOOTH, progressive=True)
    assert count_scans(data) > 3 and count_scans(jpeg(SMOOTH)) == 1
    np.testing.assert_array_equal(
        decode_image(data, np.int64(count_scans(data))), decode_image(data)
    )
    with pytest.raises(ValueError, match="number of scans"):
        decode_image(jpeg(SMOOTH), np.int64(2**40))


# -------------------------------------------------------------------------- BMP, GIF and WebP

needs_webp = pytest.mark.skipif(
    not formats.DECODES_WEBP, reason="this version of TensorFlow does not decode WebP"
)
ALPHA = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)
OTHERS = {
    "BMP": (pil(SMOOTH, "BMP"), SMOOTH),
    "BMP with alpha": (pil(ALPHA, "BMP"), SMOOTH),
    "GIF": (pil(SMOOTH // 64 * 64, "GIF"), None),
    "GIF of several frames": (
        pil(COLOUR, "GIF", save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
        None,
    ),
    "WebP": (pil(SMOOTH, "WEBP", quality=100), None),
    "lossless WebP": (pil(SMOOTH, "WEBP", lossless=True), SMOOTH),
    "WebP with alpha": (pil(ALPHA, "WEBP", lossless=True), None),
    "lossy WebP with alpha": (pil(ALPHA, "WEBP", quality=100), None),
}
OTHERS = [
    pytest.param(*OTHERS[name], id=name, marks=[needs_webp] if "WebP" in name else [])
    for name in OTHERS
]


@pytest.mark.long
@pytest.mark.parametrize("data, expected", OTHERS)
def test_other_formats_are_decoded_as_other_libraries_do(data, expected):
    if expected is None:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = decode_image(data)
    assert image.dtype == tf.uint8 and image.shape == expected.shape
    assert np.abs(image.numpy().astype(int) - expected).max() <= 4
    np.testing.assert_array_equal(decode_image(data, np.int64(count_scans(data))), image)
    in_graph = tf.data.Dataset.from_tensors((data, np.int64(count_scans(data)))).map(decode_image)
    np.testing.assert_array_equal(next(iter(in_graph)), image)
    window = lambda height, width: tf.constant([1, 2, 3, 4])
    np.testing.assert_array_equal(decode_window(data, window), image[1:4, 2:6])


@pytest.mark.long
@pytest.mark.parametrize("data, expected", OTHERS)
def test_other_formats_cut_short_are_refused(data, expected):
    for length in range(0, min(len(data), 60)):
        refusal_of(data[:length])


def changed(data, at, value):
    return data[:at] + value + data[at + len(value) :]


WEBPS = {form: pil(SMOOTH, "WEBP", lossless=form == "VP8L") for form in ("VP8L", "VP8 ")}
ANIMATED = pil(COLOUR, "WEBP", save_all=True, append_images=[Image.fromarray(COLOUR // 2)])
GIF = pil(SMOOTH, "GIF")
FRAME = GIF.index(b"\x2c\0\0\0\0")  # where its only frame begins
LARGE = struct.pack("<HH", 65_500, 65_500)
LYING = {
    "BMP too large": changed(pil(SMOOTH, "BMP"), 18, struct.pack("<ii", 65_500, 65_500)),
    "BMP of least height": changed(pil(SMOOTH, "BMP"), 18, struct.pack("<ii", 4, -(2**31))),
    "BMP with a palette": pil(SMOOTH[..., 0], "BMP"),
    "GIF too large": changed(GIF, 6, LARGE),
    "a large frame in a small GIF": changed(GIF, FRAME + 5, LARGE),
    "thousands of frames": GIF[:FRAME]
    + changed(GIF[FRAME:-1], 5, struct.pack("<HH", 4000, 4000)) * 100
    + b";",
    "lossless WebP too large": changed(WEBPS["VP8L"], 21, b"\xff\xff\xff\x0f"),
    "lossy WebP too large": changed(WEBPS["VP8 "], 26, b"\xff\x3f\xff\x3f"),
    "animated WebP": ANIMATED,
    "animated WebP without the flag": changed(ANIMATED, 20, b"\0"),
    "WebP of another form": changed(WEBPS["VP8L"], 12, b"VP9 "),
    "RIFF of sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
}


@pytest.mark.parametrize("what", LYING)
def test_other_formats_that_announce_too_much_are_refused(what):
    refusal_of(LYING[what])


def test_frames_are_counted_by_their_area():
    assert count_scans(GIF) == 1 and count_scans(GIF[:FRAME]) == 0
    assert count_scans(GIF[:FRAME] + GIF[FRAME:-1] * 7 + b";") == 7
    assert count_scans(LYING["a large frame in a small GIF"]) > 10**6
