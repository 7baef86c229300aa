"""Gates of a Keras model: classes of channels that touch the same places of the same weights."""

import dataclasses

import numpy as np

from nets.gates import Gate


@dataclasses.dataclass(frozen=True)
class Member:
    """An axis of a weight along which a gate's filters lie.

    path: of the weight, as "block/conv/kernel"; axis: of the weight, from 0.
    indices: int [C, n], the n places of each filter along the axis. A dense layer behind a flatten
        has several.
    """

    path: str
    axis: int
    indices: np.ndarray


class KerasGate(Gate):
    """A gate of a Keras model.

    members: list of Member, in the order of the data.
    writers: paths of the layers whose convolutions (or matrix products) write through it.
    """

    def __init__(self, name, index, size, members, writers, uses):
        super().__init__(name)
        self.index, self.size, self.uses = index, size, uses
        self.members, self.writers = members, writers


def find_gates(walk, classes):
    """The gates that a Walk has found, and where each channel's filter is.

    Returns (gates, filters): list of KerasGate in the order in which they are first written, and
    int [number of classes], the place of each class among all filters of all gates, -1 for what
    cannot be dropped.
    """
    touched: dict[int, dict] = {}  # class -> {(weight, axis): places}
    for key, weight in walk.weights.items():
        for axis, labels in weight.labels.items():
            for place, number in enumerate(classes.of(labels).tolist()):
                if number >= 0:
                    places = touched.setdefault(number, {}).setdefault((key, axis), [])
                    places.append(place)
    grouped: dict[frozenset, list[int]] = {}
    for number, places in touched.items():
        signature = frozenset((*at, len(found)) for at, found in places.items())
        grouped.setdefault(signature, []).append(number)
    filters = np.full(classes.count, -1)
    gates: list[KerasGate] = []
    names: dict[str, int] = {}
    total = 0
    for numbers in grouped.values():
        filters[numbers] = np.arange(total, total + len(numbers))
        total += len(numbers)
        gates.append(_gate(walk, [touched[n] for n in numbers], len(gates), names))
    return gates, filters


def _gate(walk, places, index, names):
    """The KerasGate of some classes. places: per class, dict (weight, axis) -> its places."""
    members = []
    for key, axis in places[0]:
        weight = walk.weights[key]
        from_front = axis % len(weight.variable.shape)
        members.append(Member(weight.path, from_front, np.array([p[key, axis] for p in places])))
    writers = []  # one per convolution
    for layer in walk.layers.values():
        for weight, axis in layer.writes:
            if (id(weight.variable), axis) in places[0]:
                writers.append(layer.path)
    first = writers[0]
    names[first] = names.get(first, 0) + 1
    name = first if names[first] == 1 else f"{first}#{names[first]}"
    unique = list(dict.fromkeys(writers))
    return KerasGate(name, index, len(places), members, unique, len(writers))
