"""Times of calls that take turns."""

import numpy as np

from engine.latency import LEAST_CALLS, UNTIMED, latencies_ms, medians_ms, predicting, times_ms
from nets.gates import Context


def test_calls_take_turns():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    assert times_ms(calls).shape == (2, LEAST_CALLS)
    assert order == ["a", "b"] * (UNTIMED + LEAST_CALLS)


def test_the_clock_decides_beyond_the_least_number_of_calls():
    assert times_ms([lambda: None], seconds=0.05, least=3).shape[1] > 3


def test_a_median_for_each_call(monkeypatch):
    """Untimed calls do not count, however long they take."""
    now, durations = [0.0], iter([9, 9, 9, 1, 2, 50])

    def call():
        now[0] += next(durations)

    monkeypatch.setattr("engine.latency.time.perf_counter", lambda: now[0])
    assert medians_ms([call], least=3) == [2000]


def test_latency_is_a_time_for_each_network(resnet_8, runtime):
    times = latencies_ms([resnet_8, resnet_8], runtime, batch=1, calls=3)
    assert len(times) == 2 and min(times) > 0


def test_what_is_timed_are_logits_with_moving_averages(resnet_8, runtime):
    from engine.latency import normals

    images = normals([3, 32, 32, 3])
    logits = predicting(resnet_8, runtime, 3)()
    expected = resnet_8(images, Context("moving")).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
