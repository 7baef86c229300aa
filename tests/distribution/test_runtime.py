"""Which devices a command gets, and what it is told about them."""

import pytest
import tensorflow as tf

from distribution.machines import Alone
from distribution.runtime import Runtime, choose_gpus, make_runtime
from engine.options import DeviceOptions
from utils import UserError


def asked(**flags):
    return DeviceOptions(
        **{"gpu_id": None, "cpu_replicas": None, "compile": None, "accum": 1} | PLAIN | flags
    )


PLAIN = {"precision": "float32", "sync_bn": False}


class Two(Alone):
    """Two machines of which this is the first."""

    addresses = ("a:1", "b:1")

    def exchange(self, value):
        return [value, value]


@pytest.fixture
def no_gpu(monkeypatch):
    """The machine that runs the tests may have one."""
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: [] if kind == "GPU" else CPUS
    )
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)


CPUS = tf.config.list_physical_devices("CPU")


def test_one_cpu_is_the_default_strategy_not_compiled_in_float32(no_gpu):
    runtime, lines = make_runtime(asked(), Alone())
    assert runtime.strategy is tf.distribute.get_strategy() and not lines
    assert (runtime.compile, runtime.accum, runtime.dtype, runtime.synchronises) == (
        False,
        1,
        tf.float32,
        False,
    )


def test_cpu_replicas_split_the_cpu(no_gpu, monkeypatch):
    monkeypatch.setattr("distribution.runtime.cpu_info", dict)
    runtime, lines = make_runtime(asked(cpu_replicas=2, accum=3, precision="bfloat16"), Alone())
    assert (runtime.replicas, runtime.parts, runtime.dtype, lines) == (2, 6, tf.bfloat16, [])
    assert runtime.strategy.extended.worker_devices == (
        "/job:localhost/replica:0/task:0/device:CPU:0",
        "/job:localhost/replica:0/task:0/device:CPU:1",
    )
    assert make_runtime(asked(cpu_replicas=1), Alone())[0].strategy is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "flags, machines, message",
    [
        ({"cpu_replicas": 2, "gpu_id": [0]}, Alone(), "--cpu_replicas splits the CPU"),
        ({"cpu_replicas": 2}, Two(), "leave --cpu_replicas out"),
        ({"sync_bn": True, "accum": 2}, Alone(), "--sync_bn needs a replica's whole batch"),
    ],
)
def test_devices_that_contradict_each_other_are_refused(no_gpu, flags, machines, message):
    with pytest.raises(UserError, match=message):
        make_runtime(asked(**flags), machines)


def test_machines_with_other_numbers_of_gpus_are_refused(no_gpu):
    machines = Two()
    machines.exchange = lambda value: [value, 2]
    with pytest.raises(UserError, match="use 0, 2 GPUs"):
        make_runtime(asked(), machines)


@pytest.mark.parametrize(
    "flags, lines",
    [
        ({"gpu_id": [3]}, ["--gpu_id 3: this machine has no GPU, the CPU is used"]),
        ({"sync_bn": True}, ["--sync_bn has no effect: there is only one replica"]),
        ({"sync_bn": True, "cpu_replicas": 2}, []),
        (
            {"sync_bn": True, "cpu_replicas": 2, "compile": True},
            [
                "--sync_bn: steps that use batch statistics are not compiled, because they exchange"
                " data between replicas in the forward pass"
            ],
        ),
    ],
)
def test_what_a_flag_does_not_do_is_said(no_gpu, flags, lines):
    assert make_runtime(asked(**flags), Alone())[1] == lines


@pytest.mark.parametrize(
    "info, precision, said",
    [
        ({"flags": "fma avx2"}, {"precision": "bfloat16"}, True),
        ({"flags": "fma avx2"}, {"search_precision": "bfloat16"}, True),
        ({"flags": "fma avx2"}, {"precision": "float16"}, False),
        ({"flags": "fma avx2 avx512bw"}, {"precision": "bfloat16"}, False),
        ({"flags": "fma avx2 avx_ne_convert"}, {"precision": "bfloat16"}, False),
        ({"Features": "fp asimd"}, {"precision": "bfloat16"}, False),
    ],
)
def test_bfloat16_that_is_slow_is_said(no_gpu, monkeypatch, info, precision, said):
    monkeypatch.setattr("distribution.runtime.cpu_info", lambda: info)
    lines = make_runtime(asked(**precision), Alone())[1]
    assert [line.split()[0] for line in lines] == ["bfloat16"] * said


def test_batches_that_do_not_divide_are_refused():
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    Runtime(mirrored, accum=4).check_batch("--batch_size", 128)
    with pytest.raises(
        UserError, match="--batch_size: a batch of 126 does not divide into 2 replicas x 4 --accum"
    ):
        Runtime(mirrored, accum=4).check_batch("--batch_size", 126)


def test_channels_are_filled_up_where_onednn_computes():
    """To what docs/performance.md measured; in float32 never to fewer than the 8 that a search
    needs for its rounding.
    """
    one = tf.distribute.get_strategy()
    on_cpu = {
        name: Runtime(one, precision=name).channel_multiple(masked=False)
        for name in ("float32", "bfloat16", "float16")
    }
    assert on_cpu == {"float32": 8, "bfloat16": 16, "float16": 1}
    assert Runtime(one).channel_multiple(masked=True) == 8
    assert Runtime(one, gpu=True).channel_multiple(masked=False) == 1
    assert {Runtime(one, compile=True).channel_multiple(masked) for masked in (True, False)} == {1}
    assert Runtime(one, compile=True, multiple=4).channel_multiple(masked=True) == 4


@pytest.mark.parametrize(
    "requested, available, chosen",
    [
        (None, 0, []),
        (None, 1, [0]),
        (None, 4, [0]),
        ([0], 0, []),
        ([3], 0, []),
        ([1], 2, [1]),
        ([0, 1], 2, [0, 1]),
        ([2, 0], 4, [0, 2]),
        ([1, 1], 2, [1]),
    ],
)
def test_choice_of_gpus(requested, available, chosen):
    assert choose_gpus(requested, available) == chosen


@pytest.mark.parametrize(
    "requested, available, missing, there", [([1], 1, "1", "0"), ([0, 5], 3, "5", "0, 1, 2")]
)
def test_gpus_that_are_not_there_are_answered_with_those_that_are(
    requested, available, missing, there
):
    with pytest.raises(UserError) as refusal:
        choose_gpus(requested, available)
    assert f"--gpu_id {missing}:" in str(refusal.value) and str(refusal.value).endswith(f" {there}")
