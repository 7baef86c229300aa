"""Records what torchvision's networks answer, for the tests of foreign weights. Needs PyTorch,
torchvision, else nothing of here.

python tests/record_torch_networks.py
"""

import numpy as np
import torch
from torch_networks import BLOCKS, CLASSES, RECORD, RECORDED, images, state_dict


def import_torchvision():
    """torchvision, also where its compiled operators do not fit PyTorch: those of detection must be
    known, not work.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def logits(torchvision, name, size):
    """float32 [2, CLASSES] of the network of torch_networks that is called `name` in evaluation."""
    models = torchvision.models
    if name in BLOCKS:
        network = getattr(models, name.lower().replace("-", ""))(weights=None, num_classes=CLASSES)
    else:
        network = models.mobilenet_v2(
            weights=None, num_classes=CLASSES, width_mult=float(name.split()[1])
        )
    network.load_state_dict(
        {key: torch.tensor(array) for key, array in state_dict(name).items()}, strict=True
    )
    with torch.no_grad():
        return network.eval()(torch.tensor(images(size).transpose(0, 3, 1, 2))).numpy()


def main():
    torchvision = import_torchvision()
    np.savez(
        RECORD, **{f"{name} {size}": logits(torchvision, name, size) for name, size in RECORDED}
    )
    print(f"{RECORD}: PyTorch {torch.__version__}, torchvision {torchvision.__version__}")


if __name__ == "__main__":
    main()
