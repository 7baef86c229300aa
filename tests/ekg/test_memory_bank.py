"""Which sub-networks teach, and whose row a row is."""

import os
import pathlib
import types

import numpy as np
import pytest

from dataloader.sampling import padded_batches, shuffled_batches
from ekg.memory_bank import BankFile, build, build_order, choose_teachers, open_bank, teachers_of
from utils import UserError


def history(*losses):
    return [types.SimpleNamespace(loss=loss) for loss in losses]


def test_teacher_0_is_the_best_and_all_are_distinct():
    assert choose_teachers([0.5, 0.1, 0.9, 0.3, 0.7], 5) == [1, 3, 0, 4, 2]
    assert choose_teachers([0.2, 0.2, 0.2], 2) == [0, 1]


def test_targets_are_k_and_end_below_the_largest_loss():
    """K = 2 over [0, 1]: targets 0 and 0.5, not 1."""
    assert choose_teachers([0.0, 0.55, 1.0], 2) == [0, 1]


def test_a_short_history_teaches_whole():
    assert [t.loss for t in teachers_of(history(0.3, 0.2, 9.0), 5)] == [0.2, 0.3]


def test_theta_star_teaches_only_where_it_is_the_unpruned_network():
    assert 0.1 not in [t.loss for t in teachers_of(history(0.3, 0.2, 0.1), 5)]
    assert [t.loss for t in teachers_of(history(0.4), 5)] == [0.4]


def test_sorted_labels_are_mixed_and_others_left_as_they_lie():
    labels = np.repeat(np.arange(10), 50)
    order = build_order(labels, [0, 4])
    assert sorted(order) == list(range(500)) and len(set(labels[order[:50]])) > 5
    np.testing.assert_array_equal(order, build_order(labels, [0, 4]))
    mixed = np.random.default_rng(0).permutation(labels)
    np.testing.assert_array_equal(build_order(mixed, [0, 4]), np.arange(500))


def begun(folder, shape):
    """The unfinished bank of `folder`."""
    folder.mkdir(exist_ok=True)
    return BankFile(str(folder / "unfinished.npy"), str(folder / "notes.json"), shape, 5)


def predictor(teachers):
    def predict(batch):
        """float32 [B, K, 2], logits that say which image and which teacher they are of."""
        ids, k = batch["id"][:, None], np.arange(teachers)
        return np.stack([ids + 0.25 * k, -ids - k], 2).astype(np.float32)

    return predict


@pytest.mark.parametrize("sort", [True, False])
def test_row_n_belongs_to_image_n_after_shuffling(tmp_path, sort):
    """Built in any order and in batches that do not divide, looked up by index in shuffled batches."""
    labels = np.sort(np.arange(23) % 4) if sort else np.arange(23) % 4
    order, ids = build_order(labels, [7]), np.arange(23)
    batches = [(order[slot[:real]], {"id": ids[order[slot]]}) for slot, real in padded_batches(23, 5)]
    path, shape = str(tmp_path / "bank.npy"), (23, 2, 3)
    new = begun(tmp_path, shape)
    build(new, batches, predictor(3))
    assert not os.path.exists(path)
    new.complete(path)
    bank = open_bank(path, shape)
    assert bank.dtype == np.float16 and bank.shape == (23, 2, 3) and isinstance(bank, np.memmap)
    for indices in shuffled_batches(23, 6, np.random.default_rng(1)):
        rows = bank[indices]
        for k in range(3):
            np.testing.assert_array_equal(rows[:, 0, k], indices + 0.25 * k)
            np.testing.assert_array_equal(rows[:, 1, k], -indices - k)
    np.testing.assert_array_equal(np.load(tmp_path / "bank.npy"), open_bank(tmp_path / "bank.npy", (23, 2, 3)))


def test_a_bank_goes_on_after_what_was_saved(tmp_path):
    """What came after the last saving may be lost or half there: it is computed again."""
    shape = (23, 2, 3)
    batches = [(slot[:real], {"id": slot}) for slot, real in padded_batches(23, 5)]
    whole = begun(tmp_path / "whole", shape)
    build(whole, batches, predictor(3))
    bank = begun(tmp_path, shape)
    build(bank, batches[:2], predictor(3))
    bank.save(seconds=7.5)
    build(bank, batches[2:3], predictor(3))
    bank.values[12] = 99  # killed in the middle of a batch
    again = begun(tmp_path, shape)
    assert (again.batches, again.seconds) == (2, 7.5)
    build(again, batches[again.batches :], predictor(3))
    np.testing.assert_array_equal(again.values, whole.values)


@pytest.mark.parametrize("damage", ["cut short", "another shape", "no bank", "strange notes", "too many", "no notes"])
def test_an_unfinished_bank_that_is_damaged_is_refused(tmp_path, damage):
    bank, shape = begun(tmp_path, (23, 2, 3)), (23, 2, 3)
    bank.save(seconds=1.0)
    path, notes = pathlib.Path(bank.path), pathlib.Path(bank.notes)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "another shape":
        shape = (23, 2, 4)
    elif damage == "no bank":
        path.unlink()
    elif damage == "too many":
        notes.write_text('{"batches": 6, "seconds": 1.0}')
    elif damage == "strange notes":
        notes.write_text("[]")
    else:
        notes.unlink()  # then there is nothing to trust, and it begins anew
        assert begun(tmp_path, shape).batches == 0
        return
    with pytest.raises(UserError, match=r"is damaged .*; delete .*notes.json to build the bank again"):
        begun(tmp_path, shape)


def test_logits_beyond_float16_stop_the_bank(tmp_path):
    batches = [(np.arange(2), {"id": np.array([1.0, 1e6])})]
    with pytest.raises(FloatingPointError, match="teacher 0"):
        build(begun(tmp_path, (2, 2, 1)), batches, predictor(1))


def test_another_bank_and_a_damaged_one_are_refused(tmp_path):
    path = tmp_path / "bank.npy"
    np.save(path, np.zeros((4, 2, 3), np.float16))
    with pytest.raises(UserError, match=r"expected float16 \[4, 2, 5\]"):
        open_bank(path, (4, 2, 5))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        open_bank(path, (4, 2, 3))
