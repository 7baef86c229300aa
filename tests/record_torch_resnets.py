"""Records what torchvision's ResNets answer, for test_foreign_weights.py. Needs PyTorch and torchvision, else nothing of here.

python tests/record_torch_resnets.py
"""

import numpy as np
import torch
from torch_resnets import BLOCKS, CLASSES, RECORD, SIZES, images, state_dict


def import_torchvision():
    """torchvision, also where its compiled operators do not fit PyTorch: those of detection must be known, not work."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def logits(torchvision, arch, size):
    """float32 [2, CLASSES] of the network `arch` in evaluation."""
    network = getattr(torchvision.models, arch.lower().replace("-", ""))(weights=None, num_classes=CLASSES)
    network.load_state_dict({name: torch.tensor(array) for name, array in state_dict(arch).items()}, strict=True)
    with torch.no_grad():
        return network.eval()(torch.tensor(images(size).transpose(0, 3, 1, 2))).numpy()


def main():
    torchvision = import_torchvision()
    np.savez(RECORD, **{f"{arch} {size}": logits(torchvision, arch, size) for arch in BLOCKS for size in SIZES})
    print(f"{RECORD}: PyTorch {torch.__version__}, torchvision {torchvision.__version__}")


if __name__ == "__main__":
    main()
