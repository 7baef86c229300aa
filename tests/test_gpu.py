"""What a GPU computes, against the CPU: all steps, in every precision, compiled and not.

`make test-gpu` runs this alone and prints what to report. Elsewhere it is skipped, and GPUs are
hidden from all other tests, which are exact on CPUs.
"""

import time

import numpy as np
import pytest
import replicated
import tensorflow as tf
from test_replicas import off_by

from distribution.runtime import Runtime, hardware
from op_utils import statistics_step

pytestmark = pytest.mark.gpu

# The largest difference that may be, relative to the largest magnitude. In half precision and TF32
# it is what products of that many bits give; float32 sums in another order.
TOLERANCES = {"float32": 1e-4, "tf32": 0.01, "bfloat16": 0.05, "float16": 0.01}
# Their losses and parameters come after five steps, in which a rounding may grow.
TRAINED = {name: 4 * tolerance for name, tolerance in TOLERANCES.items()}
LEAST_CORRELATION = {"float32": 0.9999, "tf32": 0.95, "bfloat16": 0.9, "float16": 0.9}
REPORT = []  # lines to report, printed by conftest.py


def with_statistics(runtime):
    """The sums of the statistics step: float32 [all filters, twice]."""
    network = replicated.network_on(runtime)
    step = statistics_step(network, runtime, replicated.given)
    sums, _ = step({"images": replicated.PIXELS})
    return {"statistics": np.concatenate(tf.nest.flatten(sums["statistics"]))}


STEPS = {
    "scoring, prediction": replicated.scores_and_logits,
    "statistics": with_statistics,
    "training": replicated.trained,
    "distillation by a live teacher": replicated.taught,
}


def check(what, results, expected, precision):
    """The largest difference of each step's results, which is asserted to be in bounds."""
    worst = 0.0
    for name, value in results.items():
        if name in ("order", "scores"):
            continue  # by the sums that they come from
        assert value.dtype == expected[name].dtype and np.isfinite(value).all(), name
        if name == "signed":  # sums that nearly cancel
            found = np.corrcoef(value, expected[name])[0, 1]
            assert found >= LEAST_CORRELATION[precision], f"{name}: {found}"
            continue
        most = TRAINED if what in ("training", "distillation by a live teacher") else TOLERANCES
        worst = max(worst, off := off_by(value, expected[name]))
        assert off <= most[precision], f"{name}: {off}"
    return worst


@pytest.fixture(scope="module")
def on_cpu():
    """dict step -> its results on the CPU in float32, computed when they are first asked for."""
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"))
    found = {}

    def results(what):
        if what not in found:
            with tf.device("CPU:0"):
                found[what] = STEPS[what](runtime)
        return found[what]

    return results


@pytest.fixture(scope="module")
def on_gpu():
    """Function of a precision and compile to the Runtime of the first GPU."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    REPORT.append(f"{hardware()}, TensorFlow {tf.__version__}")
    REPORT.append("precision, XLA: largest differences from the CPU, seconds with the first call")
    return lambda precision, compile: Runtime(
        tf.distribute.get_strategy(), compile, precision=precision, gpu=True
    )


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("compile", [False, True], ids=["not compiled", "compiled"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_gpu_computes_what_the_cpu_does(on_cpu, on_gpu, precision, compile, what):
    expected, begin = on_cpu(what), time.perf_counter()
    label = f"{precision:8} {'XLA' if compile else '   '} {what:32}"
    try:
        worst = check(what, STEPS[what](on_gpu(precision, compile)), expected, precision)
    except Exception as error:
        REPORT.append(f"{label} FAILED: {str(error).splitlines()[0][:100]}")
        raise
    REPORT.append(f"{label} {worst:8.1e} {time.perf_counter() - begin:6.1f} s")
