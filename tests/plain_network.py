"""A CIFAR ResNet in plain NumPy, float64, masked as METHOD's section 1a says: written without
looking at the layers.

`forward` can scale the masked activation at any place by a number a filter, so that a derivative to
that number is the sum over B, H, W of dy * y.
"""

import numpy as np


def conv(x, kernel, stride):
    """[B, H, W, in] with TF's SAME padding."""
    size, k = x.shape[1], kernel.shape[0]
    out = -(-size // stride)
    total = max((out - 1) * stride + k - size, 0)
    x = np.pad(x, [(0, 0), *[(total // 2, total - total // 2)] * 2, (0, 0)])
    y = np.zeros((len(x), out, out, kernel.shape[3]))
    for i in range(k):
        for j in range(k):
            y += (
                x[:, i : i + out * stride : stride, j : j + out * stride : stride][:, :out, :out]
                @ kernel[i, j]
            )
    return y


def masked(kernel, into, out):
    k = kernel * into[:, None] * out
    return k * np.linalg.norm(kernel) / np.linalg.norm(k)


def forward(parameters, images, masks, scales=None, blocks=1):
    """Logits [B, classes] on batch statistics. masks: dict gate name -> [C]; scales: dict place ->
    [C], a place being (gate name, name of the layer whose batch norm is behind it).
    """
    get = lambda name: np.asarray(parameters[name], np.float64)
    scales = scales or {}

    def normalised(x, name):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(variance + 1e-5) * get(f"{name}/gamma:0") + get(
            f"{name}/beta:0"
        )

    def gated(x, gate, layer):
        return np.maximum(x, 0) * masks[gate] * scales.get((gate, layer), 1)

    stream, pixels = "conv", np.ones(3)
    x = gated(
        normalised(
            conv(
                np.asarray(images, np.float64),
                masked(get("conv/kernel:0"), pixels, masks["conv"]),
                1,
            ),
            "bn",
        ),
        "conv",
        "conv",
    )
    for stage in range(3):
        for block in range(blocks):
            name = f"BasicBlock{stage}.{block}"
            stride = 2 if stage and not block else 1
            into, shortcut = masks[stream], x
            if stride == 2:
                stream = f"{name}/conv3"
                shortcut = normalised(
                    conv(x, masked(get(f"{name}/conv3/kernel:0"), into, masks[stream]), 2),
                    f"{name}/bn3",
                )
            inner = f"{name}/conv1"
            y = conv(x, masked(get(f"{inner}/kernel:0"), into, masks[inner]), stride)
            y = gated(normalised(y, f"{name}/bn1"), inner, inner)
            y = conv(y, masked(get(f"{name}/conv2/kernel:0"), masks[inner], masks[stream]), 1)
            x = gated(normalised(y, f"{name}/bn2") + shortcut, stream, f"{name}/conv2")
    kernel = get("fc/kernel:0")
    k = kernel * masks[stream][:, None]
    return x.mean((1, 2)) @ (k * np.linalg.norm(kernel) / np.linalg.norm(k)) + get("fc/biases:0")


def cross_entropy(targets, logits):
    """[B]: targets are probabilities [B, classes]."""
    shifted = logits - logits.max(-1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
