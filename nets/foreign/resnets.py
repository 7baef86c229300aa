"""ResNets under PyTorch's names; torchvision and timm use the same ones."""

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
    """A ResNet from its state dict, `state`. Raises ValueError if its blocks are not in KNOWN."""

    KIND = "ResNet"
    LANDMARK = "layer1.0.conv1.weight"  # a name that every ResNet has, with or without a prefix

    def __init__(self, state):
        matches = map(BLOCK.fullmatch, state)
        counts = collections.Counter(int(match[1]) for match in matches if match)
        self.blocks = tuple(counts[stage] for stage in range(1, max(counts) + 1))
        self.bottlenecks = "layer1.0.conv3.weight" in state
        if (self.blocks, self.bottlenecks) not in KNOWN:
            kind = "bottlenecks" if self.bottlenecks else "basic blocks"
            raise ValueError(
                f"it is a ResNet of {'-'.join(map(str, self.blocks))} {kind}, not one of"
                f" {', '.join(KNOWN.values())}"
            )
        self.arch = KNOWN[self.blocks, self.bottlenecks]
        self.like = f"PyTorch's {self.arch}"

    def layers(self):
        """Yields (their name, our name, kind) of every layer.

        PyTorch numbers the convolutions of a block from 1; here the last one is always conv2.
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

    def meta_of_widths(self, state):
        """The meta that follows from the widths: {}.

        Raises ValueError if the network is grouped or wider than ours; a narrower one is pruned.
        Building the network checks whether widths fit together.
        """
        most = {"conv1.weight": 64}
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                name = f"layer{stage + 1}.{block}."
                kernels = range(1, 4 if self.bottlenecks else 3)
                width = 64 << stage
                most |= {f"{name}conv{n}.weight": width * (4 if n == 3 else 1) for n in kernels}
                filters = state[name + "conv1.weight"].shape[0]
                read = state[name + "conv2.weight"].shape[1]
                if 0 < read < filters and filters % read == 0:
                    raise ValueError(
                        f"{name}conv2.weight is grouped: it reads {read} of {filters} channels;"
                        f" {self.arch} has no groups"
                    )
        for name, filters in most.items():
            if state[name].shape[0] > filters:
                raise ValueError(
                    f"{name} has {state[name].shape[0]} filters, but that of {self.arch} has"
                    f" {filters}"
                )
        return {}
