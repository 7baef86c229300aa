"""What a network sees of a photograph: crops within bounds, drawn as asked, and the centre as other
libraries have it.
"""

import io

import numpy as np
import pytest
import tensorflow as tf
from imagenet_files import picture
from PIL import Image

from dataloader.views import CROP_DRAWS, centre_view, crop_factors, crop_window, training_views

RNG = np.random.default_rng(0)


def windows(height, width, count=400):
    draws = np.random.default_rng(1).random((count, 2 + CROP_DRAWS), np.float32)
    crop = tf.function(
        lambda place, factors: crop_window(tf.constant(height), tf.constant(width), place, factors)
    )
    return np.array(
        [crop(place, factors) for place, factors in zip(draws[:, :2], crop_factors(draws[:, 2:]))]
    )


@pytest.mark.parametrize(
    "height, width", [(375, 500), (500, 375), (64, 64), (1, 1), (2, 300), (300, 2)]
)
def test_crops_lie_within_the_image(height, width):
    top, left, h, w = windows(height, width, 100).T
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_areas_and_ratios_are_those_of_the_published_recipe():
    top, left, h, w = windows(375, 500).T
    area, ratio = h * w / (375 * 500), w / h
    assert (
        area.min() > 0.07 and area.max() > 0.9 and abs(np.median(area) - 0.43) < 0.06
    )  # the largest do not fit
    assert (
        0.74 < ratio.min() < 0.8
        and 1.25 < ratio.max() < 1.35
        and abs(np.median(np.log(ratio))) < 0.1
    )
    assert len(set(top)) > 50 and len(set(left)) > 50


def test_an_image_in_which_no_crop_fits_gives_its_centre():
    """300 x 2: every crop of these ratios is wider; what is left is the whole width, as high as the
    ratio lets it be.
    """
    assert windows(300, 2, 20).tolist() == [[148, 0, 3, 2]] * 20
    assert windows(2, 300, 20).tolist() == [[0, 148, 2, 3]] * 20


def pil(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


SHARP = picture(0, 0)


def test_centre_is_what_pillow_makes_of_it():
    """Shorter side 256 / 224 of the size, bicubic, and the centre of that; rounding and the
    kernels' edges apart.
    """
    for data, size in ((picture(1, 1), 56), (picture(2, 5), 32)):
        image = pil(data)
        scale = round(size * 256 / 224) / min(image.size)
        resized = image.resize([round(n * scale) for n in image.size], Image.BICUBIC)
        left, top = ((n - size) // 2 for n in resized.size)
        expected = np.asarray(resized.crop((left, top, left + size, top + size)), int)
        difference = np.abs(centre_view(data, None, size).numpy().astype(int) - expected)
        assert difference.mean() < 4 and np.median(difference) <= 2


def views_of(data, draws, size):
    """float32 [V, 2 + CROP_DRAWS] -> the views."""
    return training_views(data, None, draws[:, :2], crop_factors(draws[:, 2:]), size).numpy()


def whole(v):
    """Draws of `v` views that see the whole of a square image."""
    draws = np.full((v, 2 + CROP_DRAWS), 0.5, np.float32)
    draws[:, 2::2] = 1  # area
    return draws


def test_one_view_and_two_are_cut_and_scaled_alike():
    """One decodes no more than its crop, two decode once: apart from a JPEG's edges they are the
    same.
    """
    draws = RNG.random((2, 2 + CROP_DRAWS), np.float32)
    both = views_of(SHARP, draws, 48)
    single = [views_of(SHARP, draws[k : k + 1], 48)[0] for k in range(2)]
    assert both.shape == (2, 48, 48, 3) and both.dtype == np.uint8
    for one, other in zip(both, single):
        assert np.abs(one.astype(int) - other).mean() < 1
    assert np.abs(both[0].astype(int) - both[1]).mean() > 3


@pytest.mark.parametrize("kind", ["grey", "CMYK", "disguised"])
def test_every_kind_of_file_gives_colours(kind):
    data = picture(1, 2, kind)
    for v in (1, 2):
        views = views_of(data, whole(v), 32)
        assert views.shape == (v, 32, 32, 3)
        assert np.abs(views.mean((0, 1, 2)) - np.asarray(pil(data)).mean((0, 1))).max() < 12
    assert centre_view(data, None, 32).shape == (32, 32, 3)


def test_the_whole_image_is_scaled_as_pillow_does():
    """Enlarged, where anti-aliasing, which pillow always does, is none."""
    small = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (20, 20, 3)).astype(np.uint8)).save(small, "PNG")
    view = views_of(small.getvalue(), whole(1), 40)[0].astype(int)
    expected = np.asarray(pil(small.getvalue()).resize((40, 40), Image.BILINEAR), int)
    assert np.abs(view - expected).max() <= 1
