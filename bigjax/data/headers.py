"""The size that an encoded picture announces, read from its header before a decoder allocates memory for it."""
import re
import struct

PNM = re.compile(rb'P[1-6](?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s')


def size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, PNG, WebP, BMP, TIFF, GIF or PNM; None of anything else, and of a header that is cut short."""
    for start, reader in READERS.items():
        if data.startswith(start):
            try:
                found = reader(data)
            except (struct.error, IndexError):
                return None
            return found and tuple(map(abs, found))
    return None


def _jpeg(data):
    """The frame header: FF, C0 … CF but C4, C8 and CC, length, precision, height, width (ITU T.81, B.2.2)."""
    at = 2
    while data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from('>HH', data, at + 5)[::-1]
        else:
            at += 2 + struct.unpack_from('>H', data, at + 2)[0]
    return None


def _bmp(data):
    """Two int16 in the oldest header, two int32 in all others; a negative height is a picture from the top down."""
    return struct.unpack_from('<HH' if data[14] == 12 else '<ii', data, 18)


def _webp(data):
    """Lossy (RFC 6386, 9.1), lossless, or the extended header's canvas (RFC 9649)."""
    kind = data[12:16]
    if data[8:12] != b'WEBP' or kind not in (b'VP8 ', b'VP8L', b'VP8X'):
        return None
    if kind == b'VP8X':
        return tuple(int.from_bytes(data[at:at + 3], 'little') + 1 for at in (24, 27))
    if kind == b'VP8L':
        bits, = struct.unpack_from('<I', data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return tuple(side & 0x3FFF for side in struct.unpack_from('<HH', data, 26))


def _tiff(data):
    """Tags 256 and 257 of the first directory (TIFF 6.0, section 2)."""
    order = '<' if data[:1] == b'I' else '>'
    at, = struct.unpack_from(f'{order}I', data, 4)
    count, = struct.unpack_from(f'{order}H', data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, _ = struct.unpack_from(f'{order}HHI', data, entry)
        found[tag] = struct.unpack_from(f'{order}{"H" if kind == 3 else "I"}', data, entry + 8)[0]
    return (found[256], found[257]) if 256 in found and 257 in found else None


def _pnm(data):
    """Decimal numbers after the magic one, with comments between them."""
    found = PNM.match(data)
    return found and (int(found[1]), int(found[2]))


READERS = {
    b'\x89PNG\r\n\x1a\n': lambda data: struct.unpack_from('>II', data, 16), b'\xff\xd8': _jpeg, b'RIFF': _webp,
    b'BM': _bmp, b'II*\0': _tiff, b'MM\0*': _tiff, b'GIF8': lambda data: struct.unpack_from('<HH', data, 6),
    **{b'P%d' % kind: _pnm for kind in range(1, 7)}}
