"""Two machines prune on JPEGs: each trains on its own files, decodes its part of every batch,
writes its rows of the bank.
"""

import numpy as np
import pytest
from imagenet_files import WNIDS, pictures, write_folders, write_shards
from processes import ends, records, start

pytestmark = pytest.mark.long

TRAIN, VAL = pictures(13), pictures(3, first=100)
COMMAND = (
    "--arch ResNet-18 --input_size 32 --val_per_class 4 --subset_per_class 8 --num_teacher 2"
    " --train_epoch 2 --batch_size 8 --baseline_epoch 1 --baseline_batch_size 8 --search_batch_size"
    " 10 --search_warmup_batch_size 8 --val_batch_size 6 --search_target_rate 0.97"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folders", "shards"])
def test_two_machines_have_a_row_of_every_whole_image(tmp_path, form):
    """52 images, or 3 shards, of which one machine has two: the other passes its own again while
    the bank is filled.
    """
    data, folder = tmp_path / "data", tmp_path / "run"
    broken = []
    if form == "folders":
        write_folders(data / "train", TRAIN)
        write_folders(data / "val", VAL)
        for name in (
            TRAIN[1][1],
            TRAIN[9][1],
        ):  # in D_subset and in D_val, one of them on each machine
            (data / "train" / WNIDS[0] / name).write_bytes(b"no image")
        names = sorted(name for label, name, _ in TRAIN if label == 0)
        broken = sorted(names.index(TRAIN[i][1]) for i in (1, 9))
    else:
        write_shards(data, "train", TRAIN, 3)
        write_shards(data, "validation", VAL, 1)
    flags = [*COMMAND, "--data_path", str(data), "--train_path", str(folder)]
    chief, worker = ends(start(flags, flags, program="train_imagenet.py"))
    assert (chief[0], worker[0]) == (0, 0), chief[2] + worker[2]
    bank = np.load(folder / "memory_bank.npy", mmap_mode="r")
    assert bank.shape == (52, 4, 2)
    assert [i for i, row in enumerate(bank) if not row.any()] == broken
    skipped = {
        line.split(": ")[1]
        for line in (chief[2] + worker[2]).splitlines()
        if line.startswith("  skipped: ")
    }
    assert len(skipped) == len(broken)  # each machine names what it has met
    assert records(folder, "training.jsonl")[-1]["broken"] == len(broken)
    # Started again it is finished; with another number of machines it would be another run.
    for code, out, err in ends(start(flags, flags, program="train_imagenet.py")):
        assert code == 0 and "Traceback" not in err, out + err
