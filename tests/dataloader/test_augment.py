"""Augmentation against TensorFlow's own image operations and NumPy's padding, image by image."""

import numpy as np
import pytest
import tensorflow as tf

from dataloader import AUGMENTATIONS, Augmentation
from dataloader.augment import DRAWS, augment, contrast, crop, draw, normalise, saturation

CIFAR = AUGMENTATIONS["CIFAR10"]
PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3, flip=True, pad=4)  # leaves pixels as they are
NEUTRAL = 0.5
LARGEST = 1 - 2**-24  # of random float32 numbers


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def draws_of(count, views=1, **given):
    """Neutral draws, but for those given by name: numbers or arrays [count, views]."""
    draws = np.full((count, views, DRAWS), NEUTRAL, np.float32)
    for name, value in given.items():
        draws[..., ["flip", "row", "column", "contrast", "saturation"].index(name)] = value
    return draws


def odd_images(count):
    """Images with values below 0 and above 255, as after contrast, and some special pixels."""
    images = np.random.default_rng(1).uniform(-60, 320, (count, 32, 32, 3)).astype(np.float32)
    special = [
        (0, 0, 0),
        (255, 255, 255),
        (7, 7, 7),
        (0, 0, 255),
        (-5, -5, -5),
        (-9, -4, -1),
        (-30, 0, 90),
        (-30, 0, 0),
    ]
    images[:, 0, : len(special)] = special
    return images


# ------------------------------------------------------------------------------------------- colour

FACTORS = [0.8, 0.9, 1.0, 1.1, 1.2]


@pytest.mark.parametrize(
    "make", [lambda: pixels(5).astype(np.float32), lambda: odd_images(5)], ids=["pixels", "beyond"]
)
def test_contrast_is_tensorflows_on_each_image(make):
    images = make()
    ours = contrast(tf.constant(images), tf.constant(FACTORS, tf.float32)).numpy()
    for image, factor, own in zip(images, FACTORS, ours):
        np.testing.assert_allclose(
            own, tf.image.adjust_contrast(image, factor), rtol=1e-5, atol=1e-3
        )


@pytest.mark.parametrize("factors", [FACTORS, [0.0, 0.5, 1.5, 3.0, 100.0]])
@pytest.mark.parametrize(
    "make", [lambda: pixels(5).astype(np.float32), lambda: odd_images(5)], ids=["pixels", "beyond"]
)
def test_saturation_is_tensorflows_on_each_image(make, factors):
    images = make()
    ours = saturation(tf.constant(images), tf.constant(factors, tf.float32)).numpy()
    for image, factor, own in zip(images, factors, ours):
        np.testing.assert_allclose(
            own, tf.image.adjust_saturation(image, factor), rtol=1e-5, atol=2e-3
        )


def test_saturation_of_grey_and_black_is_finite_and_changes_nothing():
    images = np.zeros((3, 32, 32, 3), np.float32)
    images[1], images[2] = 128, -3
    np.testing.assert_array_equal(
        saturation(tf.constant(images), tf.constant([0.8, 1.2, 1.2])), images
    )


def test_strongest_draws_are_0_8_and_1_2():
    image = pixels(1) // 2 + 64  # so grey that contrast leaves nothing below 0
    for name, adjust in (
        ("contrast", tf.image.adjust_contrast),
        ("saturation", tf.image.adjust_saturation),
    ):
        for value, factor in ((0.0, 0.8), (0.25, 0.9), (LARGEST, 1.2)):
            ours = augment(
                tf.constant(image), tf.constant(draws_of(1, **{name: value})), PLAIN, colour=True
            )[0, 0]
            np.testing.assert_allclose(
                ours, adjust(image[0].astype(np.float32), factor), rtol=1e-5, atol=2e-3
            )


def test_contrast_comes_before_saturation():
    """The two do not commute where saturation clips."""
    image = pixels(1)
    ours = augment(
        tf.constant(image),
        tf.constant(draws_of(1, contrast=1.0, saturation=1.0)),
        PLAIN,
        colour=True,
    )[0, 0]
    theirs = tf.image.adjust_saturation(
        tf.image.adjust_contrast(image[0].astype(np.float32), 1.2), 1.2
    )
    other = tf.image.adjust_contrast(
        tf.image.adjust_saturation(image[0].astype(np.float32), 1.2), 1.2
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-3)
    assert np.abs(ours - other).max() > 1


def test_colour_is_for_two_views_alone():
    draws = draws_of(2, contrast=0.0, saturation=1.0)
    plain = augment(tf.constant(pixels(2)), tf.constant(draws), PLAIN, colour=False)
    np.testing.assert_array_equal(plain[:, 0], pixels(2))


# --------------------------------------------------------------------------------------------- crop


