"""Damages files at random, and holds those who read them to bounds of time and memory."""

import contextlib
import pickletools
import signal
import warnings
from pathlib import Path

from hypothesis import strategies as st

SECONDS, BYTES = 5, 1 << 30
EXTREMES = [
    0,
    1,
    2**7,
    2**8 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
]
OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
IN_PLACE, MOVING = (
    ["flip", "replace", "number"],
    ["insert", "delete", "duplicate", "swap", "truncate"],
)


@st.composite
def mutations(draw, data, opcodes=False):
    """`data` with one to four mutations, with `opcodes` of pickles too: in a header, in a trailer,
    or anywhere.
    """
    data = bytearray(data)
    # More often in place: what moves all that follows is mostly refused at once.
    kinds = st.sampled_from([*IN_PLACE * 3, *MOVING, *["opcode"] * 2 * opcodes])
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 4]))):
        if data:
            _mutate(draw, data, draw(kinds), _place(draw, data))
    return bytes(data)


def _place(draw, data):
    region = draw(st.sampled_from([(0, 16), (0, 256), (-256, 256), (0, 1 << 30), (0, 1 << 30)]))
    begin = max(0, len(data) + region[0]) if region[0] < 0 else 0
    return draw(st.integers(begin, max(begin, min(len(data), begin + region[1]) - 1)))


def _mutate(draw, data, kind, at):
    length = draw(st.integers(1, 40)) if kind in ("delete", "duplicate", "swap") else 0
    if kind == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "replace":
        data[at] = draw(st.integers(0, 255))
    elif kind == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=16))
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "duplicate":
        data[at:at] = data[at : at + length]
    elif kind == "swap":
        other = _place(draw, data)
        data[at : at + length], data[other : other + length] = (
            data[other : other + length],
            data[at : at + length],
        )
    elif kind == "truncate":
        del data[at:]
    elif kind == "number":
        width = draw(st.sampled_from([1, 2, 4, 8]))
        number = draw(st.sampled_from(EXTREMES)) % 2 ** (8 * width)
        data[at : at + width] = number.to_bytes(width, draw(st.sampled_from(["little", "big"])))
    else:
        data[at:at] = draw(st.sampled_from(OPCODES)) + draw(st.binary(max_size=9))


class _TooLong(BaseException):
    """No Exception: a reader that catches those shall not catch this."""


@contextlib.contextmanager
def within_bounds(seconds=SECONDS, size=BYTES):
    """Raises AssertionError if the block takes too long or too much memory (Linux), or warns."""

    def stop(*_):
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    resident = _restart_peak()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)  # which users are not shown
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                grown = _status("VmHWM") - resident
                assert grown < size, f"{grown >> 20} MiB"
                assert not warned, warned[0]
    except _TooLong:
        raise AssertionError(f"more than {seconds} s") from None
    finally:
        signal.signal(signal.SIGALRM, before)


def _restart_peak():
    """Resets the peak of resident memory; returns the bytes that are resident now."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))
