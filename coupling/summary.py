"""What there is to say about a model before it is pruned: as text, and for JSON."""

import numpy as np

LAYERS_NAMED = 6  # layers of a gate that the text names; JSON has all


def as_json(network):
    """dict of plain values: gates, frozen filters, costs by layer."""
    flops, params = network.cost()
    least = network.cost(np.ones(len(network.gates), int))
    return {
        "model": network.model.name,
        "flops": flops,
        "params": params,
        "least": {"flops": least[0], "params": least[1]},
        "filters": network.filter_count,
        "filters_that_can_go": _can_go(network),
        "gates": [
            {
                "name": gate.name,
                "size": gate.size,
                "uses": gate.uses,
                "writers": gate.writers,
                "members": [
                    {"weight": m.path, "axis": m.axis, "indices": m.indices.tolist()}
                    for m in gate.members
                ],
            }
            for gate in network.gates
        ],
        "frozen": [
            {"layer": f.layer, "count": f.count, "filters": f.filters, "why": f.why}
            for f in network.frozen
        ],
        "layers": [
            {"layer": c.path, "kind": c.kind, "flops": c.macs, "params": c.params}
            for c in network.costs.by_layer()
        ],
    }


def as_text(network):
    """The same for people."""
    return "\n".join([*_head(network), *_gates(network), *_frozen(network), *_layers(network)])


def _can_go(network):
    return network.filter_count - sum(f.count for f in network.frozen)


def _head(network):
    flops, params = network.cost()
    least = network.cost(np.ones(len(network.gates), int))[0]
    share = _can_go(network) / max(1, network.filter_count)
    yield f"{network.model.name}: {flops:,} FLOPs, {params:,} parameters"
    yield (
        f"{share:.1%} of the filters can go: {_can_go(network):,} of {network.filter_count:,},"
        f" in {len(network.gates)} gates"
    )
    if flops:
        yield f"one filter per gate leaves {least / flops:.1%} of the FLOPs"


def _gates(network):
    rows = [("gate", "size", "uses", "members")]
    for gate in network.gates:
        layers = list(dict.fromkeys(m.path.rpartition("/")[0] for m in gate.members))
        more = len(layers) - LAYERS_NAMED
        named = layers if more <= 1 else [*layers[:LAYERS_NAMED], f"{more} more"]
        rows.append((gate.name, f"{gate.size:,}", str(gate.uses), ", ".join(named)))
    return ["", *_table(rows, "<>><")] if network.gates else []


def _frozen(network):
    by_reason: dict[str, list] = {}
    for frozen in network.frozen:
        by_reason.setdefault(frozen.why, []).append(frozen)
    rows = [("frozen", "filters", "why")]
    for why, found in by_reason.items():
        for one in found:
            part = "" if one.count == one.filters else f" of {one.filters:,}"
            rows.append((one.layer, f"{one.count:,}{part}", why))
    return ["", *_table(rows, "<><")] if network.frozen else []


def _layers(network):
    total = max(1, network.cost()[0])
    rows = [("layer", "kind", "FLOPs", "share", "parameters")]
    for c in network.costs.by_layer():
        flops = ("not counted", "") if c.macs is None else (f"{c.macs:,}", f"{c.macs / total:.1%}")
        rows.append((c.path, c.kind, *flops, f"{c.params:,}"))
    return ["", *_table(rows, "<<>>>")]


def _table(rows, sides):
    """Lines with aligned columns. sides: "<" or ">" per column."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths)).rstrip()
