"""Every step and a short search on a small network, on any runtime: what the tests of replicas,
parts and compilation compare.

Run as a program, `replicated.py N sync|local FILE`, it splits the CPU into N replicas and writes
the results to an .npz: a process can hold MirroredStrategies of one size only.
"""

import pathlib
import sys

import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

from distribution.startup import import_tensorflow  # noqa: E402

import_tensorflow()

import keras  # noqa: E402
import keras_models  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras_models import conv_bn  # noqa: E402
from networks import randomised  # noqa: E402

from coupling.prunable import PrunableModel  # noqa: E402
from distribution.machines import Alone  # noqa: E402
from distribution.runtime import make_runtime  # noqa: E402
from distribution.step import on_devices  # noqa: E402
from ekg.contrastive import contrastive_loss, taught_loss  # noqa: E402
from ekg.importance import importance, ranks  # noqa: E402
from ekg.knowledge import reward_loss  # noqa: E402
from ekg.search import Greedy  # noqa: E402
from ekg.sub_networks import SubNetworks  # noqa: E402
from ekg.validation import Validation  # noqa: E402
from engine.options import DeviceOptions, SearchOptions  # noqa: E402
from nets.initial import Arrays  # noqa: E402
from nets.resnet import CifarResNet  # noqa: E402
from op_utils import Optimizer, Rescaled, predicting_step, scoring_step, training_step  # noqa: E402

