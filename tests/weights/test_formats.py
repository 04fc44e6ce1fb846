"""The readers and writers of files: what they read is what was written, array by array, and a damaged file is one line."""
import json
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from bigjax.weights import npz_format, safetensors_format, torch_format
from tests.refused import refused

RNG = np.random.default_rng(0)
ARRAYS = {'a.weight': RNG.normal(size=(3, 5)).astype(np.float32), 'b': RNG.normal(size=(7,)).astype(np.float16),
          'c': RNG.normal(size=(2, 2)).astype(ml_dtypes.bfloat16), 'd': RNG.integers(0, 9, (4,)), 'e': np.array(2.5),
          'f': np.zeros((0, 3), np.float32), 'g': RNG.normal(size=(3,)).astype(ml_dtypes.float8_e4m3fn)}


def entries(arrays):
    return [(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()]


def same(tensors, arrays) -> bool:
    return tensors.keys() == arrays.keys() and all(
        (got := tensors[name].read()).tobytes() == x.tobytes() and (got.shape, got.dtype) == (x.shape, x.dtype)
        and (tensors[name].shape, tensors[name].dtype, tensors[name].size) == (x.shape, x.dtype, x.nbytes)
        for name, x in arrays.items())


@pytest.mark.parametrize('shard', [10**9, 40])
def test_safetensors_there_and_back(tmp_path, shard):
    safetensors_format.write_folder(tmp_path, entries(ARRAYS), shard)
    assert same(safetensors_format.read_folder(tmp_path), ARRAYS)
    assert (tmp_path / safetensors_format.INDEX).exists() == (shard == 40)


def test_safetensors_is_the_library_s(tmp_path):
    library = pytest.importorskip('safetensors.numpy', reason='safetensors is not installed: pip install bigjax[parity]')
    plain = {name: x for name, x in ARRAYS.items() if x.dtype.name in ('float32', 'float16', 'int64', 'float64')}
    safetensors_format.write(tmp_path / 'ours', entries(plain))
    assert all(np.array_equal(x, plain[name]) for name, x in library.load_file(tmp_path / 'ours').items())
    library.save_file(plain, tmp_path / 'theirs')
    assert same(safetensors_format.read(tmp_path / 'theirs'), plain)


def header(table: dict, tail: bytes = b'') -> bytes:
    text = json.dumps(table).encode()
    return struct.pack('<Q', len(text)) + text + tail


@pytest.mark.parametrize('content', [
    b'', b'1234', struct.pack('<Q', 2**60) + b'{}', struct.pack('<Q', 2) + b'[]', struct.pack('<Q', 2) + b'{,',
    header({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}, b'1234'),
    header({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]}}, b'1234'),
    header({'a': {'dtype': 'F32', 'shape': [-1, -1], 'data_offsets': [0, 4]}}, b'1234'),
    header({'a': {'dtype': 'F33', 'shape': [1], 'data_offsets': [0, 4]}}, b'1234'),
    header({'a': {'dtype': 'F32', 'shape': [1], 'data_offsets': [4, 8]}}, b'12341234'),
    header({'a': {'dtype': 'F32', 'shape': 'one'}}), header({'a': 3}),
    header({name: {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]} for name in 'ab'}, b'1234')], ids=range(13))
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / 'x').write_bytes(content)
    with refused('weights/damaged', str(tmp_path / 'x')):
        safetensors_format.read(tmp_path / 'x')


def test_every_cut_of_safetensors_is_refused(tmp_path):
    safetensors_format.write(tmp_path / 'x', entries(ARRAYS))
    whole = (tmp_path / 'x').read_bytes()
    for size in range(0, len(whole), 37):
        (tmp_path / 'cut').write_bytes(whole[:size])
        with refused('weights/damaged'):
            safetensors_format.read(tmp_path / 'cut')


@pytest.mark.parametrize('index', ['{', '[]', '{"weight_map": {"a": "../other"}}',
                                   '{"weight_map": {"z": "model.safetensors"}}'])
def test_an_index_that_is_not_of_its_files(tmp_path, index):
    safetensors_format.write_folder(tmp_path, entries(ARRAYS))
    (tmp_path / safetensors_format.INDEX).write_text(index)
    with refused('data/outside' if '..' in index else 'weights/damaged'):
        safetensors_format.read_folder(tmp_path)


def test_npz(tmp_path):
    plain = {name: x for name, x in ARRAYS.items() if x.dtype.name in ('float32', 'float16', 'int64', 'float64')}
    npz_format.write(tmp_path / 'x.npz', {'name': 'mlp'}, entries(ARRAYS))
    spec, tensors = npz_format.read(tmp_path / 'x.npz')
    assert spec == {'name': 'mlp'} and same(tensors, ARRAYS)
    for dtype in ('object', 'V2', 'float32', 'no', 3):  # of two bytes
        with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
            archive.writestr(npz_format.DTYPES, json.dumps({'x': dtype}))
            with archive.open('x.npy', 'w') as file:
                np.save(file, np.zeros(3, np.uint16))
        with refused('weights/damaged'):
            npz_format.read(tmp_path / 'w.npz')
    np.savez(tmp_path / 'y.npz', **plain)
    spec, tensors = npz_format.read(tmp_path / 'y.npz')
    assert spec is None and same(tensors, plain)
    np.savez(tmp_path / 'z.npz', x=np.array([{}], object))
    with refused('data/damaged'):
        npz_format.read(tmp_path / 'z.npz')[1]['x'].read()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: {'epoch': 3, 'state_dict': d},
                                  lambda d: {f'module.{k}': v for k, v in d.items()}], ids=['plain', 'nested', 'wrapped'])
def test_state_dicts(tmp_path, zipped, wrap):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    arrays = {'w': RNG.normal(size=(4, 6)).astype(np.float32), 'h': RNG.normal(size=3).astype(np.float16), 'n': np.array(7)}
    tensors = {name: torch.tensor(x) for name, x in arrays.items()}
    tensors |= {'bf': tensors['w'].bfloat16(), 'view': tensors['w'].T[1:4:2], 'p': torch.nn.Parameter(tensors['w'] + 1)}
    arrays |= {'bf': arrays['w'].astype(ml_dtypes.bfloat16), 'view': arrays['w'].T[1:4:2], 'p': arrays['w'] + 1}
    torch.save(wrap(tensors), tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    assert same(torch_format.read(tmp_path / 'x.pth'), arrays)
    whole = (tmp_path / 'x.pth').read_bytes()
    for size in range(0, len(whole) - 1, 101):
        (tmp_path / 'cut').write_bytes(whole[:size])
        with refused('weights/damaged'):
            torch_format.read(tmp_path / 'cut')


class Harm:
    def __reduce__(self):
        return eval, ('open("harm", "w")',)


def test_a_pickle_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile('x.pth', 'w') as archive:
        archive.writestr('x/data.pkl', pickle.dumps({'w': Harm()}))
    (tmp_path / 'y.pth').write_bytes(pickle.dumps(Harm()))
    for name in ('x.pth', 'y.pth'):
        with refused('weights/damaged', 'eval'):
            torch_format.read(tmp_path / name)
    with zipfile.ZipFile('z.pth', 'w') as archive:
        archive.writestr('z/data.pkl', pickle.dumps({'epoch': 3}))
    with refused('weights/not-a-state-dict'):
        torch_format.read(tmp_path / 'z.pth')
    assert not (tmp_path / 'harm').exists()
