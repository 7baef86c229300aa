"""Widths of networks, without TensorFlow."""

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
    """`filters` times a width multiplier, rounded as in MobileNets (Sandler et al. 2018): int.

    Rounds to the nearest multiple of 8, at least 8, and up if that loses more than a tenth.
    """
    wanted = filters * multiplier
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width
