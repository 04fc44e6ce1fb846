"""Damage to valid files: of their bytes, and of what is inside them, with sums and packing made good again."""
import functools
import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence

NUMBERS = [0, 1, -1, 127, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, -2**31, -2**63]
TEXTS = ['', '0', '-1', '1e400', '-1e-400', 'nan', 'inf', '9' * 5000, '2147483648', '99999999999999999999', 'null', 'true', '"',
         "'", '\\', '[', '{', '[' * 3000, '{"a":' * 3000, '\0', '\r', '\n', '\x1b[2J', '\ufeff', '\u202e', 'é', '１', '😀',
         '<script>alert(1)</script>', '"onload="alert(1)', '../../../../x', '/dev/zero', '$\\frac{', '%s%n', '0x10', '1_0',
         '()']
VALUES = [None, True, 0, -1, 1.5, 1e308, -1e308, 1e-320, 2**63, 10**400, float('nan'), float('inf'), '', 'x', 'a\nb', '\ud800',
          [], {}, [None], ['x'], {'a': {}}, [[1], 2], '../../x', 'a' * 10000]


MIB = [1, 64]  # quickly made; the kept case of npz is larger


def mutate(data: bytes, name: str, others: Sequence[bytes], rng) -> bytes:
    """A damaged copy; half of the time what is packed inside is damaged, and packed again."""
    inner = rng.random() < 0.5
    if inner and name.endswith('.gz'):
        return gzip.compress(mutate(gzip.decompress(data), name.removesuffix('.gz'), [], rng), 1)
    if inner and name.endswith('.npz'):
        return _repack(data, rng)
    if inner and name.endswith(('.json', '.jsonl')):
        return _values(data, rng)
    for _ in range(1 + rng.geometric(0.5)):
        data = KINDS[rng.integers(len(KINDS))](data, others, rng)
    return sums(data) if inner and name.endswith('.png') else data


def _flip(data, others, rng):
    data = bytearray(data)
    for _ in range(rng.geometric(0.3) if data else 0):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(data)


def _cut(data, others, rng):
    return data[:rng.integers(len(data) + 1)]


def _remove(data, others, rng):
    a, b = sorted(rng.integers(len(data) + 1, size=2))
    return data[:a] + data[b:]


def _splice(data, others, rng):
    other = others[rng.integers(len(others))] if len(others) else data
    return data[:rng.integers(len(data) + 1)] + other[rng.integers(len(other) + 1):]


def _repeat(data, others, rng):
    a, b = sorted(rng.integers(len(data) + 1, size=2))
    return data[:b] + data[a:b][:5000] * rng.integers(1, 5) + data[b:]


def _number(data, others, rng):
    number, size = NUMBERS[rng.integers(len(NUMBERS))], [1, 2, 4, 8][rng.integers(4)]
    coded = (number % 256 ** size).to_bytes(size, ['little', 'big'][rng.integers(2)])
    at = rng.integers(len(data) + 1) if rng.random() < 0.5 else rng.integers(min(len(data), 64) + 1)  # headers come first
    return data[:at] + coded + data[at + size:]


def _text(data, others, rng):
    at, text = rng.integers(len(data) + 1), TEXTS[rng.integers(len(TEXTS))].encode()
    return data[:at] + text + data[at:]


def _digits(data, others, rng):
    """Another number where one is written."""
    found = list(re.finditer(rb'-?\d[\d.e+-]*', data))
    if not found:
        return data
    match, text = found[rng.integers(len(found))], TEXTS[rng.integers(len(TEXTS))].encode()
    return data[:match.start()] + text + data[match.end():]


KINDS = [_flip, _cut, _remove, _splice, _repeat, _number, _text, _digits]


def _values(data, rng):
    """Other values in JSON, or in one line of JSON lines."""
    lines = data.split(b'\n') if b'}\n{' in data else [data]
    at = rng.integers(len(lines))
    try:
        value = json.loads(lines[at])
    except ValueError:
        return _flip(data, [], rng)
    for _ in range(rng.geometric(0.6)):
        value = _other(value, rng)
    lines[at] = json.dumps(value).encode()
    return b'\n'.join(lines)


def _other(value, rng):
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return VALUES[rng.integers(len(VALUES))]
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[rng.integers(len(keys))]
    copy = value.copy()
    if isinstance(copy, dict) and rng.random() < 0.1:
        copy[TEXTS[rng.integers(len(TEXTS))]] = copy.pop(key)
    elif rng.random() < 0.1:
        copy.pop(key)
    else:
        copy[key] = _other(value[key], rng)
    return copy


def _repack(data, rng):
    """Another member in a zip."""
    out = io.BytesIO()
    kind = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(4)]
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w', kind) as new:
        names = old.namelist()
        harmed = names[rng.integers(len(names))]
        for name in names:
            content = old.read(name)
            new.writestr(name, mutate(content, name, [], rng) if name == harmed else content)
    return bomb(data, kind, MIB[rng.integers(len(MIB))]) if rng.random() < 0.1 else out.getvalue()


@functools.cache
def bomb(data: bytes, kind: int, mib: int) -> bytes:
    """The first member of a zip with MiB of zeros behind it, of which its listed size says nothing."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        member = zipfile.ZipInfo(old.namelist()[0])
        content = old.read(member.filename)
        packer = zipfile._get_compressor(kind, 9)  # None where nothing is packed
        packed = content if packer is None else packer.compress(content)
        for _ in range(mib if packer else 0):
            packed += packer.compress(bytes(1 << 20))
        packed += packer.flush() if packer else b''
        new.writestr(member, packed)
        member.compress_type, member.file_size = kind, len(content)
    blob, head = bytearray(out.getvalue()), out.getvalue().index(b'PK\1\2')
    for kind_at, size_at in ((8, 22), (head + 10, head + 24)):  # in front of the member, and in the list at the end
        struct.pack_into('<H', blob, kind_at, kind)
        struct.pack_into('<I', blob, size_at, len(content))
    return bytes(blob)


def sums(data: bytes) -> bytes:
    """A PNG whose chunks have the right sums."""
    at, parts = 8, [data[:8]]
    while at + 12 <= len(data):
        size, = struct.unpack_from('>I', data, at)
        body = data[at + 4:at + 8 + size]
        parts += [data[at:at + 4], body, struct.pack('>I', zlib.crc32(body))]
        at += 12 + size
    return b''.join(parts)
