"""Training speed of the same ResNet in PyTorch, as one JSON line. bench/train.py runs this program.

    python bench/torch_resnet.py --one '{"cell": "version"}'
    python bench/torch_resnet.py --one '{"cell": "alone", "precision": "float32", \
        "compile": false, "blocks": 9, "classes": 10, "size": 32, "batch_size": 128, \
        "seconds": 3, "least_calls": 5}'

It runs in a Python with torch and without TensorFlow, so it imports nothing from this project.
precision: float32; bfloat16, for weights and momentum too; autocast, with float32 weights and
momentum. It trains on one normalised batch, one view, without augmentation or accuracy, which
favours PyTorch.
"""

import argparse
import contextlib
import json
import os
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

WARM_UP = 3  # untimed calls first: compilation, memory, oneDNN's kernels


def convolution(channels, filters, kernel_size, strides=1):
    return nn.Conv2d(channels, filters, kernel_size, strides, kernel_size // 2, bias=False)


class BasicBlock(nn.Module):
    """nets.resnet.basic in PyTorch."""

    def __init__(self, channels, filters, strides):
        super().__init__()
        self.conv1, self.bn1 = convolution(channels, filters, 3, strides), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = convolution(filters, filters, 3), nn.BatchNorm2d(filters)
        nn.init.zeros_(self.bn2.weight)
        self.shortcut = nn.Identity()
        if strides != 1:
            self.shortcut = nn.Sequential(
                convolution(channels, filters, 1, strides), nn.BatchNorm2d(filters)
            )

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """nets.resnet.CifarResNet in PyTorch: float [B, 3, S, S] -> logits [B, classes]."""

    def __init__(self, blocks, classes, widths=(16, 32, 64)):
        super().__init__()
        parts, channels = (
            [convolution(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU()],
            widths[0],
        )
        for stage, width in enumerate(widths):
            for block in range(blocks):
                parts.append(BasicBlock(channels, width, 2 if stage > 0 and block == 0 else 1))
                channels = width
        self.features, self.head = nn.Sequential(*parts), nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def training_call(job):
    """A function that makes one training step and returns the loss."""
    precision, layout = job["precision"], torch.channels_last
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = CifarResNet(job["blocks"], job["classes"]).to(dtype=dtype, memory_format=layout)
    images = torch.randn(job["batch_size"], 3, job["size"], job["size"]).to(
        dtype=dtype, memory_format=layout
    )
    labels = torch.randint(0, job["classes"], (job["batch_size"],))
    settings = dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    # fused: the fastest of PyTorch's three implementations.
    optimizer = torch.optim.SGD(network.parameters(), fused=True, **settings)
    loss_of = lambda images, labels: functional.cross_entropy(network(images).float(), labels)
    loss_of = torch.compile(loss_of) if job["compile"] else loss_of
    casts = lambda: (
        torch.autocast("cpu", torch.bfloat16)
        if precision == "autocast"
        else contextlib.nullcontext()
    )

    def call():
        optimizer.zero_grad(set_to_none=True)
        with casts():
            loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


def rate(call, job):
    """Images per second, from the median time of a call.

    Times calls for job["seconds"] seconds, and at least job["least_calls"] of them.
    """
    for _ in range(WARM_UP):
        call()
    times = []
    while len(times) < job["least_calls"] or sum(times) < job["seconds"]:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return job["batch_size"] / statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--one", type=json.loads, required=True, metavar="JSON", help="the job")
    job = parser.parse_args().one
    if job["cell"] == "version":
        print(json.dumps({"version": torch.__version__}))
        return
    # As many threads as TensorFlow uses; PyTorch's default is one per physical core.
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    print(json.dumps({"rate": rate(training_call(job), job)}))


if __name__ == "__main__":
    main()
