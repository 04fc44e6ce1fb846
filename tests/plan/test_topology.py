"""Names of slices: what each means, and what is refused with the nearest that can be bought."""
import pytest

from bigjax.plan import topology
from tests.refused import refused


@pytest.mark.parametrize(('text', 'name', 'chips', 'devices'), [
    ('v5p-512', 'v5p:4x8x8', 256, 256), ('v5p:4x8x8', 'v5p:4x8x8', 256, 256), ('v5p-8', 'v5p:2x2x1', 4, 4),
    ('v5e-16', 'v5e:4x4', 16, 16), ('v5e:16x16*2', 'v5e:16x16', 512, 512), ('v5litepod-64', 'v5e:8x8', 64, 64),
    ('v5e-256*4', 'v5e:16x16', 1024, 1024), ('v4-32', 'v4:2x2x4', 16, 16), ('v6e-8', 'v6e:2x4', 8, 8),
    ('V5E:4X4', 'v5e:4x4', 16, 16), ('tpu7x:4x4x4', 'tpu7x:4x4x4', 64, 128), ('v5p-12288', 'v5p:16x16x24', 6144, 6144),
    ('v5p:2x2x1', 'v5p:2x2x1', 4, 4), ('v5e-1', 'v5e:1x1', 1, 1)])
def test_tpu_names(text, name, chips, devices):
    t = topology.parse(text)
    assert (t.platform, t.name, t.chips, t.devices) == ('tpu', name, chips, devices)
    assert t.hardware.flops > 1e14


def test_gpu_and_cpu_names():
    assert topology.parse('h100:64').shape == (8, 8) and topology.parse('h200:4').shape == (1, 4)
    assert topology.parse('h100:64').hardware.hbm < 80e9
    t = topology.parse('cpu:8')
    assert (t.platform, t.devices, t.hardware) == ('cpu', 8, None)


@pytest.mark.parametrize(('text', 'nearest'), [
    ('v5p-500', 'v5p-512 (v5p:4x8x8, 256 chips)'), ('v5e-20', 'v5e-16'), ('v5e:32x32', 'v5e:16x16'), ('v5e:3x3', 'v5e:2x4'),
    ('v5p:4x4', 'v5p:2x2x4'), ('h100:12', 'h100:16')])
def test_slices_that_cannot_be_bought_are_refused_and_the_nearest_named(text, nearest):
    with refused('plan/not-sold', text, nearest):
        topology.parse(text)


@pytest.mark.parametrize('text', ['v9-8', 'v5p', 'v5e:4x4*0', 'cpu:2x2', 'h100:8*2'])
def test_names_of_no_slice_are_refused(text):
    with refused('plan/no-slice', text):
        topology.parse(text)


@pytest.mark.parametrize('generation', ['v4', 'v5e', 'v5p', 'v6e', 'tpu7x'])
def test_every_slice_that_can_be_bought_is_known_by_its_shape(generation):
    for shape in topology.shapes(generation):
        assert topology.parse(f"{generation}:{'x'.join(map(str, shape))}").shape == shape
