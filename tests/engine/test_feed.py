"""Feeding images in files: each image has its own labels and knowledge, also after a resume."""

import dataclasses
import types

import numpy as np
import pytest
from imagenet_files import pictures, write_folders

from dataloader.augment import DRAWS
from dataloader.imagenet import find_imagenet
from dataloader.images import EncodedImages
from engine.feed import Feed
from engine.options import TrainOptions
from engine.training import Progress, train

pytestmark = pytest.mark.long  # each traces the decoding of images
IMAGES = pictures(6)  # 24, class by class
BROKEN = 4
OPTIONS = TrainOptions(2, 0.1, (), 1.0, 0.0, batch_size=5, schedule="cosine", warm_up=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Labels and images, one of them broken; their decoding is traced once for all tests."""
    root = tmp_path_factory.mktemp("images")
    write_folders(root / "train", IMAGES)
    found = find_imagenet(str(root), ("train",))["train"]
    with open(found.files.path(BROKEN), "wb") as file:
        file.write(b"broken")
    images = EncodedImages(found.files, 32)
    images.report = lambda line: None
    return types.SimpleNamespace(labels=found.labels, images=images)


def feed_of(found, runtime, mib=0, indices=None):
    # Every value of a row is the index of its image.
    bank = np.arange(24, dtype=np.float16)[:, None, None] + np.zeros((24, 4, 2), np.float16)
    return Feed(
        {"images": found.images, "labels": found.labels, "bank": bank}, runtime, mib, indices
    )


def rows_of(feed, batch, name):
    """What the step sees of `name`, from the batch or from the table."""
    return np.asarray(feed.tables[name])[batch["rows"]] if name in feed.tables else batch[name]


@pytest.mark.parametrize("mib", [0, 64], ids=["host", "resident"])
@pytest.mark.parametrize(
    "subset", [None, np.array([9, BROKEN, 20, 3, 11, 0])], ids=["all", "subset"]
)
def test_labels_and_knowledge_are_those_of_the_image_that_is_shown(found, runtime, mib, subset):
    feed = feed_of(found, runtime, mib, subset)
    assert ("labels" in feed.tables) == (mib > 0) and "images" not in feed.tables
    groups = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    draws = [np.random.default_rng(0).random((3, 2, feed.draws), np.float32) for _ in groups]
    replaced = 0
    for rows, drawn, batch in zip(groups, draws, feed.batches(groups, iter(draws)), strict=True):
        images = rows if subset is None else subset[rows]
        shown = rows_of(feed, batch, "bank")[:, 0, 0].astype(int)
        np.testing.assert_array_equal(rows_of(feed, batch, "labels"), found.labels[shown])
        replaced += (shown != images).sum()
        assert (shown == images)[images != BROKEN].all() and BROKEN not in shown
        np.testing.assert_array_equal(batch["draws"], drawn[..., :DRAWS])
        again = feed.images.batches([shown], [drawn])
        np.testing.assert_array_equal(batch["images"], next(again)[1])
        again.close()
    assert replaced == 1


class Watcher:
    """A step that keeps what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch, learning_rate, **_):
        self.seen.append(
            (
                batch["images"].copy(),
                batch["labels"],
                batch["bank"],
                batch["draws"],
                float(learning_rate),
            )
        )
        return {"loss": 1.0, "accuracy": 0.0}, {}

    def several(self, batch, count, each, **_):
        for i in range(count):
            self({name: value[i] for name, value in batch.items()}, each["learning_rate"][i])
        return {"loss": np.ones(count), "accuracy": np.zeros(count)}


def seen(found, runtime, *, progress=None, stop_after=None, **settings):
    watcher, reached = Watcher(), []

    def after_call(progress):
        reached.append(dataclasses.replace(progress))
        if len(reached) == stop_after:
            raise KeyboardInterrupt

    try:
        train(
            watcher,
            feed_of(found, runtime),
            OPTIONS,
            seed=[1],
            progress=progress,
            after_call=after_call,
            **settings,
        )
    except KeyboardInterrupt:
        pass
    return watcher.seen, reached


@pytest.mark.parametrize(
    "settings",
    [{"views": 2}, {"views": 1, "augmented": False}, {"views": 1, "steps_per_call": 3}],
    ids=["two views", "centres", "three a call"],
)
def test_a_training_goes_on_within_an_epoch_as_if_it_had_not_been_interrupted(
    found, runtime, settings
):
    whole, _ = seen(found, runtime, **settings)
    assert len(whole) == 8  # 24 images, 4 batches of 5 an epoch
    begun, reached = seen(found, runtime, stop_after=2, **settings)
    assert "steps_per_call" in settings or (reached[-1].epoch, reached[-1].step) == (0, 2)
    rest, _ = seen(found, runtime, progress=reached[-1], **settings)
    for one, other in zip(whole, begun + rest, strict=True):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(found, runtime):
    steps, _ = seen(found, runtime)
    ids = [bank[:, 0, 0].astype(int) for _, _, bank, *_ in steps]
    first, second = (np.concatenate(ids[k : k + 4]) for k in (0, 4))
    # One image may be there twice, in place of the broken one.
    assert len(set(first)) >= 19 and (first != second).any()
    rates = [rate for *_, rate in steps]
    assert rates[:4] == pytest.approx([0.0125, 0.0375, 0.0625, 0.0875]) and rates[4] > rates[7] > 0


@pytest.mark.parametrize("call, progress", [(1, Progress()), (1, Progress(epoch=1, step=2))])
def test_each_step_of_a_call_has_its_own_rate(found, runtime, call, progress):
    one = [rate for *_, rate in seen(found, runtime, progress=dataclasses.replace(progress))[0]]
    many = [
        rate
        for *_, rate in seen(
            found, runtime, progress=dataclasses.replace(progress), steps_per_call=4
        )[0]
    ]
    assert one == many and len(set(one)) == len(one)
