"""ResNets in PyTorch's names, torchvision's and timm's alike."""

import collections
import re

from nets.catalogue import BUILDERS

BLOCK = re.compile(r"layer(\d{1,3})\.(\d{1,3})\.conv1\.weight")
KNOWN = {  # (blocks of each stage, bottlenecks) -> arch
    (options["blocks"], options.get("bottlenecks", False)): arch
    for arch, (_, builder, options) in BUILDERS.items()
    if builder == "ImageNetResNet"
}


class ResNet:
    """The ResNet whose state dict has the names in `state`. Raises ValueError if it has other
    blocks than those KNOWN.
    """

    KIND = "ResNet"
    LANDMARK = "layer1.0.conv1.weight"  # every one has it, behind a prefix or not

    def __init__(self, state):
        counts = collections.Counter(
            int(match[1]) for match in map(BLOCK.fullmatch, state) if match
        )
        self.blocks = tuple(counts[stage] for stage in range(1, max(counts) + 1))
        self.bottlenecks = "layer1.0.conv3.weight" in state
        if (self.blocks, self.bottlenecks) not in KNOWN:
            kind = "bottlenecks" if self.bottlenecks else "basic blocks"
            raise ValueError(
                f"it is a ResNet of {'-'.join(map(str, self.blocks))} {kind}, none of"
                f" {', '.join(KNOWN.values())}"
            )
        self.arch = KNOWN[self.blocks, self.bottlenecks]
        self.like = f"PyTorch's {self.arch}"

    def layers(self):
        """(their name, our name, kind) of each. PyTorch counts a block's convolutions from 1, we so
        that the last is conv2.
        """
        yield from (("conv1", "conv", "conv"), ("bn1", "bn", "bn"), ("fc", "fc", "fc"))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                theirs, ours = f"layer{stage + 1}.{block}", f"BasicBlock{stage}.{block}"
                for n in range(1, 4 if self.bottlenecks else 3):
                    for kind in ("conv", "bn"):
                        yield f"{theirs}.{kind}{n}", f"{ours}/{kind}{n - self.bottlenecks}", kind
                if block == 0 and (stage > 0 or self.bottlenecks):
                    yield f"{theirs}.downsample.0", f"{ours}/conv3", "conv"
                    yield f"{theirs}.downsample.1", f"{ours}/bn3", "bn"

    def told_by_widths(self, state):
        """{}: nothing for the meta. Raises ValueError for what has our names, but is grouped or
        wider; narrower is pruned.

        Whether widths meet is found out by building.
        """
        most = {"conv1.weight": 64}
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                name = f"layer{stage + 1}.{block}."
                kernels = range(1, 4 if self.bottlenecks else 3)
                most |= {
                    f"{name}conv{n}.weight": (64 << stage) * (4 if n == 3 else 1) for n in kernels
                }
                filters, read = (
                    state[name + "conv1.weight"].shape[0],
                    state[name + "conv2.weight"].shape[1],
                )
                if 0 < read < filters and filters % read == 0:
                    grouped = (
                        f"{name}conv2.weight is grouped: it reads {read} of {filters} channels"
                    )
                    raise ValueError(f"{grouped}; {self.arch} has no groups")
        for name, filters in most.items():
            if state[name].shape[0] > filters:
                raise ValueError(
                    f"{name} has {state[name].shape[0]} filters, that of {self.arch} {filters}"
                )
        return {}
