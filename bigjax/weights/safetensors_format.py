"""The safetensors format: 8 bytes with the length of a JSON header, the header, and the arrays end to end.

The arrays are read one by one with plain reads, and written one by one, so that neither direction holds the file in memory;
bfloat16 and float8 are NumPy arrays by `ml_dtypes`. A folder holds one file, or several with an index that names each
array's file.
"""
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.atomic import explained
from bigjax.io.text import first_line, printable
from bigjax.weights.tensors import Tensor, Tensors, damaged, from_bytes, sharded

ONE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
MAX_HEADER = 100_000_000  # bytes, as in the format's reference implementation
SHARD = 5_000_000_000  # bytes of a file before the next is begun
DTYPES = {name: np.dtype(kind) for name, kind in {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'I64': np.int64, 'I32': np.int32,
    'I16': np.int16, 'I8': np.int8, 'U64': np.uint64, 'U32': np.uint32, 'U16': np.uint16, 'U8': np.uint8, 'BOOL': np.bool_,
    'F8_E4M3': ml_dtypes.float8_e4m3fn, 'F8_E5M2': ml_dtypes.float8_e5m2}.items()}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: str | os.PathLike) -> Tensors:
    """{name: tensor} of one file.

    Raises:
      UserError: there is no such file ('weights/not-found'); it is cut short, or its header contradicts its size
        ('weights/damaged').
    """
    try:
        size = os.stat(path).st_size
        with open(path, 'rb') as file:
            head = file.read(8)
            length = struct.unpack('<Q', head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise damaged(path, f'{size:,} bytes, of which the header takes {length:,}')
            header = safe_read.parsed(file.read(length))
    except OSError as error:
        raise UserError(f'{printable(path)}: {error.strerror}; check the path', code='weights/not-found') from error
    except ValueError as error:
        raise damaged(path, f'its header is not JSON: {first_line(error)}') from error
    begin = 8 + length
    try:
        entries = {name: _entry(entry) for name, entry in header.items() if name != '__metadata__'}
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise damaged(path, f'its header is not one of tensors: {first_line(error)}') from error
    place = 0
    for name, (shape, dtype, start, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != place or stop - start != math.prod(shape) * dtype.itemsize:
            raise damaged(path, f'{name} is {list(shape)} of {dtype} and has the bytes {start:,} to {stop:,}')
        place = stop
    if begin + place != size:
        raise damaged(path, f'{begin + place:,} bytes announced, {size:,} there')
    return {name: Tensor(shape, dtype, lambda a=begin + start, s=shape, d=dtype: from_bytes(path, a, s, d))
            for name, (shape, dtype, start, _) in entries.items()}


def _entry(entry: Mapping) -> tuple:
    shape, (start, stop) = tuple(entry['shape']), entry['data_offsets']
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop)):
        raise ValueError('a size that is no number')
    return shape, DTYPES[entry['dtype']], start, stop


def read_folder(folder: pathlib.Path) -> Tensors:
    """{name: tensor} of a folder with one file, or with an index and several; raises as `read` and `sharded`."""
    return sharded(folder, INDEX, read) if (folder / INDEX).exists() else read(folder / ONE)


def write_folder(folder: pathlib.Path, tensors: Sequence[tuple[str, tuple[int, ...], np.dtype, Callable[[], np.ndarray]]],
                 shard: int = SHARD) -> None:
    """Writes (name, shape, dtype, function that returns the array) to one file, or to several of at most `shard` bytes."""
    parts, size = [[]], 0
    for entry in tensors:
        nbytes = math.prod(entry[1]) * np.dtype(entry[2]).itemsize
        if parts[-1] and size + nbytes > shard:
            parts, size = [*parts, []], 0
        parts[-1].append(entry)
        size += nbytes
    if len(parts) == 1:
        write(folder / ONE, parts[0])
        return
    stem, index = ONE.removesuffix('.safetensors'), {}
    for number, part in enumerate(parts, 1):
        name = f'{stem}-{number:05d}-of-{len(parts):05d}.safetensors'
        write(folder / name, part)
        index |= {entry[0]: name for entry in part}
    total = sum(math.prod(shape) * np.dtype(dtype).itemsize for _, shape, dtype, _ in tensors)
    (folder / INDEX).write_text(json.dumps({'metadata': {'total_size': total}, 'weight_map': index}, indent=1) + '\n')


def write(path: pathlib.Path, tensors: Sequence[tuple]) -> None:
    """Writes one file, array by array; a failure leaves no file of that name."""
    header, place = {'__metadata__': {'format': 'pt'}}, 0  # without it transformers refuses the file
    for name, shape, dtype, _ in tensors:
        stop = place + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {'dtype': NAMES[np.dtype(dtype)], 'shape': list(shape), 'data_offsets': [place, stop]}
        place = stop
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # readers map the arrays, which have to be aligned
    beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(beside, 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            for _, shape, dtype, get in tensors:
                array = np.asarray(get(), dtype, order='C')  # ascontiguousarray would give a scalar an axis
                assert array.shape == tuple(shape), (array.shape, shape)
                file.write(array.reshape(-1).view(np.uint8).data if array.size else b'')
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        beside.unlink(missing_ok=True)
