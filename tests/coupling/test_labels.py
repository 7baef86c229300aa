"""Labels become classes: united ones together, frozen ones for a reason."""

import numpy as np
import pytest

from coupling.labels import Labels


def test_united_labels_form_a_class():
    labels = Labels()
    a, b, c = labels.fresh(3), labels.fresh(3), labels.fresh(2)
    labels.unite(a, b)
    labels.unite(b[:2], c)
    classes = labels.classes()
    assert classes.count == 3
    assert list(classes.of(a)) == list(classes.of(b))
    assert list(classes.of(c)) == list(classes.of(a[:2]))


def test_one_frozen_label_freezes_its_class_for_the_first_reason():
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    labels.freeze(a[:1], "early")
    labels.freeze(b, "late")
    labels.unite(a, b)
    assert labels.frozen_for(a) is None and labels.frozen_for(b) == "late"
    classes = labels.classes()
    assert list(classes.of(a)) == [-1, -1]
    assert classes.why(a) == {"early": 1, "late": 1}
    labels.freeze(a, "certain", first=True)
    assert labels.classes().why(b) == {"certain": 2}


def test_numbers_that_differ_are_not_united():
    labels = Labels()
    with pytest.raises(ValueError, match="3 labels cannot be united with 2"):
        labels.unite(labels.fresh(3), labels.fresh(2))


def test_no_labels_have_no_classes():
    assert Labels().classes().count == 0
    assert list(Labels().fresh(0)) == []
    assert np.array_equal(Labels().fresh(2), [0, 1])
