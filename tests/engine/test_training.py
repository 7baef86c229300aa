"""The training loop: same results for any number of steps per call and any place of the data."""

import dataclasses

import numpy as np
import pytest
from trainings import OPTIONS

from dataloader import AUGMENTATIONS
from dataloader.augment import augment
from ekg.contrastive import contrastive_loss
from engine.feed import Feed
from engine.training import train
from nets import build_network
from op_utils import Optimizer, training_step

pytestmark = pytest.mark.long


def arrays(count):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.permutation(count) % 10
    return {
        "images": images,
        "labels": labels,
        "bank": rng.standard_normal((count, 10, 3)).astype(np.float16),
    }


def trained(runtime, steps_per_call, mib, count=26):
    """(parameters, records, figures of every step) of two epochs of 4 steps of distillation."""
    network, feed = build_network("ResNet-8", 10, 32), Feed(arrays(count), runtime, mib)
    prepare = lambda batch: augment(
        batch["images"], batch["draws"], AUGMENTATIONS["CIFAR10"], colour=True
    )
    step = training_step(
        network,
        Optimizer(network.trainable, runtime),
        runtime,
        prepare,
        contrastive_loss,
        feed.tables,
    )
    figures, records = [], []
    hooks = dict(
        on_step=lambda *at: figures.append(at), on_epoch=lambda record, _: records.append(record)
    )
    train(step, feed, OPTIONS, seed=[1, 2], views=2, steps_per_call=steps_per_call, **hooks)
    assert step.traces == 1
    return network.parameters(), [{**record, "seconds": None} for record in records], figures


@pytest.fixture(scope="module")
def reference():
    from distribution.runtime import Runtime, tf

    return trained(Runtime(tf.distribute.get_strategy()), 1, 0)


@pytest.mark.parametrize(
    "steps_per_call, mib",
    [(3, 0), (1, 100), (50, 100)],
    ids=["three a call", "resident", "both, one call"],
)
def test_steps_a_call_and_place_of_the_data_change_nothing(runtime, reference, steps_per_call, mib):
    """To the bit: 4 steps an epoch in calls of 3 and 1, or in one; images, labels and bank from the
    host or on the device.
    """
    parameters, records, figures = trained(runtime, steps_per_call, mib)
    assert (
        records == reference[1]
        and figures == reference[2]
        and [number for number, _ in figures] == list(range(1, 9))
    )
    assert all((parameters[name] == array).all() for name, array in reference[0].items())


def test_what_fits_is_resident(runtime):
    data = arrays(100)  # images 0.29 MiB, labels and bank 7 KiB
    assert not Feed(data, runtime).tables  # a CPU's memory is the host's
    assert not Feed(data, dataclasses.replace(runtime, gpu=True)).tables
    assert set(Feed(data, dataclasses.replace(runtime, gpu=True, compile=True)).tables) == {
        "images",
        "labels",
        "bank",
    }
    feed = Feed(data | {"images": np.zeros((100, 64, 64, 3), np.uint8)}, runtime, mib=1)  # 1.2 MiB
    assert set(feed.tables) == {"labels", "bank"}
    batch = feed(np.array([[3, 1], [0, 2]]))
    assert batch["images"].shape == (2, 2, 64, 64, 3) and batch["rows"].dtype == np.int32
    assert set(batch) == {"images", "rows"}
    np.testing.assert_array_equal(feed.tables["bank"], data["bank"])


@pytest.mark.parametrize("mib", [0, 64])
def test_a_subset_is_numbered_from_0(runtime, mib):
    data, subset = arrays(20), np.array([7, 3, 19, 4])
    feed = Feed(data, runtime, mib, subset)
    assert feed.count == 4
    batch = feed(np.array([2, 0]))
    labels = feed.tables["labels"].numpy()[batch["rows"]] if mib else batch["labels"]
    np.testing.assert_array_equal(labels, data["labels"][[19, 7]])


@pytest.mark.parametrize(
    "change", [{"accum": 2}, pytest.param({"compile": True}, marks=pytest.mark.slow)], ids=str
)
def test_resident_data_in_parts_and_compiled(runtime, change):
    runtime = dataclasses.replace(runtime, **change)
    resident, host = (trained(runtime, steps, mib, count=6) for steps, mib in ((2, 64), (1, 0)))
    for (_, ours), (_, theirs) in zip(resident[2], host[2]):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_at_its_step(runtime):
    steps = []

    class Breaks:
        def __init__(self):
            self.runtime = runtime

        def several(self, batch, count, each, **shared):
            losses = np.where(np.arange(count) + len(steps) == 2, np.nan, 1.0)
            return {"loss": losses, "accuracy": np.zeros(count)}

    hooks = dict(on_step=lambda number, figures: steps.append(number))
    with pytest.raises(FloatingPointError, match="epoch 1, step 3"):
        train(
            Breaks(),
            Feed(arrays(26), runtime, 0),
            OPTIONS,
            seed=[0],
            views=2,
            steps_per_call=4,
            **hooks,
        )
    assert steps == [1, 2]
