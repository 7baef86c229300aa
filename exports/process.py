"""Asks an exported file in another process, which knows nothing of this project."""

import contextlib
import os
import pathlib
import subprocess
import sys

from exports.runner import read_array, write_array
from utils import UserError, cores

RUNNER = pathlib.Path(__file__).with_name("runner.py")
PATIENCE = 10  # seconds that a process gets to end


class Running:
    """An exported file that is open in a process of its own, until the end of a `with` block.

    A file that crashes its library ends that process, not this one.

    Args:
        path: of the file.
        opener: see exports.formats.Format.
        threads: that it computes with; None: as many as there are cores.
        called: its name in messages, None for its path.

    Attributes: dtype, str, and shape, tuple with None for any size, of its input.

    Raises UserError for a file that cannot be opened.
    """

    def __init__(self, path, opener, threads=None, called=None):
        self.called = called or path
        # Isolated (-I): neither this project nor the working folder can be imported.
        command = [sys.executable, "-I", str(RUNNER), opener, str(path), str(threads or cores())]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        self._process: subprocess.Popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        try:
            kind, *sizes = self._line("input")
        except BaseException:
            self.close()
            raise
        self.dtype = kind
        self.shape = tuple(None if size == "?" else int(size) for size in sizes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the process: politely, so that libraries tidy up behind themselves."""
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()

    def answers(self, images):
        """dict name -> array [B, ...] of all outputs for `images`, [B, H, W, C]."""
        return self._asked("answer", images)

    def milliseconds(self, calls):
        """float64 [calls]: times of more calls with the images of the last call of `answers`."""
        return self._asked(f"time {calls}")["ms"]

    def _asked(self, message, images=None):
        pipe = self._in
        try:
            pipe.write(message.encode() + b"\n")
            if images is not None:
                write_array(pipe, images)
            pipe.flush()
        except BrokenPipeError:
            pass  # the answer, or that there is none, says why
        names = self._line("ok")
        return {name: read_array(self._out) for name in names}

    def _line(self, expected):
        """The words behind `expected`, the first word of an answer."""
        line = self._out.readline().decode("utf-8", "replace").strip()
        word, _, rest = line.partition(" ")
        if word == expected:
            return rest.split()
        if word != "error":
            code = self._process.wait()
            rest = f"the library that reads it ended with code {code}; the file may be damaged"
        raise UserError(f"{self.called} cannot be run: {rest}")
