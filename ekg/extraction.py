"""From a masked supernet to a physically smaller network with the same function (METHOD 6)."""

import numpy as np

from ekg.importance import split


def extract(network, flat_masks):
    """The arrays of a sub-network of `network`: dict name -> float32 array.

    Slices every array along the axes that its gates own, and rescales each sliced kernel to the
    norm of the whole one, as in the masked network. The moving averages are sliced too, but they
    are those of the unpruned network: re-estimate them before inference. A residual branch with a
    gate without filters leaves no array but beta of its last batch norm.

    flat_masks: float32 [F], 1 for the filters kept.
    """
    keep = [mask > 0 for mask in split(flat_masks, network.gate_sizes)]
    filters = [int(kept.sum()) for kept in keep]
    arrays = {}
    for layer in network.network_layers:
        for name, variable in layer.arrays.items():
            if 0 in layer.shape(name, filters):
                continue  # METHOD 13: of a branch without filters, a constant is left
            whole = variable.numpy()
            array = sliced(whole, layer.gated[name], keep)
            if name == "kernel":
                # METHOD 1a and 6: k * ||kernel|| / ||k||; a kernel of zeros stays zeros
                norm = np.linalg.norm(array)
                array = array * (np.linalg.norm(whole) / norm if norm else 0)
            arrays[f"{layer.path}/{name}:0"] = np.asarray(array, np.float32)
    return arrays


def filter_weights(network, flat_masks):
    """Yields (places, weights) for each convolution of a sub-network that writes through a gate.

    places: int [n], the filters that it has, by their places among all filters; weights: float64
    [n, ...], their weights, without dropped inputs and rescaled as in `extract`.
    """
    arrays = extract(network, flat_masks)
    places = split(np.arange(len(flat_masks)), network.gate_sizes)
    for layer in network.network_layers:
        if layer.out_gate is None or f"{layer.path}/kernel:0" not in arrays:
            continue  # no convolution, or one of a branch without filters
        kernel = np.asarray(arrays[f"{layer.path}/kernel:0"], np.float64)
        # A gate may own both the inputs and the outputs: the last of its axes is the outputs.
        gated = layer.gated["kernel"].items()
        axis = max(axis for axis, gate in gated if gate is layer.out_gate)
        weights = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
        own = places[layer.out_gate.index]
        yield own[flat_masks[own] > 0], weights


def sliced(array, gated, keep):
    """The part of an array that a sub-network has.

    gated: dict axis -> Gate or None (nets.layer.Layer); keep: list of bool [C], one per gate.
    """
    for axis, gate in gated.items():
        if gate is not None:
            array = np.compress(keep[gate.index], array, axis)
    return array


def reestimate(network, step, batches):
    """Sets the moving averages to the mean of the batch statistics over `batches` (METHOD 6).

    step: from op_utils.statistics_step.
    """
    totals: list[list[np.ndarray]] = []  # (mean, variance) summed over batches, per batch norm
    count = 0
    for batch in batches:
        count += 1
        found = step(batch)[0]["statistics"]
        statistics = [[np.asarray(value, np.float64) for value in pair] for pair in found]
        if totals:
            totals = [[a + b for a, b in zip(*pairs)] for pairs in zip(totals, statistics)]
        else:
            totals = statistics
    for bn, (mean, variance) in zip(network.batch_norms, totals):
        bn.move(np.float32(mean / count), np.float32(variance / count), decay=0.0)
