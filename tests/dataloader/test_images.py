"""Batches of images in files: the right ones, in the order asked for, whatever is broken, and each
machine its own.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from imagenet_files import pictures, write_folders, write_shards
from processes import QUIET

from dataloader.augment import DRAWS
from dataloader.image_files import ImageFiles
from dataloader.imagenet import find_imagenet
from dataloader.images import EncodedImages, in_batches
from dataloader.views import CROP_DRAWS, centre_view
from utils import UserError

SIZE = 32
IMAGES = pictures(6)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folders(root / "folders" / "train", IMAGES)
    write_shards(root / "shards", "train", IMAGES, 5)
    return root


def images_of(root, form, **options):
    found = find_imagenet(str(root / form), ("train",))["train"]
    return (
        EncodedImages(found.files, SIZE, window=None if form == "folders" else 8, **options),
        found.labels,
    )


def draws_of(groups, views):
    rng = np.random.default_rng(1)
    return [rng.random((*group.shape, views, DRAWS + CROP_DRAWS), np.float32) for group in groups]


@pytest.mark.long
@pytest.mark.parametrize("form", ["folders", "shards"])
def test_batches_hold_the_images_asked_for(roots, form):
    images, labels = images_of(roots, form)
    groups = [np.array([3, 17, 3]), np.array([23, 0, 9]), np.array([1, 2, 4])]
    for group, (used, batch) in zip(groups, images.batches(groups), strict=True):
        assert (
            (used == group).all() and batch.dtype == np.uint8 and batch.shape == (3, SIZE, SIZE, 3)
        )
        for i, image in zip(group, batch):
            np.testing.assert_array_equal(image, centre_view(images.files.read(i), None, SIZE))
    assert sorted(labels) == sorted(label for label, *_ in IMAGES)
    by_label = {}
    for label, _, data in IMAGES:
        by_label.setdefault(label, set()).add(data)
    assert all(images.files.read(i) in by_label[label] for i, label in enumerate(labels))


@pytest.mark.long
@pytest.mark.parametrize("views", [1, 2])
def test_views_depend_on_their_draws_alone(roots, views):
    images, _ = images_of(roots, "folders")
    groups = [np.arange(8), np.arange(8, 16)]
    draws = draws_of(groups, views)
    batches = [batch for _, batch in images.batches(groups, draws)]
    assert batches[0].shape == (8, views, SIZE, SIZE, 3)
    turned = [group[::-1] for group in groups[::-1]], [drawn[::-1] for drawn in draws[::-1]]
    for batch, (_, again) in zip(batches[::-1], images.batches(*turned), strict=True):
        np.testing.assert_array_equal(batch[::-1], again)
    several = np.stack(groups)[None], [np.stack(draws)]
    (_, batch), *_ = images.batches(list(several[0]), several[1])
    np.testing.assert_array_equal(batch, np.stack(batches))


def test_a_stream_may_be_left_and_thousands_asked_for(roots):
    """Groups are taken a few ahead, not all at once; leaving ends the threads."""
    images, _ = images_of(roots, "folders")
    taken = []

    def groups():
        for k in range(10**6):
            taken.append(k)
            yield np.array([k % 24])

    with contextlib.closing(images.batches(groups())) as batches:
        for _ in range(3):
            next(batches)
    assert len(taken) < 12
    deadline = time.monotonic() + 10
    while (
        any("ThreadPoolExecutor" in thread.name for thread in threading.enumerate())
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not [
        thread.name for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name
    ]


# ------------------------------------------------------------------------------------------- broken


@pytest.fixture
def broken_root(tmp_path):
    """Images 2 (cut short), 3 (text) and 9 (not there any more) of the folders are broken."""
    write_folders(tmp_path / "train", IMAGES)
    paths = [tmp_path / "train" / name.split("_")[0] / name for _, name, _ in IMAGES]
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    paths[3].write_bytes(b"no image")
    found = find_imagenet(str(tmp_path), ("train",))["train"]
    paths[9].unlink()
    return found


@pytest.mark.long
@pytest.mark.parametrize("views", [0, 2])
def test_broken_images_are_named_counted_and_replaced_by_the_next(broken_root, views):
    images = EncodedImages(broken_root.files, SIZE)
    lines = []
    images.report = lines.append
    groups = [np.arange(k, k + 4) for k in (0, 4, 8, 12, 16)]
    draws = draws_of(groups, views) if views else None

    def seen():
        return [(used.tolist(), batch) for used, batch in images.batches(groups, draws)]

    first = seen()
    assert [used for used, _ in first] == [
        [0, 1, 0, 0],
        [4, 5, 6, 7],
        [8, 10, 10, 11],
        [12, 13, 14, 15],
        [16, 17, 18, 19],
    ]
    assert sorted(images.broken) == [2, 3, 9] and len(lines) == 3
    assert (
        IMAGES[3][1] in lines[1]
        and "neither a JPEG nor a PNG" in lines[1]
        and "(2 broken so far)" in lines[1]
    )
    assert "No such file" in lines[2]
    # Known to be broken or not, the images are the same: a run that goes on sees what an
    # uninterrupted one does.
    for (used, batch), (again, other) in zip(first, seen(), strict=True):
        assert used == again
        np.testing.assert_array_equal(batch, other)
    assert len(lines) == 3
    good = EncodedImages(broken_root.files, SIZE).batches(
        [np.array([0, 1, 0, 0])], draws and draws[:1]
    )
    np.testing.assert_array_equal(next(good)[1], first[0][1])


@pytest.mark.long
def test_an_evaluation_needs_every_image(broken_root):
    images = EncodedImages(broken_root.files, SIZE)
    with pytest.raises(
        UserError, match=rf"{IMAGES[2][1]} cannot be decoded: .*an evaluation needs every image"
    ):
        list(in_batches(images, [np.arange(4)], strict=True))


@pytest.mark.long
def test_a_batch_of_nothing_but_broken_images_ends_the_run(broken_root):
    images = EncodedImages(broken_root.files, SIZE)
    images.report = lambda line: None
    with pytest.raises(UserError, match="all 2 images are broken, the first because: "):
        list(images.batches([np.array([2, 3])], pool=np.array([3, 2])))


@pytest.mark.long
def test_where_a_whole_batch_is_broken_the_next_of_the_pool_stands_in(broken_root):
    images = EncodedImages(broken_root.files, SIZE)
    images.report = lambda line: None
    (used, _), (again, _) = images.batches([np.array([2, 3]), np.array([3, 2])])
    assert used.tolist() == [4, 4] and again.tolist() == [4, 4]
    ((used, _),) = images.batches([np.array([9])], pool=np.array([5, 9, 1]))
    assert used.tolist() == [1]


@pytest.mark.long
@pytest.mark.parametrize(
    "make",
    [lambda path: path.mkdir(), lambda path: os.mkfifo(path), lambda path: path.symlink_to(path)],
)
def test_what_is_no_file_is_broken(tmp_path, make):
    write_folders(tmp_path / "train", IMAGES)
    found = find_imagenet(str(tmp_path), ("train",))["train"]
    path = pathlib.Path(found.files.path(1))
    path.unlink()
    make(path)
    images = EncodedImages(found.files, SIZE)
    images.report = lambda line: None
    ((used, _),) = images.batches([np.array([0, 1])])
    assert used.tolist() == [0, 0] and list(images.broken) == [1]


@pytest.mark.long
def test_a_disk_that_fails_is_not_the_images_fault(roots, monkeypatch):
    images, _ = images_of(roots, "folders")

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(OSError, match="Input/output error"):
        list(images.batches([np.array([0, 1])]))
    assert not images.broken


def test_a_validation_set_is_looked_at_before_a_run(broken_root):
    good = EncodedImages(broken_root.files, SIZE)
    with pytest.raises(
        UserError,
        match=(
            rf"{IMAGES[3][1]} is neither a JPEG nor a PNG, BMP, GIF or WebP; an evaluation needs"
            " every image"
        ),
    ):
        good.check()
    with pytest.raises(UserError, match=rf"{IMAGES[9][1]} cannot be read: .*No such file"):
        EncodedImages(
            dataclasses.replace(broken_root.files, names=broken_root.files.names[4:]), SIZE
        ).check()


@pytest.mark.long
def test_a_stream_that_nobody_closes_does_not_keep_the_program(tmp_path):
    write_folders(tmp_path / "train", IMAGES)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\nimport numpy as np\nfrom dataloader.images"
        " import EncodedImages\nfrom dataloader.imagenet import find_imagenet\nfiles ="
        " find_imagenet(sys.argv[3], ('train',))['train'].files\nstream = EncodedImages(files,"
        " 32).batches([np.array([0, 1])] * 9)\nnext(stream)"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    run = [sys.executable, "-c", code, str(root), str(root / "tests"), str(tmp_path)]
    assert subprocess.run(run, env=QUIET, timeout=60).returncode == 0


# -------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("form", ["folders", "shards"])
@pytest.mark.parametrize("machines", [1, 2])
def test_an_epoch_has_each_machines_own_images_in_its_columns(roots, form, machines):
    images, _ = images_of(roots, form, share=(0, machines))
    order = images.shuffled_batches(4, np.random.default_rng(3))
    assert order.shape == (images.steps(4), 4) and len(set(order.reshape(-1))) == order.size
    for w in range(machines):
        assert (images.owner[order[:, images.columns(4) if w == 0 else slice(2, 4)]] == w).all()
    np.testing.assert_array_equal(order, images.shuffled_batches(4, np.random.default_rng(3)))
    assert (order != images.shuffled_batches(4, np.random.default_rng(4))).any()
    other, _ = images_of(roots, form, share=(machines - 1, machines))
    np.testing.assert_array_equal(order, other.shuffled_batches(4, np.random.default_rng(3)))


def test_images_of_shards_are_shuffled_within_the_window():
    """What is read next lies within `window` images of what would be next without shuffling."""
    count, each, window = 50, 40, 100
    names = np.array([b"s%d" % i for i in range(count)])
    zeros = np.zeros(count * each, np.int64)
    file = np.repeat(np.arange(count, dtype=np.int32), each)
    images = EncodedImages(ImageFiles("", names, file, zeros, zeros), SIZE, window=window)
    order = images.shuffled_batches(10, np.random.default_rng(0)).reshape(-1)
    assert sorted(order) == list(range(count * each))
    shards = file[order]
    first_seen = {shard: np.flatnonzero(shards == shard)[0] for shard in range(count)}
    spans = [np.flatnonzero(shards == shard)[-1] - start for shard, start in first_seen.items()]
    assert max(spans) <= each + 2 * window  # a shard is behind when it was read
    assert (
        np.corrcoef(np.arange(count), [first_seen[shard] for shard in range(count)])[0, 1] < 0.5
    )  # and they come in any order
    inside = [order[shards == shard] for shard in range(count)]
    assert sum((np.diff(ids) > 0).all() for ids in inside) == 0


@pytest.mark.long
@pytest.mark.parametrize("views", [0, 2])
def test_two_machines_decode_the_two_halves_of_what_one_does(roots, views):
    groups = [np.arange(8), np.arange(8, 16)]
    draws = draws_of(groups, views) if views else None
    whole = [batch for _, batch in images_of(roots, "folders")[0].batches(groups, draws)]
    for w in range(2):
        images, _ = images_of(roots, "folders", share=(w, 2))
        for batch, (used, part) in zip(whole, images.batches(groups, draws), strict=True):
            own = images.columns(8)
            np.testing.assert_array_equal(part[own], batch[own])
            assert part.shape == batch.shape and used.shape == (8,)
