"""From a masked supernet to a physically smaller network of the same function."""

import numpy as np

from ekg.importance import split


def extract(network, flat_masks):
    """dict name -> float32 array of the sub-network that `flat_masks` (float32 [F]) leaves of
    `network`.

    Every array is sliced along the axes its gates own; sliced kernels are rescaled to the norm of
    the whole one, as masked ones are. Moving averages are sliced too, but belong to the unpruned
    network: re-estimate them before inference.
    """
    keep = [mask > 0 for mask in split(flat_masks, network.gate_sizes)]
    arrays = {}
    for layer in network.network_layers:
        for name, variable in layer.arrays.items():
            array = whole = variable.numpy()
            for axis, gate in layer.gated[name].items():
                if gate is not None:
                    array = np.compress(keep[gate.index], array, axis)
            if name == "kernel":
                norm = np.linalg.norm(array)
                array = array * (np.linalg.norm(whole) / norm if norm else 0)
            arrays[f"{layer.path}/{name}:0"] = np.asarray(array, np.float32)
    return arrays


def reestimate(network, step, batches):
    """Sets the moving averages to the mean of the batch statistics over `batches` (step:
    op_utils.statistics_step).
    """
    totals, count = None, 0
    for batch in batches:
        count += 1
        statistics = [
            [np.asarray(value, np.float64) for value in pair]
            for pair in step(batch)[0]["statistics"]
        ]
        totals = (
            statistics
            if totals is None
            else [[a + b for a, b in zip(*pairs)] for pairs in zip(totals, statistics)]
        )
    for bn, (mean, variance) in zip(network.batch_norms, totals):
        bn.move(np.float32(mean / count), np.float32(variance / count), decay=0.0)
