"""ResNets under the names of torchvision, which timm shares, and of Hugging Face."""

import collections
import re

from nets.catalogue import BUILDERS

KNOWN = {  # (blocks of each stage, bottlenecks) -> arch
    (options["blocks"], options.get("bottlenecks", False)): arch
    for arch, (_, builder, options) in BUILDERS.items()
    if builder == "ImageNetResNet"
}


class ResNet:
    """A ResNet from its state dict, `state`. Raises ValueError if its blocks are not in KNOWN.

    The names are those of torchvision; a subclass has others:

    LIBRARY: whose names they are.
    LANDMARK: a name that every ResNet has, with or without a prefix.
    BLOCK: pattern of a name that every block has once: its stage and its number.
    FIRST: the number of the first stage.
    PREFIX: of the names of a block.
    INNER: convolution n of a block, from 0, and its batch norm, numbered from COUNT.
    SHORTCUT: convolution and batch norm of a projection.
    ENDS: the layers before and after the blocks.
    """

    KIND, LIBRARY = "ResNet", "PyTorch"
    LANDMARK = "layer1.0.conv1.weight"
    BLOCK = re.compile(r"layer(\d{1,3})\.(\d{1,3})\.conv1\.weight")
    FIRST, COUNT = 1, 1
    PREFIX = "layer{stage}.{block}"
    INNER = ("conv{n}", "bn{n}")
    SHORTCUT = ("downsample.0", "downsample.1")
    ENDS = ("conv1", "bn1", "fc")

    def __init__(self, state):
        matches = map(self.BLOCK.fullmatch, state)
        counts = collections.Counter(int(match[1]) for match in matches if match)
        self.blocks = tuple(counts[stage] for stage in range(self.FIRST, max(counts) + 1))
        self.bottlenecks = f"{self.inner(0, 0, 2)[0]}.weight" in state
        if (self.blocks, self.bottlenecks) not in KNOWN:
            kind = "bottlenecks" if self.bottlenecks else "basic blocks"
            raise ValueError(
                f"it is a ResNet of {'-'.join(map(str, self.blocks))} {kind}, not one of"
                f" {', '.join(KNOWN.values())}"
            )
        self.arch = KNOWN[self.blocks, self.bottlenecks]
        self.like = f"{self.LIBRARY}'s {self.arch}"

    def prefix(self, stage, block):
        """What the names of a block start with; stages and blocks count from 0."""
        return self.PREFIX.format(stage=stage + self.FIRST, block=block)

    def inner(self, stage, block, n):
        """The names of convolution n of a block, from 0, and of its batch norm."""
        return [
            f"{self.prefix(stage, block)}.{name.format(n=n + self.COUNT)}" for name in self.INNER
        ]

    def layers(self):
        """Yields (their name, our name, kind) of every layer.

        PyTorch numbers the convolutions of a block from the first; here the last one is always
        conv2.
        """
        yield from zip(self.ENDS, ("conv", "bn", "fc"), ("conv", "bn", "fc"))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                ours = f"BasicBlock{stage}.{block}"
                for n in range(3 if self.bottlenecks else 2):
                    for kind, theirs in zip(("conv", "bn"), self.inner(stage, block, n)):
                        yield theirs, f"{ours}/{kind}{n + 1 - self.bottlenecks}", kind
                if block == 0 and (stage > 0 or self.bottlenecks):
                    for kind, theirs in zip(("conv", "bn"), self.SHORTCUT):
                        yield f"{self.prefix(stage, block)}.{theirs}", f"{ours}/{kind}3", kind

    def meta_of_widths(self, state):
        """The meta that follows from the widths: {}.

        Raises ValueError if the network is grouped or wider than ours; a narrower one is pruned.
        Building the network checks whether widths fit together.
        """
        most = {f"{self.ENDS[0]}.weight": 64}
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                names = [
                    f"{self.inner(stage, block, n)[0]}.weight"
                    for n in range(3 if self.bottlenecks else 2)
                ]
                width = 64 << stage
                most |= {name: width * (4 if n == 2 else 1) for n, name in enumerate(names)}
                filters, read = state[names[0]].shape[0], state[names[1]].shape[1]
                if 0 < read < filters and filters % read == 0:
                    raise ValueError(
                        f"{names[1]} is grouped: it reads {read} of {filters} channels;"
                        f" {self.arch} has no groups"
                    )
        for name, filters in most.items():
            if state[name].shape[0] > filters:
                raise ValueError(
                    f"{name} has {state[name].shape[0]} filters, but that of {self.arch} has"
                    f" {filters}"
                )
        return {}


class HuggingFaceResNet(ResNet):
    """The names of Hugging Face's ResNetForImageClassification; the network is the same."""

    LIBRARY = "Hugging Face"
    LANDMARK = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    BLOCK = re.compile(
        r"resnet\.encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.layer\.0\.convolution\.weight"
    )
    FIRST, COUNT = 0, 0
    PREFIX = "resnet.encoder.stages.{stage}.layers.{block}"
    INNER = ("layer.{n}.convolution", "layer.{n}.normalization")
    SHORTCUT = ("shortcut.convolution", "shortcut.normalization")
    ENDS = (
        "resnet.embedder.embedder.convolution",
        "resnet.embedder.embedder.normalization",
        "classifier.1",
    )
