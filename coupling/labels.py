"""Labels of channels: what must live or die together gets united, what must stay gets frozen."""

import dataclasses
import typing

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Labels:
    """Integer labels. United labels form a class, and a class with one frozen label is frozen."""

    def __init__(self):
        self._causes = [np.zeros(0, np.int64)]  # number of a label's reason, 0 for none; in parts
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._events: list[tuple[np.ndarray, str, bool]] = []  # (frozen labels, why, first)

    def fresh(self, count, why=None):
        """New labels, int64 [count]; frozen ones if there is a reason `why`."""
        begin = sum(map(len, self._causes))
        self._causes.append(np.zeros(count, np.int64))
        labels = np.arange(begin, begin + count)
        if why is not None:
            self.freeze(labels, why)
        return labels

    def unite(self, labels, others):
        """Puts labels[i] and others[i] into one class. Both int64 [n]."""
        if len(labels) != len(others):
            raise ValueError(f"{len(labels)} labels cannot be united with {len(others)}")
        self._pairs.append((np.asarray(labels), np.asarray(others)))

    def freeze(self, labels, why, first=False):
        """Keeps these labels, and all that they are united with, from being dropped.

        why: text for the user. Of several reasons for one class, the earliest counts, but any that
        comes `first` counts before all others.
        """
        self._events.append((np.asarray(labels), why, first))
        causes = self._joined()
        causes[labels] = np.where(causes[labels], causes[labels], len(self._events))

    def frozen_for(self, labels):
        """Why the first of these labels is frozen if each of them has been frozen itself, else
        None. What they are united with may freeze them too: `classes` has the final answer.
        """
        causes = self._joined()[labels]
        return self._events[causes[0] - 1][1] if len(causes) and causes.all() else None

    def _joined(self):
        if len(self._causes) > 1:
            self._causes = [np.concatenate(self._causes)]
        return self._causes[0]

    def classes(self):
        """The Classes after all that was united and frozen so far."""
        nothing = np.zeros(0, np.int64)
        a = np.concatenate([nothing, *(pair[0] for pair in self._pairs)])
        b = np.concatenate([nothing, *(pair[1] for pair in self._pairs)])
        count = len(self._joined())
        links = coo_array((np.ones(len(a), np.int8), (a, b)), (count, count))
        number = connected_components(links, directed=False)[1] if count else nothing
        reasons: dict[int, str] = {}
        for labels, why, _ in sorted(self._events, key=lambda event: not event[2]):
            for root in np.unique(number[labels]).tolist():
                reasons.setdefault(root, why)
        return Classes(number, reasons)


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes of labels.

    number: int [labels], the class of each label.
    reasons: dict class -> why it is frozen; classes that may be dropped are missing.
    """

    number: np.ndarray
    reasons: dict[int, str]

    @property
    def count(self):
        """Number of classes."""
        return int(self.number.max(initial=-1)) + 1

    def of(self, labels):
        """int [n]: the class of each label, -1 for frozen ones."""
        number = self.number[labels]
        frozen = np.isin(number, np.fromiter(self.reasons, np.int64, len(self.reasons)))
        return np.where(frozen, -1, number)

    def why(self, labels):
        """dict reason -> how many of these labels are frozen for it."""
        found: dict[str, int] = {}
        for number in self.number[labels].tolist():
            if number in self.reasons:
                found[self.reasons[number]] = found.get(self.reasons[number], 0) + 1
        return found


class Tensor:
    """A tensor on its way through the model.

    Args:
        value: tf.Tensor [B, ...].
        labels: int64 [n], one label per channel; None for a tensor without channels.
        axis: the axis along which the channels lie, counted from the end: -1 is the last.
        kernel: the variable of the kernel that has just written it, or None.
    """

    def __init__(self, value, labels=None, axis=-1, kernel: typing.Any = None):
        self.value, self.labels, self.axis, self.kernel = value, labels, axis, kernel
