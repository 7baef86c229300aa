"""Times of layers that are easy to add up."""

from engine.layer_times import Grid, LayerTimes, key_of, timed_layers

CHECK = {"predicted_ms": 9.0, "measured_ms": 10.0, "dense_ms": 20.0}


def times_of(network, block=1, setting=None, **numbers):
    """A layer takes in + 10 out ms, linear in both widths; what is left without a branch, out."""
    grids = {}
    for layer in timed_layers(network):
        ins, outs = ([1, size] for size in layer.kernel.shape[-2:])
        ins, outs = (ins[1:], outs) if layer.in_gate is None else (ins, outs)
        outs = outs[1:] if layer.out_gate is None else outs
        ms = [[a + 10 * b for b in outs] for a in ins]
        grids[key_of(layer)] = Grid(ins, outs, ms, list(outs) if layer.adds else [])
    return LayerTimes(setting or {"arch": "ResNet-8"}, block, grids, check=CHECK, **numbers)
