"""How TensorFlow is started."""

import os

from distribution.startup import import_tensorflow


def test_one_dnn_is_on_unless_it_was_turned_off(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")  # conftest has started TensorFlow
    import_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    import_tensorflow()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
