"""Peaks, and the utilisation that follows from them."""
import json
import types

import numpy as np
import pytest

from bigjax.distributed import hardware
from bigjax.train import flops as counting
from tests import tiny


def device(kind, platform='gpu'):
    """A description of a device."""
    return types.SimpleNamespace(device_kind=kind, platform=platform, process_index=0)


@pytest.mark.parametrize(('kind', 'flops'), [('NVIDIA H100 80GB HBM3', 989e12), ('NVIDIA A100-SXM4-40GB', 312e12),
                                             ('TPU v5 lite', 197e12), ('GeForce 256', None)])
def test_a_peak_is_that_of_all_devices(kind, flops):
    assert hardware.peak([device(kind)] * 4) == (flops and 4 * flops)


@pytest.mark.parametrize('written', ['', '{"half a', '{}'])
def test_the_peak_of_a_cpu_is_kept_and_only_grows(tmp_path, monkeypatch, written):
    if written:
        (tmp_path / 'peaks.json').write_text(written)
    measured = iter([5e10, 4e10, 6e10])
    monkeypatch.setattr(hardware, '_measure', lambda seconds: next(measured))
    assert [hardware.cpu_peak(str(tmp_path)) for _ in range(3)] == [5e10, 5e10, 6e10]
    assert list(json.loads((tmp_path / 'peaks.json').read_text()).values()) == [6e10]


def test_the_peak_of_this_cpu_is_that_of_a_product():
    assert 1e9 < hardware._measure(0.05, 256) < 1e14


def test_rates_of_a_population_of_two():
    p = tiny.program(population=2)
    found = counting.step_cost(p)._replace(peak=1e9)
    per_example = 2 * (5 * 16 * 2 + 16 * 3 * 3)  # the first layer has no gradient of its inputs
    assert found.flops == 2 * 8 * per_example and found.amount == 16 and found.unit == 'examples'
    rates = found.rates(10.0)
    np.testing.assert_allclose([rates['examples_per_second'], rates['tflops'], rates['mfu']],
                               [160, 10 * found.flops / 1e12, 10 * found.flops / 1e9])
    assert 'mfu' not in found._replace(peak=None).rates(10.0)
