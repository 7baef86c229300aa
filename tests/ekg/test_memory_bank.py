"""Which sub-networks teach, and whose row a row is."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from processes import addresses

from dataloader.sampling import shuffled_batches
from distribution.machines import Alone, Cluster, Meeting
from ekg.memory_bank import (
    bank_batches,
    build,
    build_order,
    choose_teachers,
    columns,
    plan_of,
    teachers_of,
)
from files.bank_file import BankFile, open_bank
from files.bank_rows import Dense, Top, row_codec
from utils import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
    other = np.repeat([3, 1, 0, 2], 50)  # sorted, in another order of classes
    assert len(set(other[build_order(other, [0, 4])[:50]])) == 4
    mixed = np.random.default_rng(0).permutation(labels)
    np.testing.assert_array_equal(build_order(mixed, [0, 4]), np.arange(500))


# -------------------------------------------------------------------- who computes which image when


@pytest.mark.parametrize("machines", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 6, 16, 100])
@pytest.mark.parametrize("count", [5, 6, 23, 64])
def test_every_image_is_an_entry_s_own_once_and_of_the_machine_that_has_it(count, size, machines):
    rng = np.random.default_rng(count * size + machines)
    order = rng.permutation(count)
    for owner in (
        None,
        np.arange(count) % machines,
        rng.permutation(np.minimum(np.arange(count), machines - 1)),
    ):
        batches = bank_batches(order, size, machines, owner)
        ids, own = map(np.stack, zip(*batches))
        assert ids.shape == own.shape == (len(batches), min(size, count)) and ids.dtype == np.int64
        assert sorted(ids[own]) == list(range(count))
        parts = [columns(ids.shape[1], machines, w) for w in range(machines)]
        assert np.concatenate([np.arange(ids.shape[1])[part] for part in parts]).tolist() == list(
            range(ids.shape[1])
        )
        if owner is None:
            np.testing.assert_array_equal(ids[own], order)
            np.testing.assert_array_equal(ids.reshape(-1)[count:], order[: ids.size - count])
            continue
        for w, part in enumerate(parts):
            assert (owner[ids[:, part]] == w).all()  # what fills up can be read there too
            np.testing.assert_array_equal(ids[:, part][own[:, part]], order[owner[order] == w])
        assert own.any(1).all()  # no batch more than the machine with most images needs


def test_other_batches_are_another_plan():
    order, owner = np.arange(24), np.arange(24) % 3
    ways = [
        (order, 6),
        (order, 8),
        (order[::-1], 6),
        (order, 6, 3, owner),
        (order, 6, 3, owner[::-1]),
        (order, 6, 2, owner // 2),
    ]
    assert len({plan_of(bank_batches(*way)) for way in ways}) == len(ways)
    assert plan_of(bank_batches(order, 6)) == plan_of(
        bank_batches(order, 6, 3)
    )  # all machines can read all


def test_a_machine_without_images_or_columns_is_named():
    with pytest.raises(ValueError, match="machine 1 of 3 has 2 of 6 columns, 0 images"):
        bank_batches(np.arange(9), 6, 3, np.arange(9) % 2 * 2)
    with pytest.raises(ValueError, match="machine 0 of 3 has 0 of 2 columns"):
        bank_batches(np.arange(9), 2, 3, np.arange(9) % 3)


# --------------------------------------------------------------------------------- written and read


def begun(folder, shape, **settings):
    """The unfinished bank of `folder`."""
    folder.mkdir(exist_ok=True)
    return BankFile(
        str(folder / "unfinished.npy"),
        str(folder / "notes.json"),
        shape,
        5,
        **{"machines": Alone()} | settings,
    )


def predictor(teachers):
    def predict(batch):
        """float32 [B, K, 2], logits that say which image and which teacher they are of."""
        ids, k = batch["id"][:, None], np.arange(teachers)
        return np.stack([ids + 0.25 * k, -ids - k], 2).astype(np.float32)

    return predict


def in_batches(order, size, here=slice(None)):
    """What `build` takes of the images `order`, `here` being the columns of this machine."""
    mine = np.zeros(min(size, len(order)), bool)
    mine[here] = True
    return [(ids, own & mine, {"id": ids}) for ids, own in bank_batches(order, size)]


@pytest.mark.parametrize("sort", [True, False])
def test_row_n_belongs_to_image_n_after_shuffling(tmp_path, sort):
    """Built in any order, in batches that do not divide; read by index in shuffled batches."""
    labels = np.sort(np.arange(23) % 4) if sort else np.arange(23) % 4
    path, shape = str(tmp_path / "bank.npy"), (23, 2, 3)
    new = begun(tmp_path, shape)
    build(new, in_batches(build_order(labels, [7]), 5), predictor(3))
    assert not os.path.exists(path)
    new.complete(path)
    bank = open_bank(path, shape)
    assert bank.dtype == np.float16 and bank.shape == (23, 2, 3) and len(bank) == 23
    for indices in shuffled_batches(23, 6, np.random.default_rng(1)):
        rows = bank[indices]
        for k in range(3):
            np.testing.assert_array_equal(rows[:, 0, k], indices + 0.25 * k)
            np.testing.assert_array_equal(rows[:, 1, k], -indices - k)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), bank[:])


@pytest.mark.parametrize("codec", [None, Top(7, 3, 2, 4.0)], ids=["dense", "top"])
def test_rows_are_found_as_in_an_array(tmp_path, codec):
    logits, shape = (
        np.random.default_rng(0).standard_normal((40, 3, 7)).astype(np.float16),
        (40, 7, 3),
    )
    new = begun(tmp_path, shape, codec=codec)
    for rows in np.split(
        np.random.default_rng(1).permutation(40), [13, 13, 30]
    ):  # the second has none
        new.add(rows, logits[rows])
    new.complete(str(tmp_path / "bank.npy"))
    bank, codec = open_bank(tmp_path / "bank.npy", shape, codec), codec or Dense(7, 3)
    whole = codec.decode(codec.encode(logits))
    for indices in (
        slice(None),
        slice(1),
        slice(30, 2, -7),
        5,
        [3, 3, 2, 4, 39, 0],
        np.arange(12).reshape(3, 2, 2),
        [],
        [[]],
    ):
        expected = whole[np.asarray(indices, int) if isinstance(indices, list) else indices]
        np.testing.assert_array_equal(bank[indices], expected)
        assert bank[indices].dtype == np.float16 and bank[indices].nbytes == expected.nbytes
    np.testing.assert_array_equal(np.asarray(bank), whole)
    assert np.asarray(bank, np.float32).dtype == np.float32
    for indices in (40, -1, [1.0], [True, False]):
        with pytest.raises(IndexError, match="numbered from 0 to 39"):
            bank[indices]


def test_threads_read_at_once(tmp_path):
    values = np.arange(500 * 6, dtype=np.float16).reshape(500, 2, 3)
    np.save(tmp_path / "bank.npy", values)
    bank, wrong = open_bank(tmp_path / "bank.npy", values.shape), []

    def read(seed):
        for rows in np.random.default_rng(seed).integers(0, 500, (200, 64)):
            if not np.array_equal(bank[rows], values[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bank_goes_on_after_what_was_saved(tmp_path):
    """What came after the last saving may be lost or half there: it is computed again."""
    shape, batches = (23, 2, 3), in_batches(np.arange(23), 5)
    whole = begun(tmp_path / "whole", shape)
    build(whole, batches, predictor(3))
    bank = begun(tmp_path, shape)
    build(bank, batches[:2], predictor(3))
    bank.save(seconds=7.5)
    build(bank, batches[2:3], predictor(3))
    bank.add(np.array([12]), np.full((1, 3, 2), 99, np.float16))  # killed in the middle of a batch
    again = begun(tmp_path, shape)
    assert (again.batches, again.seconds) == (2, 7.5)
    build(again, batches[again.batches :], predictor(3))
    assert pathlib.Path(again.path).read_bytes() == pathlib.Path(whole.path).read_bytes()


def test_a_disk_that_is_full_is_named_at_once_or_when_it_becomes_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bank = begun(tmp_path / "later", (23, 2, 3))
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*later/unfinished.npy"):
        build(bank, in_batches(np.arange(23), 5), predictor(3))
    with pytest.raises(OSError, match=r"No space left on device: .*once/unfinished.npy"):
        begun(tmp_path / "once", (23, 2, 3))
    assert not os.listdir(tmp_path / "once")


def test_nothing_is_noted_that_is_not_on_the_disk(tmp_path, monkeypatch):
    bank = begun(tmp_path, (23, 2, 3))
    build(bank, in_batches(np.arange(23), 5), predictor(3))

    def fsync(descriptor):
        assert os.path.samestat(
            os.fstat(descriptor), os.stat(bank.path)
        )  # before that of the notes
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    for save in (lambda: bank.save(1.0), lambda: bank.complete(str(tmp_path / "bank.npy"))):
        with pytest.raises(OSError, match=r"Input/output error: .*/unfinished.npy"):
            save()
    assert (
        json.loads((tmp_path / "notes.json").read_text())["batches"] == 0
        and not (tmp_path / "bank.npy").exists()
    )


def test_what_the_system_writes_and_reads_in_pieces_is_whole(tmp_path, monkeypatch):
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: pwrite(file, data[:7], place))
    monkeypatch.setattr(
        os, "preadv", lambda file, parts, place: preadv(file, [parts[0][:5]], place)
    )
    new = begun(tmp_path, (23, 2, 3))
    build(new, in_batches(np.arange(23), 5), predictor(3))
    new.complete(tmp_path / "bank.npy")
    bank = open_bank(tmp_path / "bank.npy", (23, 2, 3))
    np.testing.assert_array_equal(bank[:], np.load(tmp_path / "bank.npy"))
    np.testing.assert_array_equal(bank[:][:, 0, 0], np.arange(23))


def test_a_file_that_becomes_shorter_is_found_out_when_it_is_read(tmp_path):
    np.save(tmp_path / "bank.npy", np.zeros((4, 2, 3), np.float16))
    bank = open_bank(tmp_path / "bank.npy", (4, 2, 3))
    os.truncate(tmp_path / "bank.npy", 130)
    with pytest.raises(
        UserError, match=r"bank.npy is damaged \(it is shorter than when it was opened\); delete it"
    ):
        bank[[3]]


def test_a_disk_that_fails_is_named_when_it_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "bank.npy", np.zeros((4, 2, 3), np.float16))
    bank = open_bank(tmp_path / "bank.npy", (4, 2, 3))

    def preadv(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match=r"Input/output error: .*/bank.npy"):
        bank[[3]]


# --------------------------------------------------------------------------------- several machines


def on_machines(count, job):
    """What job(machines) gives, or the error it ends with, on each of `count` machines, threads
    that have met.
    """
    results = [None] * count
    where = tuple(addresses(count))

    def one(index):
        machines = None
        try:
            machines = Meeting(Cluster(where, index), 30, say=lambda line: None)
            results[index] = job(machines)
        except Exception as error:
            results[index] = error
        finally:
            if machines is not None:
                machines.close()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_each_machine_writes_its_own_rows_and_the_chief_the_notes(tmp_path):
    """Two machines, stopped after two batches and gone on with, write what one does."""
    shape, order = (23, 2, 3), build_order(np.sort(np.arange(23) % 4), [7])
    alone = begun(tmp_path / "alone", shape)
    build(alone, in_batches(order, 6), predictor(3))
    alone.complete(tmp_path / "alone" / "bank.npy")
    path, notes = tmp_path / "bank.npy", tmp_path / "notes.json"

    def work(machines):
        written, batches = [], in_batches(order, 6, columns(6, 2, machines.index))
        for some in (slice(2), slice(2, None)):
            bank = begun(tmp_path, shape, machines=machines)
            assert bank.batches == (0 if some.start is None else 2) == int(bank.seconds)
            add = bank.add
            bank.add = lambda rows, logits, add=add: (written.extend(rows), add(rows, logits))
            build(bank, batches[some], predictor(3))
            if some.start is None:
                bank.save(seconds=2.0)
                assert json.loads(notes.read_text())["batches"] == 2 if machines.chief else True
                machines.exchange(None)  # neither goes on before both have looked
        bank.complete(path)
        return written, open_bank(path, shape)[:]

    (ours, seen), (theirs, also) = on_machines(2, work)
    assert sorted(ours + theirs) == list(range(23)) and min(len(ours), len(theirs)) > 8
    np.testing.assert_array_equal(seen, also)
    assert path.read_bytes() == (tmp_path / "alone" / "bank.npy").read_bytes()


def test_a_machine_that_does_not_see_the_chief_s_file_ends_all(tmp_path):
    (tmp_path / "0").mkdir()
    said = on_machines(
        2, lambda machines: begun(tmp_path / str(machines.index), (23, 2, 3), machines=machines)
    )
    assert all(isinstance(error, UserError) for error in said), said
    assert all("1/unfinished.npy is not the chief's" in str(error) for error in said)
    # What is wrong with the chief's notes is said on all as well.
    (tmp_path / "0" / "notes.json").write_text("[]")
    said = on_machines(2, lambda machines: begun(tmp_path / "0", (23, 2, 3), machines=machines))
    assert all("not written by this program" in str(error) for error in said), said


# ------------------------------------------------------------------------------------------- memory


GROWTH = """
import sys
import numpy as np
from files.bank_file import BankFile, open_bank
from distribution.machines import Alone
from engine.memory import peak_rss_mib, reset_peak