SIZE, IMAGES, STEPS = 8, 16, 5
rng = np.random.default_rng(0)
# Small images: in a million activations some ReLU input lies so near 0 that rounding decides on its
# side.
PIXELS = rng.standard_normal((IMAGES, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.arange(IMAGES) % 10
KNOWLEDGE = rng.standard_normal((IMAGES, 10)).astype(np.float32)
# Teacher 1 is all but the top and always counts, teacher 2 is far from it and never does, whatever
# part of the batch decides.
TOP = rng.standard_normal((IMAGES, 10))
BANK = np.stack([TOP, TOP + 1e-3 * rng.standard_normal(TOP.shape), -30 * TOP], -1).astype(
    np.float16
)


def small_network(parameters=None):
    """A ResNet of one block a stage with random arrays everywhere, so that no BN hides a filter."""
    if parameters is None:
        parameters = randomised(small_network({}).parameters(), 1)
    return CifarResNet(
        "ResNet-8",
        10,
        SIZE,
        Arrays(parameters or None, origin="test", arch="ResNet-8", seed=0),
        blocks=1,
    )


def given(batch):
    return batch["images"]


def both_ways(batch):
    return tf.stack([batch["images"], batch["images"][:, :, ::-1]], 1)


def network_on(runtime):
    with runtime.strategy.scope():
        return small_network()


def keras_model_on(runtime):
    """The same kind of network as a Keras model."""
    with runtime.strategy.scope():
        x = i = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.ReLU()(conv_bn(x, 8, "a"))
        x = keras.layers.Add()([x, conv_bn(keras.layers.ReLU()(conv_bn(x, 6, "b")), 8, "c")])
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
        x = keras.layers.Dense(10, name="logits")(keras.layers.Dropout(0.3)(x))
        return PrunableModel(keras_models.randomised(keras.Model(i, x)))


def scores_and_logits(runtime, make=network_on):
    """Signed sums, order and logits of the scoring step; bank logits before float16; logits on
    moving averages.

    make: function of a Runtime to a network on it.
    """
    network = make(runtime)
    masks = (np.random.default_rng(4).random(network.gate_sizes.sum()) < 0.8).astype(np.float32)
    batch = {
        "images": PIXELS,
        "labels": LABELS,
        "knowledge": KNOWLEDGE,
        "weights": np.full(IMAGES, 1 / IMAGES, np.float32),
    }
    step = scoring_step(network, runtime, given, reward_loss)
    score = Rescaled(step) if runtime.precision == "float16" else step
    sums, _ = score(batch, masks=masks)
    scores = importance([tf.nest.map_structure(np.asarray, sums["signed"])])
    predicting = predicting_step(network, runtime, given)
    # Three sub-networks, the first as it was scored, the others with a gate less of it.
    some = np.stack(
        [
            masks,
            masks * (np.arange(len(masks)) != 3),
            masks * (np.arange(len(masks)) != len(masks) - 5),
        ]
    )
    return {
        "signed": np.concatenate(tf.nest.flatten(sums["signed"])),
        "scores": scores,
        "order": ranks(scores, network.gate_sizes),
        "bank logits": SubNetworks(network, runtime, given, 4)({"images": PIXELS}, some),
        "moving logits": predicting({"images": PIXELS})[1]["logits"].numpy(),
    }


def trained(runtime, make=network_on):
    """Losses and parameters of STEPS steps of distillation: two called one by one, the others in
    one call.

    Labels and bank lie on the devices, in another order than the images' in the batch. make: as in
    scores_and_logits.
    """
    network = make(runtime)
    rows = np.random.default_rng(5).permutation(IMAGES)
    back = np.argsort(rows)
    tables = on_devices(
        {"labels": LABELS[back], "bank": BANK[back], "bytes": np.zeros(IMAGES, np.uint8)}, runtime
    )
    step = training_step(
        network, Optimizer(network.trainable, runtime), runtime, both_ways, contrastive_loss, tables
    )
    batch, shared = (
        {"images": PIXELS, "rows": rows.astype(np.int32)},
        {"learning_rate": 0.01, "weight_decay": 5e-4},
    )
    losses = [float(step(batch, **shared)[0]["loss"]) for _ in range(2)]
    more = STEPS - 2
    # One batch more than is asked for, which changes nothing.
    each = {"learning_rate": np.full(more + 1, shared.pop("learning_rate"), np.float32)}
    losses += list(
        step.several(
            {k: np.stack([v] * (more + 1)) for k, v in batch.items()}, more, each, **shared
        )["loss"].numpy()
    )
    assert step.traces == 2 and len(losses) == STEPS
    for variable in network.trainable:
        copies = [
            np.asarray(copy) for copy in runtime.strategy.experimental_local_results(variable)
        ]
        assert all((copy == copies[0]).all() for copy in copies), (
            f"replicas differ in {variable.name}"
        )
    return {"losses": np.array(losses), **network.parameters()}


def taught(runtime):
    """Loss and parameters after a step with a live teacher, which every replica asks about its own
    views.
    """
    network = network_on(runtime)
    with runtime.strategy.scope():
        teacher = small_network(
            {name: array[..., ::-1] for name, array in network.parameters().items()}
        )
    step = training_step(
        network,
        Optimizer(network.trainable, runtime),
        runtime,
        both_ways,
        taught_loss,
        teacher=teacher,
    )
    loss = step({"images": PIXELS[::-1], "labels": LABELS}, learning_rate=0.01, weight_decay=5e-4)[
        0
    ]["loss"]
    after = {
        f"taught {name}": value
        for name, value in network.parameters().items()
        if name.endswith("kernel:0")
    }
    return {"taught loss": np.asarray(loss), **after}


def searched(runtime, target_rate=0.75):
    """FLOPs, widths and taken gates of a short search."""
    network = network_on(runtime)
    on_val = Validation(network, runtime, given, PIXELS, LABELS, IMAGES)
    search = Greedy(
        network, LABELS, on_val.importance, on_val.predict, SearchOptions(target_rate, 0.2, "none")
    )
    state, record = search.start()
    records = [record]
    while not search.done(state):
        records.append(search.advance(state))
    names = [gate.name for gate in network.gates]
    return {
        "gates": np.array([names.index(record["gate"]) for record in records[1:]]),
        "widths": np.array([record["widths"] for record in records]),
        "flops": np.array([record["flops"] for record in records]),
        "search losses": np.array([record["loss"] for record in records]),
    }


def all_results(runtime):
    return scores_and_logits(runtime) | trained(runtime) | taught(runtime) | searched(runtime)


if __name__ == "__main__":
    replicas, statistics, path = sys.argv[1:]
    asked = DeviceOptions(None, int(replicas), False, 1, "float32", statistics == "sync")
    runtime, _ = make_runtime(asked, Alone())
    assert runtime.replicas == int(replicas)
    np.savez(path, **all_results(runtime))
