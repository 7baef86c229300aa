"""Every network through every format: dense and pruned, both paddings, blocks that went."""

import os

import pytest
from settled import ARCHITECTURES, pixels, settled_network

from exports.exportable import of_network
from exports.exporting import export
from exports.formats import CHOICES, formats
from nets.catalogue import PADDINGS, PIXELS

pytestmark = pytest.mark.slow
LIMITS = {"TFLite float16": 1e-2, "TFLite int8": 1.0}  # of the largest logit
FLOAT32 = 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_round_trip(arch, pruned, padding, tmp_path):
    network = settled_network(arch, pruned, padding)
    exportable = of_network(network, *PIXELS["CIFAR10"])
    images = pixels(16, network.input_size)
    found = {}
    for wanted in formats(CHOICES):
        path = str(tmp_path / f"x{wanted.ending}")
        found[wanted.name] = export(exportable, wanted, path, images, images).difference
        assert os.path.exists(path)
    print(f"\n{arch}, {'pruned' if pruned else 'dense'}, {padding}: {found}")
    assert len(found) == 6
    for name, difference in found.items():
        assert difference < LIMITS.get(name, FLOAT32), found
