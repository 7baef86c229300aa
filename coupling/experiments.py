"""What operations without weights do to channels, found out by running them.

Channel numbers go in. If whole channel numbers come out, they say where each channel went. Else the
operation is taken to work on each channel alone. Either guess counts only if dropping channels
before the operation equals dropping them after it.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from coupling.labels import Labels

# run(values, target) -> list of outputs. values: one tf.Tensor per input that has channels. target:
# (axis, channels) of the output if it is narrower than usual, else None; only an operation that has
# the shape of its output inside, a reshape, needs to know.
Run = Callable[[list, tuple[int, int] | None], list]


@dataclasses.dataclass(frozen=True)
class Input:
    """An input with channels. shape includes the batch; axis is negative; dtype: of TensorFlow."""

    shape: tuple[int, ...]
    axis: int
    dtype: tf.DType

    @property
    def channels(self):
        return self.shape[self.axis]


@dataclasses.dataclass(frozen=True)
class Output:
    """An output. numbers, int [n]: the channel that is at each place along `axis`, 0 where a
    constant is; None for an output without channels.
    """

    axis: int = -1
    numbers: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What an operation does to the channels of all its inputs, numbered 1, 2, ..., N.

    groups: int [N + 1]; channels of one group must be kept or dropped together.
    spread: bool [N + 1]; channels that reach all others by broadcasting, and so must stay.
    """

    outputs: tuple[Output, ...]
    groups: np.ndarray
    spread: np.ndarray


def understand(run, inputs, seed=0):
    """The Behaviour of an operation, or None if it is not understood.

    run: see Run; inputs: list of Input.
    """
    offsets = np.cumsum([0, *(i.channels for i in inputs)])
    numbers = [np.arange(1, i.channels + 1) + o for i, o in zip(inputs, offsets)]
    random = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about shapes that only experiments have
        try:
            outputs = run([_filled(i, n) for i, n in zip(inputs, numbers)], None)
            outputs = [np.asarray(output) for output in outputs]
        except Exception:  # whatever the operation of a stranger raises: it is not understood
            return None
        for behaviour in _guesses(outputs, inputs, numbers):
            if _holds(run, inputs, numbers, behaviour, random):
                return behaviour
    return None


def _filled(one, numbers):
    """The input tensor that has numbers[c] all over channel c."""
    behind = [1] * (-1 - one.axis)
    return tf.cast(tf.broadcast_to(numbers.reshape(-1, *behind), one.shape), one.dtype)


# ------------------------------------------------------------------------------------------ guesses


def _guesses(outputs, inputs, numbers) -> Iterator[Behaviour]:
    total = int(numbers[-1][-1])
    nothing = np.zeros(total + 1, bool)
    alone = np.arange(total + 1)
    whole = [_whole(output, total) for output in outputs]
    maps = None
    if all(w is not None for w in whole):
        maps = [_index_map(w) for w in whole]
        if all(m is not None for m in maps):
            yield Behaviour(tuple(maps), alone, nothing)
    elementwise = _elementwise(outputs, inputs, numbers, total)
    if elementwise is not None:
        yield elementwise
    if maps is None:
        return
    if all(m is not None for m in maps):
        # Several outputs, as of a split: the same place of each is kept or dropped.
        sizes = {None if m.numbers is None else len(m.numbers) for m in maps}
        if len(maps) > 1 and len(sizes) == 1 and None not in sizes:
            pairs = [(a.numbers, b.numbers) for a, b in itertools.pairwise(maps)]
            yield Behaviour(tuple(maps), _united(total, pairs), nothing)
    elif len(outputs) == 1:
        # Several channels at one place along the axis, as behind a reshape: they go together.
        yield from _grouped(whole[0], total, nothing)


def _whole(output, total):
    """The output as whole channel numbers of 0 to `total`, int; None if it is anything else."""
    if output.dtype == bool or not np.isfinite(output.astype(np.float64)).all():
        return None
    nearest = np.rint(output.astype(np.float64))
    if np.abs(output - nearest).max(initial=0) > 1e-3:
        return None
    inside = nearest.min(initial=0) >= 0 and nearest.max(initial=0) <= total
    return nearest.astype(np.int64) if inside else None


