"""The mesh from one line of config."""
import jax
import numpy as np
import pytest

from bigjax.errors import UserError
from bigjax.sharding import mesh as meshes


@pytest.mark.parametrize(('text', 'shape'), [
    ('data:-1', {'data': 8}), ('data:4', {'data': 4}), ('data:2,tensor:-1', {'data': 2, 'tensor': 4}), ('data:1', {'data': 1})])
def test_sizes(text, shape):
    assert dict(meshes.make(text).shape) == shape


@pytest.mark.parametrize(('text', 'words'), [
    ('data:9', 'there are 8'), ('data:3,tensor:-1', 'multiples of 3'), ('data', 'axis:size'), ('', 'axis:size'),
    ('data:-1,tensor:-1', 'at most one -1'), ('data:0', 'at most one -1'),
    (f'data:{10 ** 10}', 'is not axis:size'), (','.join(f'{a}:{2 ** 31}' for a in ('data', 'fsdp', 'seq')), 'asks for')])
def test_what_cannot_be(text, words):
    with pytest.raises(UserError, match=words):
        meshes.make(text)


def test_a_batch_is_split_and_a_state_is_not():
    mesh = meshes.make('data:4')
    x = np.arange(24.0).reshape(8, 3)
    whole, parts = meshes.put(x, meshes.replicated(mesh)), meshes.put_local(x, meshes.split(mesh, 0))
    assert [s.data.shape for s in whole.addressable_shards] == [(8, 3)] * 4
    assert [s.data.shape for s in parts.addressable_shards] == [(2, 3)] * 4
    assert np.array_equal(parts, x) and np.array_equal(whole, x) and meshes.data_size(mesh) == 4
    columns = jax.device_put(x.T, meshes.split(mesh, 1))
    assert [s.data.shape for s in columns.addressable_shards] == [(3, 2)] * 4
