"""TensorBoard scalars of a run, written to its folder."""

import errno
import functools
import os

import tensorflow as tf

from files.guards import one_line
from utils import FULL


class Board:
    """Writes scalars to the event file in a run's folder, on the machine that writes there."""

    def __init__(self, folder):
        self.folder = folder

    @functools.cached_property
    def _writer(self):  # made on first use, so that a finished run gets no new event file
        return (
            tf.summary.create_file_writer(self.folder.path)
            if self.folder.writes
            else tf.summary.create_noop_writer()
        )

    def scalars(self, prefix, metrics, step):
        """Writes the numbers in the dict `metrics` to TensorBoard. Raises OSError if it cannot
        write.
        """
        try:
            with self._writer.as_default():
                for key, value in metrics.items():
                    if isinstance(value, (int, float)):
                        tf.summary.scalar(f"{prefix}/{key}", value, step=step)
        except tf.errors.OpError as error:
            # TensorFlow raises ResourceExhausted both for a full disk and for full memory.
            code = next((code for code in FULL if os.strerror(code) in error.message), None)
            if code is None and isinstance(error, tf.errors.ResourceExhaustedError):
                raise
            reason = os.strerror(code) if code else one_line(error.message)
            path = self.folder.file("events.out.tfevents")
            raise OSError(code or errno.EIO, reason, path) from error
