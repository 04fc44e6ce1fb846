"""The loop is never many slow calls ahead of the device, and enough quick ones."""
import types

import pytest

from bigjax.io import stopwatch
from bigjax.train import in_flight


@pytest.mark.parametrize(('seconds', 'least', 'most'), [(30.0, 1, 2), (0.4, 1, 2), (0.05, 3, 10), (0.0001, 32, 64)])
def test_what_is_under_way_is_at_most_half_a_second_of_work_or_two_calls(monkeypatch, seconds, least, most):
    """A device that takes so long for each call; the host takes a tenth of a millisecond."""
    clock = types.SimpleNamespace(now=0.0)
    device, ends = 0.0, []

    def wait(end):
        clock.now = max(clock.now, end)

    monkeypatch.setattr(stopwatch, 'time', types.SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(in_flight, 'jax', types.SimpleNamespace(block_until_ready=wait))
    queue, deepest = in_flight.InFlight(), 0
    for _ in range(2000):
        clock.now += 0.00005
        device = max(device, clock.now) + seconds
        ends.append(device)
        queue.add(device)
        deepest = max(deepest, sum(end > clock.now for end in ends[-200:]))
    assert least <= deepest <= most
