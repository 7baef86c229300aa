"""Progress output of a run: bars on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n:g}/{total:g}, {elapsed}, {remaining} to go{postfix}"
QUIET_SECONDS = 30  # without a terminal: at least this many seconds between two lines


class Bar:
    """Progress of one loop. Iterate over it, or call `to(n)`; `show(loss=...)` sets the metrics
    printed beside it.

    Args:
        items: what to iterate over.
        label: name of the loop.
        total: number of items.
        live: whether to draw a bar on the terminal.
        prints: whether to print lines when there is no terminal.
        after: called after every item; may end the loop by raising an exception.
    """

    def __init__(self, items, label, total, live, prints=True, after=lambda: None):
        self.items, self.label, self.total = items, label, total
        self.prints, self.after = prints, after
        self.begin = self.last = time.perf_counter()
        self.metrics, self.n = {}, 0
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

    def show(self, **metrics):
        self.metrics = {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in metrics.items()
        }
        if self.tqdm is not None:
            self.tqdm.set_postfix(self.metrics, refresh=False)

    def to(self, n):
        """Sets the progress to n of `total`; n may be a fraction."""
        self.n = n
        if self.tqdm is not None:
            self.tqdm.update(n - self.tqdm.n)
            return
        now = time.perf_counter()
        if self.prints and now - self.last >= QUIET_SECONDS and 0 < n < self.total:
            self.last = now
            to_go = (now - self.begin) * (self.total - n) / n
            metrics = "".join(f", {name} {value}" for name, value in self.metrics.items())
            print(
                f"  {self.label} {n:g}/{self.total:g}{metrics}, {duration(to_go)} to go", flush=True
            )


class Silent(list):
    """A list of items, or a Bar, that shows no progress."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def show(self, **metrics):
        pass

    def to(self, n):
        pass


class Console:
    """Prints to the user. prints: whether to print anything; only the chief machine does."""

    def __init__(self, prints=True):
        # A stream is None if it was closed when Python started.
        self.prints, self.live = prints, prints and bool(sys.stderr and sys.stderr.isatty())

    def say(self, text=""):
        if not self.prints:
            return
        if self.live and sys.stdout:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        else:
            print(text, flush=True)

    def bar(self, items, label, total=None, after=lambda: None):
        return Bar(
            items, label, len(items) if total is None else total, self.live, self.prints, after
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
