"""Text files as documents: what a tokenizer is trained on, and what is written as tokens.

A .txt file is one document, a line of a .jsonl file is one (its key 'text', or another); either may be gzipped. Large files are
read in parts, which are cut where the tokens do not depend on it.
"""
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bigjax.data.loaders import formats
from bigjax.data.text import cleaned
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

ENDINGS = ('.txt', '.jsonl')
PART_BYTES = 4 << 20  # a part is about so long
BLOCK_BYTES = 1 << 16


class Part(NamedTuple):
    """Bytes start … end of a file; `whole` where a gzipped file is one part, `ends` where a document ends with it."""

    path: str
    start: int
    end: int
    ends: bool
    whole: bool = False


def found(places: Sequence[str]) -> list[pathlib.Path]:
    """The files of places, which are files, or folders that are searched for .txt and .jsonl.

    Raises:
      UserError: a place that is not there, or a folder without such a file.
    """
    files = []
    for place in places:
        path = pathlib.Path(place).expanduser()
        if path.is_dir():
            inside = [p for p in sorted(path.rglob('*')) if p.is_file() and _kind(p) in ENDINGS]
            if not inside:
                raise UserError(f'{path}: got a folder without a .txt or .jsonl file, expected one; fix: name the files',
                                code='data/no-file')
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f'{path}: there is no such file or folder; fix: check the path', code='data/no-file')
    return files


def parts(files: Sequence[pathlib.Path], cuttable: bool, size: int = PART_BYTES) -> list[Part]:
    """The files in parts of about `size` bytes; a .txt file is cut only where `cuttable` (see `Tokenizer.cuttable`)."""
    out = []
    for path in files:
        length = os.path.getsize(path)
        if path.suffix == '.gz':
            out.append(Part(str(path), 0, length, True, whole=True))
            continue
        lines, start = _kind(path) == '.jsonl', 0
        while start < length:
            end = _cut(path, start + size, length, lines) if lines or cuttable else length
            out.append(Part(str(path), start, end, lines or end == length))
            start = end
    return out


def divided(units: Sequence[Part], fraction: float, cuttable: bool) -> tuple[list[Part], list[Part]]:
    """(training parts, the last `fraction` of all bytes), cut at the next place where a document may be cut.

    Raises:
      UserError: nothing is left for one of them.
    """
    target, before, train = (1 - fraction) * sum(u.end - u.start for u in units), 0, []
    rest = list(units)
    while rest and before + rest[0].end - rest[0].start <= target:
        before += rest[0].end - rest[0].start
        train.append(rest.pop(0))
    if rest and before < target and not rest[0].whole:
        unit = rest[0]
        lines = _kind(pathlib.Path(unit.path)) == '.jsonl'
        if lines or cuttable:
            at = _cut(unit.path, unit.start + int(target - before), unit.end, lines)
            if at < unit.end:
                train.append(unit._replace(end=at, ends=lines))
                rest[0] = unit._replace(start=at)
    if not train or not rest:
        raise UserError(f'val_fraction={fraction}: got one document that cannot be cut so, expected a part for each; fix: name '
                        'the validation text by --val', code='data/held-out')
    return train, rest


def texts(unit: Part, key: str = 'text') -> Iterator[tuple[str, bool]]:
    """(a document or a part of one, whether it ends there) of a part.

    Raises:
      UserError: bytes that are not UTF-8 (with the file and the offset), a line that is no JSON object with a text `key`.
    """
    if unit.whole:
        data, start = formats.read(unit.path), 0
    else:
        with open(unit.path, 'rb') as file:
            file.seek(unit.start)
            data, start = file.read(unit.end - unit.start), unit.start
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f'{unit.path}: byte {start + error.start} is not UTF-8 (0x{data[error.start]:02x}); fix: save the file '
                        'as UTF-8', code='data/not-utf8') from error
    if _kind(pathlib.Path(unit.path)) != '.jsonl':
        if text:
            yield cleaned(text) if start == 0 else text.replace('\r\n', '\n').replace('\r', '\n'), unit.ends
        return
    for number, line in enumerate(text.split('\n'), 1):
        if line.strip():
            where = f'{unit.path}: line {number} after byte {start}'
            try:
                record = safe_read.parsed(line.removeprefix('\ufeff'))
            except ValueError as error:
                raise UserError(f'{where}: got no JSON ({first_line(error)}), expected one object per line',
                                code='data/not-json') from error
            if not isinstance(record, dict) or not isinstance(record.get(key), str):
                raise UserError(f'{where}: got no text under {printable(key)!r}, expected one; fix: --key=NAME',
                                code='data/no-text')
            yield record[key], True


def _kind(path: pathlib.Path) -> str:
    return pathlib.Path(path.name.removesuffix('.gz')).suffix.lower()


def _cut(path, position: int, end: int, lines: bool) -> int:
    """The next place after `position` where the file may be cut: after a line end, which in running text is alone between
    two characters (a run of blanks may be one token)."""
    with open(path, 'rb') as file:
        start = max(position - 4, 0)
        file.seek(start)
        data = b''
        while start + len(data) < end:
            block = file.read(BLOCK_BYTES)
            data += block
            at = data.find(b'\n', max(position - start, 0))
            while 0 <= at < len(data) - 4:
                place = start + at + 1
                if place >= end:
                    return end
                if lines or not (_blank(data[max(at - 3, 0):at], -1) or _blank(data[at + 1:at + 5], 0)):
                    return place
                at = data.find(b'\n', at + 1)
            if not block:
                break
            if len(data) > BLOCK_BYTES:
                kept = max(len(data) - 8, 0) if at < 0 else max(at - 4, 0)
                start, data = start + kept, data[kept:]
                position = max(position, start + 4)
    return end


def _blank(data: bytes, index: int) -> bool:
    """Whether the first (0) or last (-1) character is a blank; a part of a character at the other side does not count."""
    text = data.decode('utf-8', 'ignore')
    return not text or text[index].isspace()
