"""TensorBoard: scalars of a run, in its folder."""

import errno
import functools
import os

import tensorflow as tf

from files.guards import one_line
from utils import FULL


class Board:
    """Writes scalars to the event file of a run's folder, on the machine that writes there."""

    def __init__(self, folder):
        self.folder = folder

    @functools.cached_property
    def _writer(self):  # late: a run that is finished gets no new file
        return (
            tf.summary.create_file_writer(self.folder.path)
            if self.folder.writes
            else tf.summary.create_noop_writer()
        )

    def scalars(self, prefix, figures, step):
        """Writes those of `figures` that are numbers for TensorBoard. Raises OSError where they
        cannot be written.
        """
        try:
            with self._writer.as_default():
                for key, value in figures.items():
                    if isinstance(value, (int, float)):
                        tf.summary.scalar(f"{prefix}/{key}", value, step=step)
        except tf.errors.OpError as error:
            # TensorFlow calls a full disk ResourceExhausted, as it calls a full memory.
            code = next((code for code in FULL if os.strerror(code) in error.message), None)
            if code is None and isinstance(error, tf.errors.ResourceExhaustedError):
                raise
            said = os.strerror(code) if code else one_line(error.message)
            raise OSError(
                code or errno.EIO, said, self.folder.file("events.out.tfevents")
            ) from error
