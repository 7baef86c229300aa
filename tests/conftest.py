"""Shared by all tests: TensorFlow without its greetings and GPUs, small networks, one-device
runtimes.
"""

import functools
import gc
import os
import signal
import sys

import numpy as np
import pytest
from networks import randomised

from nets import build_network

# A shell without job control starts what is in its background to ignore Ctrl-C; tests and their
# processes are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With pytest -n 2, two processes share the cores: each computes with one thread, and so do the
# programs it starts. TensorFlow reads this when it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# pytest -n 2 starts the files in this order: a file that is long and late leaves a core idle.
FIRST = (
    "test_replicas.py",
    "test_analyze.py",
    "test_pipeline.py",
    "test_several_machines.py",
    "test_killed.py",
    "test_errors.py",
    "test_export_program.py",
    "test_imagenet_run.py",
    "test_published.py",
)


def meant_for_gpus(config):
    """Whether only tests for GPUs were asked for: `pytest -m gpu`."""
    return config.option.markexpr.strip() == "gpu"


def draw_plots(folder, search, training, filters, kept, has_teacher=True):
    """engine.plots.write_plots without its files."""
    from engine.plots import drawn, plotting

    with plotting() as subplots:
        drawn(subplots, search, training, filters, kept, has_teacher)
    return "plots are not written"


def pytest_configure(config):
    """Hides GPUs, from processes that tests start too: tests are exact, and golden values are those
    of CPUs.

    Starts TensorFlow wherever tests run: not where pytest -n only hands them out, because its
    processes would inherit the log level that import_tensorflow sets.
    """
    if getattr(config.option, "numprocesses", None):
        return
    if not meant_for_gpus(config):
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            os.environ[name] = "-1"
    from distribution.startup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    if meant_for_gpus(config):
        return
    from ekg import stages

    # A run ends with a table of latencies, which no test needs exact, and with plots. Those are
    # drawn, but written only for the tests that look at them.
    stages.CALLS = stages.CALLS_FOR_TARGET = 3
    stages.write_plots = draw_plots
    # No test survives a power cut.
    os.fsync = lambda descriptor: None
    tf.config.set_visible_devices([], "GPU")
    # Before anything runs: strategies of several CPU replicas need logical devices.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)


def pytest_collection_modifyitems(config, items):
    def place(item):
        name = item.path.name
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)
    reason = "GPUs are hidden from tests; make test-gpu"
    if meant_for_gpus(config):
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return
        reason = "TensorFlow finds no GPU here"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session):
    """Lets Python's garbage collector run less often, and not over what is there before the first
    test. Collecting took a twelfth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_terminal_summary(terminalreporter, config):
    """Prints what `make test-gpu` found, to be reported."""
    report = getattr(sys.modules.get("test_gpu"), "REPORT", [])
    if report:
        terminalreporter.section("please report this")
        for line in report:
            terminalreporter.line(line)


@pytest.fixture
def runtime():
    """One device, not compiled, batches in one part."""
    import tensorflow as tf

    from distribution.runtime import Runtime

    return Runtime(tf.distribute.get_strategy())


@functools.cache
def random_arrays(arch):
    """Every array random, so that no BN hides a filter and no block is the identity."""
    return randomised(build_network(arch, 10, 32).parameters(), 0)


@pytest.fixture
def network():
    """A ResNet-20 of random arrays."""
    return build_network("ResNet-20", 10, 32, random_arrays("ResNet-20"))


@pytest.fixture
def resnet_8():
    """A ResNet-8 of random arrays: a first step takes a third of ResNet-20's time."""
    return build_network("ResNet-8", 10, 32, random_arrays("ResNet-8"))


@pytest.fixture
def images():
    """float32 [16, 32, 32, 3], standardised."""
    return np.random.default_rng(1).standard_normal((16, 32, 32, 3)).astype(np.float32)
