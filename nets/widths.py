"""Widths of networks, for those who want to know them without TensorFlow."""

MOBILENET_STEM, MOBILENET_LAST = 32, 1280
MOBILENET_STAGES = (  # (expansion, channels, blocks) of MobileNet-v2 (Sandler et al. 2018)
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
)


def scaled(filters, multiplier):
    """int: `filters` times a width multiplier, to the nearest multiple of 8 that loses no more than
    a tenth; at least 8.

    As MobileNets round (Sandler et al. 2018).
    """
    wanted = filters * multiplier
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width