def _along(array, axis):
    """The array as [places along axis, all the rest]."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _index_map(whole):
    """The Output if one axis has a single channel at each place, zeros aside; else None."""
    if whole.ndim < 2:
        return Output()
    for axis in range(-1, -whole.ndim, -1):
        places = _along(whole, axis)
        numbers = places.max(1, initial=0)
        if ((places == numbers[:, None]) | (places == 0)).all():
            return Output(axis, numbers)
    return None


def _grouped(whole, total, nothing):
    """The Behaviour of an operation that puts several channels at one place, for each axis along
    which these places may lie: the last axis comes first.
    """
    for axis in range(-1, -whole.ndim, -1):
        places = _along(whole, axis)
        numbers = places.max(1, initial=0)
        found = places > 0
        behind = np.broadcast_to(numbers[:, None], places.shape)
        groups = _united(total, [(behind[found], places[found])])
        yield Behaviour((Output(axis, numbers),), groups, nothing)


def _elementwise(outputs, inputs, numbers, total):
    """The Behaviour of an operation on each channel alone, with broadcasting; else None."""
    axis = inputs[0].axis
    channels = max(i.channels for i in inputs)
    aligned = all(i.axis == axis and i.channels in (1, channels) for i in inputs)
    fits = all(o.ndim >= -axis + 1 and o.shape[axis] == channels for o in outputs)
    if not (aligned and fits):
        return None
    spread = np.zeros(total + 1, bool)
    wide = [n for n in numbers if len(n) == channels]
    for narrow in numbers:
        spread[narrow] = len(narrow) < channels
    groups = _united(total, list(itertools.pairwise(wide)))
    return Behaviour(tuple(Output(axis, wide[0]) for _ in outputs), groups, spread)


def _united(total, pairs):
    """int [total + 1]: the groups after all pairs (a, b) of int [n] are united."""
    labels = Labels()
    labels.fresh(total + 1)
    for a, b in pairs:
        labels.unite(a, b)
    return labels.classes().number


# ------------------------------------------------------------------------------------------- checks


def _holds(run, inputs, numbers, behaviour, random):
    """Whether dropping channels before the operation equals dropping them after it, twice: the
    second time all groups go that had been kept.
    """
    first = random.random(len(behaviour.groups)) < 0.5
    tested = False
    for chosen in (first, ~first):
        kept = _kept(chosen, numbers, behaviour)
        tested |= not kept.all()
        values = [_drawn(one, random) for one in inputs]
        if not _equal(run, values, inputs, numbers, behaviour, kept):
            return False
    return tested  # with a single group nothing was dropped, so nothing is known


def _kept(chosen, numbers, behaviour):
    """bool [N + 1]: the channels that stay: whole groups, at least one of each tensor."""
    kept = chosen[behaviour.groups] | behaviour.spread
    kept[0] = True  # constants
    tensors = [*numbers, *(o.numbers for o in behaviour.outputs if o.numbers is not None)]
    for tensor in tensors:
        if len(tensor) and not kept[tensor].any():
            kept |= behaviour.groups == behaviour.groups[tensor[0]]
    return kept


def _drawn(one, random):
    """Random values for an input."""
    if one.dtype.is_bool:
        return tf.constant(random.random(one.shape) < 0.5)
    values = random.standard_normal(one.shape, np.float32) * 2
    return tf.cast(values if one.dtype.is_floating else np.abs(values) * 4, one.dtype)


def _equal(run, values, inputs, numbers, behaviour, kept):
    narrow = [
        tf.gather(v, np.flatnonzero(kept[n]), axis=len(i.shape) + i.axis)
        for v, i, n in zip(values, inputs, numbers)
    ]
    output = behaviour.outputs[0]
    known = output.numbers is not None
    target = (output.axis, int(kept[output.numbers].sum())) if known else None
    try:
        after = [np.asarray(y) for y in run(values, None)]
        before = [np.asarray(y) for y in run(narrow, target)]
    except Exception:  # the guess does not suit the operation
        return False
    for whole, part, output in zip(after, before, behaviour.outputs):
        if output.numbers is not None:
            whole = np.compress(kept[output.numbers], whole, output.axis)
        if whole.shape != part.shape or not _close(whole, part):
            return False
    return True


def _close(whole, part):
    """Whether two arrays are equal to float rounding, and not just NaN and infinities."""
    if whole.dtype == bool or whole.dtype.kind in "OSU":
        return np.array_equal(whole, part)
    whole, part = whole.astype(np.float64), part.astype(np.float64)
    finite = np.abs(whole[np.isfinite(whole)])
    if not len(finite):
        return False
    return np.allclose(whole, part, 1e-4, 1e-5 * finite.max(), equal_nan=True)
