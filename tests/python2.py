"""Pickles as Python 2 wrote them: so the official CIFAR files are."""

import io
import pickle
import struct


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its only strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def python2(value):
    """The pickle that Python 2 with a NumPy of its time made of `value`."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
