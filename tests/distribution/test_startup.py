"""How TensorFlow is started."""

import gc
import os
import sys

import pytest

from distribution.startup import hidden, import_tensorflow


def test_one_dnn_is_on_unless_it_was_turned_off(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")  # conftest has started TensorFlow
    import_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    import_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"


@pytest.mark.parametrize("whole_keras", [False, True])
def test_keras_does_not_find_what_no_program_uses(monkeypatch, tmp_path, whole_keras):
    """A TensorFlow that tries to import Matplotlib, as Keras does, and notes what it found."""
    (tmp_path / "matplotlib.py").touch()
    (tmp_path / "tensorflow.py").write_text(
        "import gc\ncollects = gc.isenabled()\n"
        "try:\n    import matplotlib\nexcept ImportError:\n    matplotlib = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorflow", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)  # what is there now comes back
        del sys.modules[name]
    import_tensorflow(whole_keras=whole_keras)
    assert (sys.modules["tensorflow"].matplotlib is None) != whole_keras
    assert not sys.modules["tensorflow"].collects and gc.isenabled()
    import matplotlib

    assert matplotlib.__file__ == str(tmp_path / "matplotlib.py")


def test_what_is_imported_already_is_not_hidden():
    with hidden("sys", "this"):
        import sys as found

        with pytest.raises(ImportError):
            import this  # noqa: F401
    assert found is sys and "this" not in sys.modules
