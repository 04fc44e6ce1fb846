"""Whisper in the format of CTranslate2: `model.bin`, beside `config.json` and a tokenizer.

The file, little endian: u32 version (6), text, u32 revision, u32 number of arrays; of each array its name (text), u8 rank, u32
sizes, u8 type, u32 bytes, the bytes; then u32 number of aliases, of each two texts. A text is u16 bytes, the last of them zero.
"""
import os
import pathlib
import struct
from collections.abc import Mapping

import numpy as np

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import printable

VERSION = 6
TYPES = {0: '<f4', 1: 'i1', 2: '<i2', 3: '<i4', 4: '<f2'}
PARTS = ('model.bin.part1', 'model.bin.part2')  # of a file that was split for an upload

NORM = (('gamma', 'scale'), ('beta', 'bias'))
# Their layer of a block, and the layers here that its rows are, side by side
SELF = (('self_attention/linear_0', ('attn/query', 'attn/key', 'attn/value')), ('self_attention/linear_1', ('attn/out',)))
CROSS = (('attention/linear_0', ('cross/query',)), ('attention/linear_1', ('cross/key', 'cross/value')),
         ('attention/linear_2', ('cross/out',)))
HIDDEN = (('ffn/linear_0', ('mlp/up',)), ('ffn/linear_1', ('mlp/down',)))
NORMS = (('self_attention', 'attn_norm'), ('ffn', 'mlp_norm'))
SIDES = (('encoder', (), ()), ('decoder', CROSS, (('attention', 'cross_norm'),)))
FLAGS = ('activation', 'alibi', 'alignment_heads', 'alignment_layer', 'num_heads', 'pre_norm', 'scale_embeddings',
         'start_from_zero_embedding')


def content(*folders: str | os.PathLike) -> bytes:
    """The bytes of `model.bin` in one of the folders, or of its two parts.

    Raises:
      UserError: there is no such file.
    """
    def where(name):
        return next((path for folder in folders if (path := pathlib.Path(folder) / name).is_file()), None)

    found = [where('model.bin')] if where('model.bin') else [where(part) for part in PARTS]
    if None in found:
        raise UserError(f'{", ".join(map(str, folders))}: got no model.bin, expected that of CTranslate2; fix: name the folder '
                        'that holds it', code='weights/no-file')
    return b''.join(map(safe_read.content, found))


class _Bytes:
    """A cursor over the bytes of a file."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError(f'{len(self.data):,} bytes, and {self.at + size:,} are announced')
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, code: str) -> int:
        return struct.unpack(f'<{code}', self.take(struct.calcsize(f'<{code}')))[0]

    def text(self) -> str:
        return self.take(self.number('H')).removesuffix(b'\0').decode()


def arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """{name: array} of a `model.bin`, as it is stored, without the aliases at its end.

    Raises:
      UserError: it is no such file, is cut short, or holds a type that is not read.
    """
    file, found = _Bytes(data), {}
    try:
        if (version := file.number('I')) != VERSION:
            raise ValueError(f'version {version} of the format')
        file.text()
        file.number('I')
        for _ in range(file.number('I')):
            name = file.text()
            shape = [file.number('I') for _ in range(file.number('B'))]
            kind, size = file.number('B'), file.number('I')
            dtype = np.dtype(TYPES.get(kind, 'V1'))
            if kind not in TYPES or int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != size:
                raise ValueError(f'{name} of type {kind}, shape {shape} and {size} bytes')
            found[name] = np.frombuffer(file.take(size), dtype).reshape(shape)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f'{where}: got {printable(error)}, expected a whole model.bin of CTranslate2, version {VERSION}; fix: '
                        'fetch it again', code='weights/damaged') from error
    return found


def fields(found: Mapping[str, np.ndarray], where: str) -> dict[str, int]:
    """The fields of `bigjax.models.whisper.Whisper` that the arrays are those of.

    Raises:
      UserError: they are those of another model.
    """
    try:
        vocab_size, width = found['decoder/embeddings/weight'].shape
        layers = sum(name.startswith('encoder/layer_') and name.endswith('/ffn/linear_0/weight') for name in found)
        return {'num_layers': layers, 'width': width, 'num_heads': int(found['encoder/num_heads']),
                'vocab_size': vocab_size, 'block_size': len(found['decoder/position_encodings/encodings'])}
    except KeyError as error:
        raise _other(where, f'no {printable(error)}') from error


def _other(where: str, got: str) -> UserError:
    return UserError(f'{where}: got {got}, expected the arrays of Whisper and no others; fix: name another folder',
                     code='weights/other-architecture')


def whisper(found: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """{our path: float32 array} of the parameters of `Whisper`; each array is used, or is known not to be a parameter.

    A linear layer is [out, in] there and [in, out] here, a convolution [out, in, width] there and [width, in, out] here.

    Raises:
      UserError: an array is missing, or has no place.
    """
    rest, out = dict(found), {}

    def take(name):
        if name not in rest:
            raise _other(where, f'no {name}')
        return rest.pop(name).astype(np.float32)

    def linear(theirs, ours):
        parts = (np.split(take(f'{theirs}/{part}'), len(ours)) for part in ('weight', 'bias'))
        for name, kernel, bias in zip(ours, *parts, strict=True):
            out[f'{name}/kernel'] = kernel.T
            if not name.endswith('/key'):
                out[f'{name}/bias'] = bias
            elif bias.any():  # the format has one, Whisper has none
                raise _other(where, f'a bias of keys in {theirs}')

    def norm(theirs, ours):
        out.update({f'{ours}/{mine}': take(f'{theirs}/{name}') for name, mine in NORM})

    for side, more, norms in SIDES:
        for i in range(fields(found, where)['num_layers']):
            for theirs, ours in (*SELF, *more, *HIDDEN):
                linear(f'{side}/layer_{i}/{theirs}', [f'{side}/block_{i}/{name}' for name in ours])
            for theirs, ours in (*NORMS, *norms):
                norm(f'{side}/layer_{i}/{theirs}/layer_norm', f'{side}/block_{i}/{ours}')
        norm(f'{side}/layer_norm', f'{side}/final_norm')
        for flag in FLAGS:
            rest.pop(f'{side}/{flag}', None)
    for i in range(2):
        out[f'encoder/conv_{i}/kernel'] = take(f'encoder/conv{i + 1}/weight').transpose(2, 1, 0)
        out[f'encoder/conv_{i}/bias'] = take(f'encoder/conv{i + 1}/bias')
    rest.pop('encoder/position_encodings/encodings', None)  # sines and cosines, which are calculated here
    out['decoder/token_embed/embedding'] = take('decoder/embeddings/weight')
    out['decoder/pos_embed/embedding'] = take('decoder/position_encodings/encodings')
    if rest:
        raise _other(where, f'{printable(", ".join(sorted(rest)[:3]))}, which has no place')
    return out