count, folder = int(sys.argv[1]), sys.argv[2]
path, shape, rng = f"{folder}/{count}.npy", (count, 1000, 1), np.random.default_rng(0)
logits = rng.standard_normal((64, 1, 1000)).astype(np.float16)
reset_peak()
begin = peak_rss_mib()
bank = BankFile(f"{path}.part", f"{path}.json", shape, 200, machines=Alone(), reserve=False)
for _ in range(200):
    bank.add(rng.integers(0, count, 64), logits)
bank.save(0.0)
bank.complete(path)
bank = open_bank(path, shape)
for _ in range(200):
    bank[rng.integers(0, count, 64)]
print(peak_rss_mib() - begin)
"""


@pytest.mark.long
@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="memory is measured as Linux tells it"
)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """25 MiB of rows written and read; mapped, they would be resident."""
    growth = {}
    for count in (10_000, 1_000_000):
        command = [sys.executable, "-c", GROWTH, str(count), str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert run.returncode == 0, run.stderr
        growth[count] = float(run.stdout)
    assert growth[1_000_000] < growth[10_000] + 3 and growth[1_000_000] < 12, growth


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "damage",
    [
        "cut short",
        "another shape",
        "another codec",
        "other batches",
        "no bank",
        "strange notes",
        "too many",
        "no notes",
    ],
)
def test_an_unfinished_bank_that_is_damaged_is_refused(tmp_path, damage):
    bank, shape = begun(tmp_path, (23, 2, 3)), (23, 2, 3)
    bank.save(seconds=1.0)
    path, notes = pathlib.Path(bank.path), pathlib.Path(bank.notes)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "another shape":
        shape = (23, 2, 4)
    elif damage == "other batches":
        with pytest.raises(UserError, match=r"is damaged \(it was started with other batches\)"):
            begun(tmp_path, shape, plan=plan_of(bank_batches(np.arange(23), 5)))
        return
    elif damage == "another codec":
        with pytest.raises(
            UserError, match=r"unfinished.npy is damaged \(it is float16 \[23, 2, 3\], expected "
        ):
            begun(tmp_path, shape, codec=Top(2, 3, 1, 4.0))
        return
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
    with pytest.raises(
        UserError, match=r"is damaged .*; delete .*notes.json to build the bank again"
    ):
        begun(tmp_path, shape)


def test_logits_beyond_float16_stop_the_bank(tmp_path):
    batches = [
        (np.arange(2), np.array([True, False]), {"id": np.array([1.0, 1e6])})
    ]  # the one that another machine writes
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
    np.save(path, np.asfortranarray(np.zeros((4, 2, 3), np.float16)))
    with pytest.raises(UserError, match="its array is in Fortran order"):
        open_bank(path, (4, 2, 3))
    with pytest.raises(UserError, match="No such file"):
        open_bank(tmp_path / "none.npy", (4, 2, 3))


# ------------------------------------------------------------------------- the largest logits alone


def probabilities(logits, temperature):
    """float64 [n, K, classes] of logits [n, classes, K]."""
    exponents = logits.astype(np.float64).transpose(0, 2, 1) / temperature
    powers = np.exp(exponents - exponents.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "classes, top, temperature",
    [(10, 3, 4.0), (1000, 50, 10.0), (1000, 999, 10.0), (70_000, 20, 10.0)],
)
def test_the_largest_logits_stay_and_the_others_share_what_is_left(classes, top, temperature):
    rng = np.random.default_rng(classes)
    logits = (4 * rng.standard_normal((6, 2, classes))).astype(np.float16)
    codec = row_codec(classes, 2, top, temperature)
    rows = codec.encode(logits)
    assert rows.shape == (6, 2) and rows.dtype.itemsize == top * (4 if classes <= 2**16 else 6) + 2
    dense, kept = logits.transpose(0, 2, 1), codec.decode(rows)
    assert kept.shape == dense.shape and kept.dtype == np.float16 and np.isfinite(kept).all()
    chosen = rows["classes"].astype(int)
    for n in range(6):
        for k in range(2):
            np.testing.assert_array_equal(
                chosen[n, k], np.argsort(-dense[n, :, k].astype(np.float32), kind="stable")[:top]
            )
    mask = np.zeros(logits.shape, bool)
    np.put_along_axis(mask, chosen, True, 2)
    np.testing.assert_array_equal(kept.transpose(0, 2, 1)[mask], logits[mask])
    p, q = probabilities(dense, temperature), probabilities(kept, temperature)
    np.testing.assert_allclose(q[mask], p[mask], rtol=3e-3)
    # What is lost is how the others share their part: their divergence from equal shares.
    tail = np.where(mask, 0, p)
    mass = tail.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(mask, 0, p * np.log(p * (classes - top) / mass[..., None])).sum(-1)
    np.testing.assert_allclose((p * np.log(p / q)).sum(-1), own, rtol=1e-3, atol=2e-5)


def test_of_equal_logits_the_lower_class_is_kept():
    logits = np.array([0, -0.0, 1, -1, 0.0, 1, -1], np.float16)[None, None]
    assert Top(7, 1, 4, 4.0).encode(logits)["classes"].tolist() == [[[2, 5, 0, 1]]]
    assert Top(7, 1, 6, 4.0).encode(logits)["classes"].tolist() == [[[2, 5, 0, 1, 4, 3]]]


def test_the_largest_numbers_of_float16_stay_finite():
    most = np.finfo(np.float16).max
    logits = np.array([[most, -most, -most, -most], [-most] * 4, [most] * 4], np.float16)[:, None]
    codec = Top(4, 1, 1, 10.0)
    np.testing.assert_array_equal(codec.decode(codec.encode(logits)).transpose(0, 2, 1), logits)


def test_as_many_as_there_are_classes_is_all_and_none_is_refused():
    assert isinstance(row_codec(10, 3, 10, 4.0), Dense) and isinstance(row_codec(10, 3), Dense)
    with pytest.raises(ValueError, match="top is 0, expected 1 to 9"):
        row_codec(10, 3, 0, 4.0)


def test_a_bank_of_another_top_is_refused_and_a_class_that_is_none_found_out(tmp_path):
    path, shape = tmp_path / "bank.npy", (4, 10, 2)
    rows = Top(10, 2, 3, 4.0).encode(np.zeros((4, 2, 10), np.float16))
    np.save(path, rows)
    assert open_bank(path, shape, Top(10, 2, 3, 4.0))[:].shape == shape
    for codec in (Top(10, 2, 4, 4.0), None):
        with pytest.raises(UserError, match=r"bank.npy is damaged .*expected"):
            open_bank(path, shape, codec)
    rows["classes"][2, 1, 0] = 10
    np.save(path, rows)
    with pytest.raises(UserError, match=r"bank.npy is damaged .*; delete it"):
        open_bank(path, shape, Top(10, 2, 3, 4.0))[[2]]
