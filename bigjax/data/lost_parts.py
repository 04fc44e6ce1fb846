"""Lost parts of image files: a disk, a copy or a download that was cut off leaves zeros, and decoders take them for pixels.

A sector of zeros among compressed pixels is looked for, and then for what it cannot be, format by format. Pixels that are not
compressed may be zeros, and PNG and GIF have checks of their own.
"""
import re
import zlib

SECTOR_BYTES = 512  # of zeros among the pixels: a part of the file that was lost
FLAT_PIXELS = 4000  # pixels per byte; flat areas of a WebP are zeros too, from about 9,000 pixels per byte on
DEFLATE, TIFF_JPEG = (8, 32946), 7  # of TIFF's tag Compression
COMPRESSION, STRIPS, STRIP_BYTES, TILES, TILE_BYTES, JPEG_TABLES = 259, 273, 279, 324, 325, 347


def found(image, data: bytes) -> bool:
    """Whether a part of an image file was lost.

    Args:
      image: the Pillow image that was opened, not yet decoded.
      data: the file.
    """
    if data.find(bytes(SECTOR_BYTES)) < 0:
        return False
    if image.format == 'JPEG':
        return in_jpeg(data)
    if image.format == 'WEBP':
        return _webp(data, image.width * image.height)
    return image.format == 'TIFF' and _tiff(image.tag_v2, data, image.width * image.height)


def _webp(data: bytes, pixels: int) -> bool:
    """Whether zeros among the pixels are more than a flat image of that size would have."""
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at:at + 4], int.from_bytes(data[at + 4:at + 8], 'little')
        if kind in (b'VP8 ', b'VP8L'):
            runs = re.findall(rb'\0{%d,}' % SECTOR_BYTES, data[at + 8:at + 8 + size])
            return any(len(run) * FLAT_PIXELS > pixels for run in runs)
        at += 8 + size + size % 2
    return False


def _tiff(tags, data: bytes, pixels: int) -> bool:
    """Whether a strip or tile does not decompress to its check sum; libtiff stops before that, once it has all pixels."""
    places, sizes = (STRIPS, STRIP_BYTES) if STRIPS in tags else (TILES, TILE_BYTES)
    parts = [data[at:at + size] for at, size in zip(tags.get(places, ()), tags.get(sizes, ()), strict=False)]
    if tags.get(COMPRESSION) == TIFF_JPEG:
        tables = bytes(tags.get(JPEG_TABLES, b'')) or b'\xff\xd8\xff\xd9'
        return any(in_jpeg(tables[:-2] + part[2:]) for part in parts)
    if tags.get(COMPRESSION) not in DEFLATE:
        return False
    for part in parts:  # up to eight bytes per pixel, and tiles that are mostly outside
        stream = zlib.decompressobj()
        try:
            unpacked = stream.decompress(part, 64 * pixels + 4096)
        except zlib.error:
            return True
        if not stream.eof and len(unpacked) <= 64 * pixels:
            return True
    return False


def in_jpeg(data: bytes) -> bool:
    """Whether a sector of zeros is among the pixels of a baseline JPEG; decoders take it for pixels, without an error.

    Zero bits are the shortest code of each Huffman table (ITU T.81, annex C). They are an image only where each of these
    codes means "no change": then the image is flat there, and its tables were optimised for it.
    """
    if data.find(bytes(SECTOR_BYTES)) < 0:
        return False
    at, shortest = 2, []
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if kind == 0xC2:  # progressive: its refinement bits may be zero
            return False
        table = at + 4
        while kind == 0xC4 and table + 18 <= end:
            shortest.append(data[table + 17] if table + 17 < len(data) else 0)
            table += 17 + sum(data[table + 1:table + 17])
        at = end
        if kind == 0xDA:
            break
    return any(shortest) and data.find(bytes(SECTOR_BYTES), at) >= 0