def cropped(image, top, left, flip, pad):
    """Mirrored where asked for, after padding and slicing."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    size = image.shape[0]
    part = padded[top : top + size, left : left + size]
    return part[:, ::-1] if flip else part


@pytest.mark.parametrize("size, pad", [(32, 4), (32, 0), (8, 7), (32, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_is_reflect_padding_and_slicing_for_every_offset(size, pad, flip):
    offsets = [(top, left) for top in range(2 * pad + 1) for left in range(2 * pad + 1)]
    images = (
        np.random.default_rng(0).integers(0, 256, (len(offsets), size, size, 3)).astype(np.uint8)
    )
    top, left = np.array(offsets, np.int32).T
    ours = crop(
        tf.constant(images), tf.constant(top), tf.constant(left), tf.fill([len(offsets)], flip), pad
    ).numpy()
    assert ours.dtype == np.uint8
    for image, offset, own in zip(images, offsets, ours):
        np.testing.assert_array_equal(own, cropped(image, *offset, flip, pad))


def test_draws_choose_flip_and_offset():
    """Nine offsets of equal shares; a flip below one half."""
    images = pixels(1)
    for row, top in ((0.0, 0), (0.12, 1), (0.5, 4), (0.88, 7), (0.9, 8), (LARGEST, 8)):
        for flip, mirrored in ((0.0, True), (0.49, True), (0.51, False), (LARGEST, False)):
            draws = draws_of(1, flip=flip, row=row, column=1 / 3)
            ours = augment(tf.constant(images), tf.constant(draws), PLAIN, colour=False)[0, 0]
            np.testing.assert_array_equal(ours, cropped(images[0], top, 3, mirrored, 4))


def test_data_set_without_flips_is_never_mirrored():
    draws = draws_of(2, flip=0.0)
    ours = augment(
        tf.constant(pixels(2)),
        tf.constant(draws),
        Augmentation((0.0,) * 3, (1.0,) * 3, False, 4),
        colour=False,
    )
    np.testing.assert_array_equal(ours[:, 0], pixels(2))


# ---------------------------------------------------------------------------------------- the whole


def test_normalise_is_by_channel():
    images = pixels(2)
    ours = normalise(tf.constant(images), CIFAR).numpy()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[..., 0], (images[..., 0] - 113.9) / 66.7, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[..., 1], (images[..., 1] - 123.0) / 62.1, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[..., 2], (images[..., 2] - 125.3) / 63.0, rtol=1e-4, atol=1e-5)


def test_neutral_draws_are_exactly_normalise():
    images = tf.constant(pixels(4))
    ours = augment(images, tf.constant(draws_of(4)), CIFAR, colour=False)
    np.testing.assert_array_equal(ours[:, 0], normalise(images, CIFAR))


def test_neutral_draws_with_colour_are_normalise_but_for_rounding():
    images = tf.constant(pixels(4))
    ours = augment(images, tf.constant(draws_of(4)), CIFAR, colour=True)
    np.testing.assert_allclose(ours[:, 0], normalise(images, CIFAR), rtol=0, atol=1e-5)


@pytest.mark.parametrize("colour", [False, True])
def test_result_is_the_published_order_of_operations(colour):
    """Contrast, saturation, crop, flip, normalise: with TensorFlow's and NumPy's own functions, one
    image and view at a time.
    """
    images, draws = pixels(6), draw(np.random.default_rng(3), 6, 2)
    ours = augment(tf.constant(images), tf.constant(draws), CIFAR, colour).numpy()
    mean, std = np.float32(CIFAR.mean), np.float32(CIFAR.std)
    for i in range(6):
        for v in range(2):
            flip, row, column, c, s = draws[i, v]
            x = images[i].astype(np.float32)
            if colour:
                x = tf.image.adjust_saturation(
                    tf.image.adjust_contrast(x, 0.8 + 0.4 * c), 0.8 + 0.4 * s
                ).numpy()
            x = cropped(x, int(row * 9), int(column * 9), flip < 0.5, 4)
            np.testing.assert_allclose(ours[i, v], (x - mean) / std, rtol=0, atol=1e-4)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_layout_is_images_then_views(views):
    """Every view of image i shows image i, by the draws of that view."""
    images, draws = pixels(4), draw(np.random.default_rng(0), 4, views)
    ours = augment(tf.constant(images), tf.constant(draws), CIFAR, colour=True)
    assert ours.shape == (4, views, 32, 32, 3) and ours.dtype == tf.float32
    for i in range(4):
        for v in range(views):
            alone = augment(
                tf.constant(images[i : i + 1]),
                tf.constant(draws[i : i + 1, v : v + 1]),
                CIFAR,
                colour=True,
            )
            np.testing.assert_allclose(ours[i, v], alone[0, 0], rtol=0, atol=1e-5)


def test_every_image_gets_its_own_values():
    """The same image eight times, two views each: no two results are alike."""
    images = np.repeat(pixels(1), 8, 0)
    ours = augment(
        tf.constant(images), tf.constant(draw(np.random.default_rng(0), 8, 2)), CIFAR, colour=True
    ).numpy()
    ours = ours.reshape(16, -1)
    for i in range(16):
        for j in range(i):
            assert np.abs(ours[i] - ours[j]).max() > 0.1


@pytest.mark.long
@pytest.mark.parametrize("colour", [False, True])
def test_eager_graph_and_xla_agree(colour):
    images, draws = tf.constant(pixels(8)), tf.constant(draw(np.random.default_rng(5), 8, 2))
    run = lambda images, draws: augment(images, draws, CIFAR, colour)
    eager = run(images, draws)
    for compiled in (False, True):
        other = tf.function(run, jit_compile=compiled, autograph=False)(images, draws)
        np.testing.assert_allclose(other, eager, rtol=0, atol=1e-5)


def test_draws_depend_on_the_generator_alone_and_are_uniform():
    one, two = (draw(np.random.default_rng([0, 3]), 500, 2) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (500, 2, DRAWS) and one.dtype == np.float32
    assert one.min() >= 0 and one.max() < 1
    np.testing.assert_allclose(one.mean((0, 1)), 0.5, atol=0.05)
    assert not np.array_equal(one[:, 0], one[:, 1]), "views draw their own"
