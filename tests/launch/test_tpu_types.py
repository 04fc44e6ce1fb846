"""The table of TPU slices: names people use -> gcloud's types, machines, and which engine can have them."""
import pytest

from bigjax.plan import topology
from launch.engines.tpu_vm import tpu_types
from launch.engines.tpu_vm.tpu_types import parse
from tests.refused import refused


@pytest.mark.parametrize('product, type, chips, workers, runtime', [  # Cloud TPU documentation
    ('v2-8', 'v2-8', 4, 1, 'tpu-ubuntu2204-base'),
    ('v3-32', 'v3-32', 16, 4, 'tpu-ubuntu2204-base'),
    ('v4-8', 'v4-8', 4, 1, 'tpu-ubuntu2204-base'),
    ('v4-32', 'v4-32', 16, 4, 'tpu-ubuntu2204-base'),
    ('v5e-1', 'v5litepod-1', 1, 1, 'v2-alpha-tpuv5-lite'),
    ('v5e-8', 'v5litepod-8', 8, 1, 'v2-alpha-tpuv5-lite'),
    ('v5e-16', 'v5litepod-16', 16, 4, 'v2-alpha-tpuv5-lite'),
    ('v5litepod-256', 'v5litepod-256', 256, 64, 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 'v5p-8', 4, 1, 'v2-alpha-tpuv5'),
    ('v5p-128', 'v5p-128', 64, 16, 'v2-alpha-tpuv5'),
    ('V6e-8', 'v6e-8', 8, 1, 'v2-alpha-tpuv6e'),
    ('trillium-16', 'v6e-16', 16, 4, 'v2-alpha-tpuv6e'),
])
def test_names(product, type, chips, workers, runtime):
    found = parse(product, 'tpu_vm')
    assert (found.type, found.chips, found.workers, found.runtime) == (type, chips, workers, runtime)


@pytest.mark.parametrize('product, code, value', [
    ('ironwood-64', 'launch/other-engine', '--on=jobset:'), ('h100-8', 'launch/other-engine', '--on=slurm:'),
    ('v5e-12', 'launch/no-such-size', 'v5e-8'), ('v4-24', 'launch/no-such-size', 'v4-16'),
    ('v5p-99999', 'launch/no-such-size', 'v5p-12288'), ('v5w-8', 'launch/unknown-machine', 'nearest is v5'),
    ('v9-8', 'launch/unknown-machine', 'nearest is v6e;'), ('v5e', 'launch/unknown-machine', 'v5e-16'),
    ('v5e:4x4', 'launch/unknown-machine', ''), ('nonsense-9', 'launch/unknown-machine', ''), ('', 'launch/unknown-machine', ''),
])
def test_wrong_names(product, code, value):
    with refused(code, f'--on=tpu_vm:{product}: ', value):
        parse(product, 'tpu_vm')


def test_jobset_has_the_newest():
    found = parse('tpu7x-64', 'jobset')
    assert (found.chips, found.workers, found.type) == (32, 8, '')
    with refused('launch/other-engine', '--on=tpu_vm:'):
        parse('v3-8', 'jobset')


@pytest.mark.parametrize('product', [f'{generation}-{chips * tpu_types.GENERATIONS[generation].cores}'
                                  for generation in ('v4', 'v5e', 'v5p', 'v6e') for chips in tpu_types.sizes(generation)[:9]])
def test_planned_as_it_is_bought(product):
    assert topology.parse(product).chips == parse(product, 'tpu_vm').chips
