"""State dicts that torch.save wrote, read without torch and without executing them.

The file is a zip of `data.pkl` and one raw file per storage, or, older, five pickles followed by the storages. The unpickler
admits the rebuilding of tensors, ordered dicts and the names of storages; anything else that a pickle may call is refused.
"""
import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bigjax.errors import UserError
from bigjax.io.text import first_line, printable
from bigjax.weights.tensors import Tensor, Tensors, damaged, from_bytes

MAX_PICKLE = 64 << 20  # bytes: names and shapes only
LOCAL_HEADER = 30  # bytes, before its name
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older format
STORAGES = {f'{name}Storage': np.dtype(kind) for name, kind in {
    'Double': np.float64, 'Float': np.float32, 'Half': np.float16, 'BFloat16': ml_dtypes.bfloat16, 'Long': np.int64,
    'Int': np.int32, 'Short': np.int16, 'Char': np.int8, 'Byte': np.uint8, 'Bool': np.bool_}.items()}
NESTED = ('state_dict', 'model_state_dict', 'model_state', 'model', 'module')  # where training scripts keep the state dict
WRAPPERS = ('module.', '_orig_mod.')  # what DistributedDataParallel and torch.compile put before every key


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: pathlib.Path) -> Tensors:
    """{name: tensor} of the state dict in a file, or under 'state_dict', 'model' … in it.

    Raises:
      UserError: damaged ('weights/damaged'), or it holds something else than tensors ('weights/not-a-state-dict').
    """
    try:
        value, place = _zipped(path) if zipfile.is_zipfile(path) else _older(path)
    except UserError:
        raise
    except Exception as error:  # pickle raises nearly every kind
        raise damaged(path, first_line(error)) from error
    views = _state_dict(value)
    if not views:
        raise UserError(f'{printable(path)}: got a file without a state dict, expected one of torch.save(model.state_dict(), '
                        '…); fix: save it so', code='weights/not-a-state-dict')
    return {name: _tensor(path, name, view, place) for name, view in views.items()}


def _tensor(path, name: str, view: _View, place: Callable[[_Storage], int]) -> Tensor:
    storage, start = view.storage, place(view.storage)
    last = sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    reach = last + 1 if math.prod(view.shape) else 0
    if min((*view.shape, *view.strides, view.offset), default=0) < 0 or view.offset + reach > storage.count:
        raise damaged(path, f'{name} reaches past its storage')

    def array():
        span = from_bytes(path, start + view.offset * storage.dtype.itemsize, (reach,), storage.dtype)
        strides = [stride * storage.dtype.itemsize for stride in view.strides]
        return np.lib.stride_tricks.as_strided(span, view.shape, strides) if reach else span.reshape(view.shape)

    return Tensor(view.shape, storage.dtype, array)


def _state_dict(value: Any) -> dict[str, _View]:
    """The tensors of a mapping, without what wrappers put before every name; {} where there are none."""
    if not isinstance(value, Mapping):
        return {}
    found = {str(name): view for name, view in value.items() if isinstance(view, _View)}
    if not found:
        return next((inner for key in NESTED if (inner := _state_dict(value.get(key)))), {})
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): view for name, view in found.items()}
    return found


class _Unpickler(pickle.Unpickler):
    """Builds containers and `_View`s, and notes the storages in `seen`; every other name is refused."""

    def __init__(self, file):
        super().__init__(file)
        self.seen: dict[str, _Storage] = {}

    def find_class(self, module, name):
        if (module, name) == ('collections', 'OrderedDict'):
            return collections.OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return lambda storage, offset, shape, strides, *_: _View(storage, int(offset), tuple(shape), tuple(strides))
        if (module, name) == ('torch._utils', '_rebuild_parameter'):
            return lambda view, *_: view
        if module == 'torch' and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f'it calls {module}.{name}, which no state dict of tensors does')

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *_ = pid
        if kind != 'storage' or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError('an unknown kind of storage')
        return self.seen.setdefault(str(key), _Storage(str(key), dtype, int(count)))


def _zipped(path) -> tuple[Any, Callable[[_Storage], int]]:
    size = os.stat(path).st_size
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.partition('/')[2]: member for member in archive.infolist()}
        if members['data.pkl'].file_size > MAX_PICKLE:
            raise ValueError('its pickle is too large for names and shapes')
        if 'byteorder' in members and archive.read(members['byteorder']) != b'little':
            raise ValueError('it is not little-endian')
        value = _Unpickler(io.BytesIO(archive.read(members['data.pkl']))).load()

    def place(storage: _Storage) -> int:
        member = members.get(f'data/{storage.key}')
        if member is None or member.compress_type != zipfile.ZIP_STORED or (
                member.file_size < storage.count * storage.dtype.itemsize):
            raise damaged(path, f'storage {storage.key} is missing, packed or too small')
        with open(path, 'rb') as file:
            file.seek(member.header_offset)
            head = file.read(LOCAL_HEADER)  # its name and extra field may differ in length from the directory's
        lengths = struct.unpack('<HH', head[-4:]) if len(head) == LOCAL_HEADER else (0, 0)
        start = member.header_offset + LOCAL_HEADER + sum(lengths)
        if start + member.file_size > size:  # otherwise memory would be taken for what is not there
            raise damaged(path, f'storage {storage.key} reaches past its end')
        return start

    return value, place


def _older(path) -> tuple[Any, Callable[[_Storage], int]]:
    with open(path, 'rb') as file:
        if (_Unpickler(file).load(), _Unpickler(file).load()) != (MAGIC, VERSION):
            raise ValueError('it is no file of torch.save')
        _Unpickler(file).load()  # sizes of the machine that wrote it
        unpickler, size = _Unpickler(file), os.stat(path).st_size
        value, keys, starts = unpickler.load(), _Unpickler(file).load(), {}
        for key in keys:
            (count,), storage = struct.unpack('<q', file.read(8)), unpickler.seen[str(key)]
            starts[str(key)] = file.tell()
            if count != storage.count or file.seek(count * storage.dtype.itemsize, os.SEEK_CUR) > size:
                raise ValueError(f'storage {key} is cut short')
    return value, lambda storage: starts[storage.key]
