"""MobileNet-v2 under the names of torchvision and of timm."""

import re

from nets.widths import MOBILENET_LAST, MOBILENET_STAGES, MOBILENET_STEM, scaled

# (stage, block in the stage) of every block
PLACES = [(stage, n) for stage, (_, _, count) in enumerate(MOBILENET_STAGES) for n in range(count)]
# Several multipliers may give the same widths: round ones are tried first.
MULTIPLIERS = [n / 100 for n in (*range(5, 201, 5), *range(1, 201))]


class MobileNetV2:
    """MobileNet-v2 from its state dict, `state`. Raises ValueError for a wrong number of blocks.

    A subclass has the names of one library:

    LIBRARY: its name.
    LANDMARK: a name that every MobileNet-v2 of the library has.
    BLOCK: pattern of a name that every block has once.
    PREFIX: of the names of a block, by its stage, its place in the stage and its place among all
        blocks, from 1.
    FIRST: the layers of the block without expansion.
    INNER: the layers of the other blocks.
    ENDS: the layers before and after the blocks.
    """

    LIBRARY: str
    LANDMARK: str
    BLOCK: re.Pattern
    PREFIX: str
    FIRST: tuple[str, ...]
    INNER: tuple[str, ...]
    ENDS: tuple[str, ...]

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
        """Yields (their name, our name, kind) of every layer."""
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
            for theirs, (ours, kind) in named:
                yield f"{prefix}.{theirs}", f"InvertedResidual{stage}.{block}/{ours}", kind

    def meta_of_widths(self, state):
        """The meta that follows from the widths: the multiplier at which no filter is missing.

        {} if there is none, as for a pruned network. Raises ValueError if a depthwise convolution
        is not depthwise. Building the network checks whether widths fit together.
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
        for multiplier in MULTIPLIERS:
            if unpruned(multiplier) == filters:
                return {"width_multiplier": multiplier}
        return {}


def unpruned(multiplier):
    """dict our name -> filters of every convolution of the unpruned network."""
    width = scaled(MOBILENET_STEM, multiplier)
    filters = {"conv": width, "conv_last": max(MOBILENET_LAST, scaled(MOBILENET_LAST, multiplier))}
    for stage, block in PLACES:
        name = f"InvertedResidual{stage}.{block}"
        expansion, channels, _ = MOBILENET_STAGES[stage]
        inner, width = expansion * width, scaled(channels, multiplier)
        if expansion > 1:
            filters[f"{name}/conv0"] = inner
        filters |= {f"{name}/conv1": inner, f"{name}/conv2": width}
    return filters


class TorchvisionMobileNetV2(MobileNetV2):
    """The names of torchvision."""

    LIBRARY = "torchvision"
    LANDMARK = "features.1.conv.0.0.weight"
    BLOCK = re.compile(r"features\.\d{1,3}\.conv\.0\.0\.weight")
    PREFIX = "features.{number}"
    FIRST = ("conv.0.0", "conv.0.1", "conv.1", "conv.2")
    INNER = ("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3")
    ENDS = ("features.0.0", "features.0.1", "features.18.0", "features.18.1", "classifier.1")


class TimmMobileNetV2(MobileNetV2):
    """The names of timm."""

    LIBRARY = "timm"
    LANDMARK = "blocks.0.0.conv_dw.weight"
    BLOCK = re.compile(r"blocks\.\d{1,3}\.\d{1,3}\.conv_dw\.weight")
    PREFIX = "blocks.{stage}.{block}"
    FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
    INNER = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    ENDS = ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
