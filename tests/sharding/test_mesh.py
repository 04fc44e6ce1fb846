"""The mesh from one line of config."""
import jax
import numpy as np
import pytest

from bigjax.sharding import mesh as meshes
from tests.refused import refused


@pytest.mark.parametrize(('text', 'shape'), [
    ('data:-1', {'data': 8}), ('data:4', {'data': 4}), ('data:2,tensor:-1', {'data': 2, 'tensor': 4}), ('data:1', {'data': 1})])
def test_sizes(text, shape):
    assert dict(meshes.make(text).shape) == shape


@pytest.mark.parametrize(('text', 'code', 'name'), [
    ('data:9', 'mesh/devices', '8 devices'), ('data:3,tensor:-1', 'mesh/devices', 'a multiple of 3 devices'),
    ('data', 'mesh/not-axis-size', 'data'), ('', 'mesh/not-axis-size', 'data:-1'), ('dat:8', 'mesh/unknown-axis', 'dat'),
    ('data:2,data:4', 'mesh/axis-twice', 'data'), ('data:-1,tensor:-1', 'mesh/not-axis-size', '-1'),
    ('data:0', 'mesh/not-axis-size', 'data:0'), (f'data:{10 ** 10}', 'mesh/not-axis-size', str(10 ** 10)),
    (','.join(f'{a}:{2 ** 31}' for a in ('data', 'fsdp', 'seq')), 'mesh/devices', 'data')])
def test_meshes_that_cannot_be_are_refused(text, code, name):
    with refused(code, 'config.mesh', name):
        meshes.make(text)


def test_one_device_is_named_as_one():
    with refused('mesh/devices', 'needs 2 devices, and 1 device;'):
        meshes.make('data:2', jax.devices()[:1])


def test_a_batch_is_split_and_a_state_is_not():
    mesh = meshes.make('data:4')
    x = np.arange(24.0).reshape(8, 3)
    whole = meshes.device_put_global(x, meshes.replicated(mesh))
    parts = meshes.device_put_local(x, meshes.batch_sharding(mesh, 0))
    assert [s.data.shape for s in whole.addressable_shards] == [(8, 3)] * 4
    assert [s.data.shape for s in parts.addressable_shards] == [(2, 3)] * 4
    assert np.array_equal(parts, x) and np.array_equal(whole, x) and meshes.data_size(mesh) == 4
    columns = jax.device_put(x.T, meshes.batch_sharding(mesh, 1))
    assert [s.data.shape for s in columns.addressable_shards] == [(3, 2)] * 4
