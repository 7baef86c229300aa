"""Compares the first steps of a search with the published implementation's, on the ResNet-56 that
it ships.

    python tests/check_published_resnet56.py PARAM DATA

Not part of the test suite, because it needs two files that are not in the repository: the published
parameter file, and an .npz of CIFAR-10 whose test set is that of the record (1,017 images with
their original pixels; D_val is the last 32 of each class of the test set, one batch of 320, no
warm-up). Exit code 0 if gates, widths, MACs, parameters and candidates are the recorded ones and
loss and score within 1e-4. About a minute on 2 cores.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))

from distribution.startup import import_tensorflow  # noqa: E402
from nets.parameters import read_parameters  # noqa: E402

import_tensorflow()

import tensorflow as tf  # noqa: E402

from dataloader import load_dataset  # noqa: E402
from dataloader.augment import normalise  # noqa: E402
from dataloader.sampling import select_subsets  # noqa: E402
from distribution.runtime import Runtime  # noqa: E402
from ekg.search import Greedy  # noqa: E402
from ekg.validation import Validation  # noqa: E402
from engine.options import SearchOptions  # noqa: E402
from nets import build_network  # noqa: E402


def make_search(param, data_path):
    data = load_dataset("CIFAR10", data_path)
    network = build_network("ResNet-56", 10, 32, read_parameters(param)[0], origin=param)
    val, _ = select_subsets(data.y_test, 10, 32, 32, 0)
    images, labels = data.x_test[val], data.y_test[val]
    prepare = lambda batch: normalise(batch["images"], data.augmentation)
    on_val = Validation(
        network, Runtime(tf.distribute.get_strategy()), prepare, images, labels, 320
    )
    return Greedy(
        network, labels, on_val.importance, on_val.predict, SearchOptions(0.45, 0.2, "published")
    )


def main(param, data_path):
    record = json.loads((ROOT / "data" / "published_resnet56_search.json").read_text())
    search = make_search(param, data_path)
    gates = [gate.name for gate in search.network.gates]
    state, first = search.start()
    same = gates == record["gates"] and abs(first["loss"] - record["loss0"]) < 1e-4
    print(f"unpruned: loss {first['loss']:.6f}, recorded {record['loss0']:.6f}")
    for step in record["steps"]:
        ours = search.advance(state)
        alike = all(ours[key] == step[key] for key in ("gate", "widths", "flops", "params"))
        alike = alike and ours["candidates"] == [gates[i] for i in step["evaluated"]]
        apart = {key: abs(ours[key] - step[key]) for key in ("loss", "score")}
        same = same and alike and max(apart.values()) < 1e-4
        said = "as recorded" if alike else f"recorded {step['gate']}"
        figures = f"loss {apart['loss']:.1e} and score {apart['score']:.1e} apart"
        print(
            f"step {ours['step']}: {ours['gate']}, {said}; {figures}, margin to the second"
            f" {step['margin']:.1e}"
        )
    print("the same" if same else "NOT the same")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 3 else __doc__)
