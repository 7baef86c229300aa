"""What people see while a run goes on: bars on a terminal, lines elsewhere."""

import sys
import time

from tqdm import tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:g}/{total:g}, {elapsed}, {remaining} to go{postfix}"
QUIET_SECONDS = 30  # at most one line in this time where output is no terminal


class Bar:
    """Progress of one loop. Iterate over it, or call `to(n)`; `show(loss=...)` sets the figures
    beside it.

    after() is called behind every item, and may end the loop by an exception.
    """

    def __init__(self, items, label, total, live, speaks=True, after=lambda: None):
        self.items, self.label, self.total, self.speaks, self.after = (
            items,
            label,
            total,
            speaks,
            after,
        )
        self.begin = self.last = time.perf_counter()
        self.figures, self.n = {}, 0
        settings = dict(file=sys.stderr, leave=False, dynamic_ncols=True, bar_format=FORMAT)
        self.tqdm = tqdm(total=total, desc=label, **settings) if live else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.tqdm is not None:
            self.tqdm.close()

    def __iter__(self):
        with self:
            for item in self.items:
                yield item
                self.to(self.n + 1)
                self.after()

    def show(self, **figures):
        self.figures = {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in figures.items()
        }
        if self.tqdm is not None:
            self.tqdm.set_postfix(self.figures, refresh=False)

    def to(self, n):
        """n of `total` are done; n may be a fraction."""
        self.n = n
        if self.tqdm is not None:
            self.tqdm.update(n - self.tqdm.n)
            return
        now = time.perf_counter()
        if self.speaks and now - self.last >= QUIET_SECONDS and 0 < n < self.total:
            self.last = now
            to_go = (now - self.begin) * (self.total - n) / n
            figures = "".join(f", {name} {value}" for name, value in self.figures.items())
            print(
                f"  {self.label} {n:g}/{self.total:g}{figures}, {duration(to_go)} to go", flush=True
            )


class Silent(list):
    """Items, or a Bar, whose progress nobody watches."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def show(self, **figures):
        pass

    def to(self, n):
        pass


class Console:
    """Where a run speaks to its user; speaks: False on a machine that works for another one's."""

    def __init__(self, speaks=True):
        self.speaks, self.live = speaks, speaks and sys.stderr.isatty()

    def say(self, text=""):
        if not self.speaks:
            return
        tqdm.write(text, file=sys.stdout) if self.live else print(text)
        sys.stdout.flush()

    def bar(self, items, label, total=None, after=lambda: None):
        return Bar(
            items, label, len(items) if total is None else total, self.live, self.speaks, after
        )


def duration(seconds):
    """'3.4 s', '2 min 05 s', '1 h 12 min'"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )
