"""Shared by all tests: TensorFlow without its greetings, small networks, one-device runtimes."""

import signal

import numpy as np
import pytest

from distribution.startup import import_tensorflow

import_tensorflow()

# A shell without job control starts what is in its background to ignore Ctrl-C; tests and their
# processes are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import tensorflow as tf  # noqa: E402

# Before anything runs: strategies of several CPU replicas need logical devices.
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)

from networks import randomised  # noqa: E402

from distribution.runtime import Runtime  # noqa: E402
from nets import build_network  # noqa: E402


@pytest.fixture
def runtime():
    """One device, not compiled, batches in one part."""
    return Runtime(tf.distribute.get_strategy())


@pytest.fixture
def network():
    """A ResNet-20 whose every array is random, so that no BN hides a filter and no block is the
    identity.
    """
    return build_network(
        "ResNet-20", 10, 32, randomised(build_network("ResNet-20", 10, 32).parameters(), 0)
    )


@pytest.fixture
def images():
    """float32 [16, 32, 32, 3], standardised."""
    return np.random.default_rng(1).standard_normal((16, 32, 32, 3)).astype(np.float32)
