"""The table of TPU slices: names people use -> gcloud's types, machines, and which engine can have them."""
import pytest

from bigjax.errors import UserError
from bigjax.plan import topology
from launch.engines.tpu_vm import tpu_types
from launch.engines.tpu_vm.tpu_types import parse


@pytest.mark.parametrize('name, type, chips, workers, runtime', [  # Cloud TPU documentation
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
def test_names(name, type, chips, workers, runtime):
    found = parse(name, 'tpu_vm')
    assert (found.type, found.chips, found.workers, found.runtime) == (type, chips, workers, runtime)


@pytest.mark.parametrize('name, says', [
    ('tpu7x-64', r'tpu7x is not to be had as tpu_vm; use --on=jobset:'),
    ('ironwood-64', r'use --on=jobset:'),
    ('h100-8', r'h100 is a GPU, and tpu_vm has none; use --on=slurm:.*--on=ssh:.*--on=jobset:'),
    ('v5e-12', r'there is no slice of 12 \(chips\); the nearest is v5e-8'),
    ('v4-24', r'there is no slice of 24 \(TensorCores, two a chip\); the nearest is v4-16'),
    ('v5p-99999', r'the nearest is v5p-12288'),
    ('v5w-8', r'not the name of a TPU slice; the nearest is v5'),
    ('v9-8', r'the nearest is v6e;'),
    ('v5e', r'write for example v5e-16'),
    ('v5e:4x4', r'not the name of a TPU slice'),
    ('nonsense-9', r'not the name of a TPU slice'),
    ('', r'not the name of a TPU slice'),
])
def test_wrong_names(name, says):
    with pytest.raises(UserError, match=rf'--on=tpu_vm:{name}: .*{says}'):
        parse(name, 'tpu_vm')


def test_jobset_has_the_newest():
    found = parse('tpu7x-64', 'jobset')
    assert (found.chips, found.workers, found.type) == (32, 8, '')
    with pytest.raises(UserError, match='v3 is not to be had as jobset; use --on=tpu_vm:'):
        parse('v3-8', 'jobset')


@pytest.mark.parametrize('name', [f'{generation}-{chips * tpu_types.GENERATIONS[generation].cores}'
                                  for generation in ('v4', 'v5e', 'v5p', 'v6e') for chips in tpu_types.sizes(generation)[:9]])
def test_planned_as_it_is_bought(name):
    assert topology.parse(name).chips == parse(name, 'tpu_vm').chips
