"""Run folders with searches made by hand, for analyses of their sub-networks."""

import numpy as np
from bad_inputs import resnet_8, run_of

import analyze
from ekg.filter_rule import filters_kept
from ekg.history import SearchState, SubNetwork
from nets import build_network

FLAGS = "--arch ResNet-8 --val_per_class 4 --subset_per_class 3 --search_seed 5".split()
STEPS = 3


def history():
    """The unpruned network, then ever fewer filters, ranked at random."""
    sizes = build_network("ResNet-8", 10, 32).gate_sizes
    rng = np.random.default_rng(0)
    found = []
    for step in range(STEPS + 1):
        order = np.concatenate([rng.permutation(n) for n in sizes]).astype(np.int32)
        rates = tuple(np.round(1 - step * rng.uniform(0.1, 0.3, len(sizes)), 5).tolist())
        found.append(SubNetwork(rates, filters_kept(sizes, rates), order, 0.5, 0.5))
    return found


def searched(path):
    SearchState(history(), np.zeros((40, 10), np.float32)).save(path)


def make_run(folder, at="run", **files):
    """The folder of a run whose search is done. files: further stages -> function of a path."""
    done = {"warm_up": resnet_8, "search": searched} | files
    run_of(*FLAGS, at=at, **done)(folder, None)
    return str(folder / at)


def asked(*flags):
    """The parsed flags of `analyze.py hessian`."""
    return analyze.parse(["hessian", "--dataset", "DIGITS", *flags])[1]
