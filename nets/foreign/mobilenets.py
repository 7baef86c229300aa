"""MobileNet-v2 in the names of torchvision and in those of timm."""

import re

from nets.widths import MOBILENET_LAST, MOBILENET_STAGES, MOBILENET_STEM, scaled

PLACES = [
    (stage, block) for stage, (_, _, count) in enumerate(MOBILENET_STAGES) for block in range(count)
]
MULTIPLIERS = [
    n / 100 for n in (*range(5, 201, 5), *range(1, 201))
]  # the rounder ones first, where several say the same widths


class MobileNetV2:
    """The MobileNet-v2 whose state dict has the names in `state`. Raises ValueError if it has not
    as many blocks.

    A subclass is one library's names: BLOCK, what every block has one of; PREFIX of a block by its
    stage, place in the stage, and place among all from 1; of its layers FIRST in the block without
    expansion and INNER in the others; ENDS around them.
    """

    KIND = "MobileNet"
    OURS = (
        ("conv0", "conv"),
        ("bn0", "bn"),
        ("conv1", "depthwise"),
        ("bn1", "bn"),
        ("conv2", "conv"),
        ("bn2", "bn"),
    )

    def __init__(self, state):
        self.arch, self.like = "MobileNet-v2-ImageNet", f"{self.LIBRARY}'s MobileNet-v2"
        blocks = sum(self.BLOCK.fullmatch(name) is not None for name in state)
        if blocks != len(PLACES):
            raise ValueError(
                f"it is a network of {blocks} inverted residual blocks, MobileNet-v2 has"
                f" {len(PLACES)}"
            )

    def layers(self):
        """(their name, our name, kind) of each."""
        ends = (
            ("conv", "conv"),
            ("bn", "bn"),
            ("conv_last", "conv"),
            ("bn_last", "bn"),
            ("fc", "fc"),
        )
        yield from ((theirs, *ours) for theirs, ours in zip(self.ENDS, ends))
        for number, (stage, block) in enumerate(PLACES, 1):
            prefix = self.PREFIX.format(stage=stage, block=block, number=number)
            named = zip(self.INNER, self.OURS) if stage else zip(self.FIRST, self.OURS[2:])
            yield from (
                (f"{prefix}.{theirs}", f"InvertedResidual{stage}.{block}/{ours}", kind)
                for theirs, (ours, kind) in named
            )

    def told_by_widths(self, state):
        """The width multiplier by which no filter is missing, for the meta; {} where there is none,
        as of a pruned network.

        Raises ValueError for a depthwise convolution that is none. Whether widths meet is found out
        by building.
        """
        weights = {
            ours: (f"{theirs}.weight", kind)
            for theirs, ours, kind in self.layers()
            if kind in ("conv", "depthwise")
        }
        for name, kind in weights.values():
            if kind == "depthwise" and state[name].shape[1] != 1:
                raise ValueError(
                    f"{name} is not depthwise: its filters read {state[name].shape[1]} channels"
                    " each, not 1"
                )
        filters = {ours: state[name].shape[0] for ours, (name, _) in weights.items()}
        fitting = next(
            (multiplier for multiplier in MULTIPLIERS if unpruned(multiplier) == filters), None
        )
        return {"width_multiplier": fitting} if fitting else {}


def unpruned(multiplier):
    """dict our name -> filters of each convolution when nothing is pruned."""
    width = scaled(MOBILENET_STEM, multiplier)
    filters = {"conv": width, "conv_last": max(MOBILENET_LAST, scaled(MOBILENET_LAST, multiplier))}
    for stage, block in PLACES:
        name, (expansion, channels, _) = f"InvertedResidual{stage}.{block}", MOBILENET_STAGES[stage]
        inner, width = expansion * width, scaled(channels, multiplier)
        filters |= {f"{name}/conv0": inner} if expansion > 1 else {}
        filters |= {f"{name}/conv1": inner, f"{name}/conv2": width}
    return filters


class TorchvisionMobileNetV2(MobileNetV2):
    LIBRARY = "torchvision"
    LANDMARK, BLOCK = (
        "features.1.conv.0.0.weight",
        re.compile(r"features\.\d{1,3}\.conv\.0\.0\.weight"),
    )
    PREFIX = "features.{number}"
    FIRST = ("conv.0.0", "conv.0.1", "conv.1", "conv.2")
    INNER = ("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3")
    ENDS = ("features.0.0", "features.0.1", "features.18.0", "features.18.1", "classifier.1")


class TimmMobileNetV2(MobileNetV2):
    LIBRARY = "timm"
    LANDMARK, BLOCK = (
        "blocks.0.0.conv_dw.weight",
        re.compile(r"blocks\.\d{1,3}\.\d{1,3}\.conv_dw\.weight"),
    )
    PREFIX = "blocks.{stage}.{block}"
    FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
    INNER = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    ENDS = ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
