"""How machines agree on the step at which all of them stop, without asking at every step."""

import math
import time

SECONDS = 1.0  # between two exchanges, but for the first few of a loop
MOST = 250  # calls between two exchanges: a step may become slow after thousands of fast ones
FASTER = 10  # how much longer than the last time a loop may wait: its first calls tell little


class Agreement:
    """Decides when the machines tell each other of signals.

    All machines make the same calls in the same order. From the time that the last calls took, each
    machine tells the others, follows the number of calls until the next exchange: all machines
    compute it from the same values, so all exchange after the same call. Machines' own clocks alone
    would disagree.

    machines: distribution.machines.Alone or Meeting.
    clock: function that returns seconds.
    """

    def __init__(self, machines, clock=time.monotonic):
        self.machines, self.clock = machines, clock
        self.loops = {}  # loop -> _Loop; the calls of a loop take about the same time
        self.last = None  # loop of the last call, and when it ended

    def exchange(self, value, loop=None):
        """The list of the machines' values if they exchange after this call, else None.

        value: JSON-serialisable; loop: name of the loop that calls, the same on all machines; None
        always exchanges, and so does one machine alone.
        """
        if loop is None or len(self.machines.addresses) == 1:
            self.last = None
            return self.machines.exchange(value)
        now = self.clock()
        state = self.loops.setdefault(loop, _Loop())
        if self.last is not None and self.last[0] == loop:
            state.seconds += now - self.last[1]
            state.timed += 1
        state.calls += 1
        values = None
        if state.calls >= state.wait:
            answers = self.machines.exchange([value, state.seconds])
            values = [answer for answer, _ in answers]
            state.restart(min(seconds for _, seconds in answers))
        self.last = loop, self.clock()
        return values


class _Loop:
    """A loop's calls since its last exchange, the seconds of those that followed another, and the
    calls to wait for.
    """

    def __init__(self):
        self.calls, self.timed, self.seconds, self.wait = 0, 0, 0.0, 1

    def restart(self, seconds):
        """Begins to wait for the next exchange. seconds: since the last, of the slowest clock."""
        if self.timed:
            wanted = SECONDS * self.timed / max(seconds, 1e-6)
            self.wait = max(1, min(math.ceil(wanted), FASTER * self.wait, MOST))
        self.calls, self.timed, self.seconds = 0, 0, 0.0
