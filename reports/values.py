"""Numbers as text. None, a number that is not known, stays None."""

import functools

from engine.console import duration


def known(function):
    """Decorator of a function of numbers: its value is None if one of them is None."""

    @functools.wraps(function)
    def text(*values, **settings):
        return None if None in values else function(*values, **settings)

    return text


@known
def percent(value, digits=2):
    return f"{100 * value:.{digits}f} %"


@known
def points(old, new):
    """The difference of two shares in percentage points."""
    return _signed(100 * (new - old), "+.2f") + " points"


@known
def share(old, new):
    return f"{100 * new / old:.1f} %" if old else None


def left(old, new):
    found = share(old, new)
    return found and f"{found} left"


@known
def difference(old, new):
    return _signed(new - old, "+.4f")


@known
def decimal(value, digits=4):
    """A loss or a score. Small values keep their first digits."""
    return _signed(value, f".{digits}f" if value == 0 or abs(value) >= 0.01 else ".2e")


@known
def short(value):
    return _signed(value, ".4g")


@known
def correlation(value):
    return _signed(value, "+.2f")


@known
def brief(value):
    """A residual: its magnitude is what counts."""
    return _signed(value, ".1e")


@known
def count(value):
    return f"{value:,}"


@known
def brief_count(value):
    """126837376 -> 126.8 M"""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g}\N{NO-BREAK SPACE}{name}"
    return f"{value}"


def all_of(number, noun):
    """What is behind a click."""
    return f"All {number:,} {noun}s" if number != 1 else f"1 {noun}"


@known
def milliseconds(value):
    return f"{value:.2f} ms"


@known
def times(old, new):
    return f"{old / new:.2f} ×" if new else None


def speed(old, new):
    found = times(old, new)
    return found and f"{found} as fast"


@known
def mib(value):
    return f"{value:,.0f} MiB"


@known
def time(seconds):
    return duration(seconds)


def _signed(value, form):
    return f"{value:{form}}".replace("-", "−")
