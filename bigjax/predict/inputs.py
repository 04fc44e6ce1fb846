"""The words after `predict` as single inputs: files, folders, tables with one row per line, and rows written out."""
import csv
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bigjax.data import folders, images
from bigjax.data.loaders import formats, tables
from bigjax.errors import UserError
from bigjax.io.text import first_line, printable

TABLES = ('.csv', '.tsv', '.json', '.jsonl')


def expanded(words: Sequence[str], accepts: Sequence[str]) -> list[tuple[str, Any]]:
    """[(name, raw)] of every input: raw is a path, {column: text}, a list of numbers as text, or what JSON holds.

    Args:
      words: paths, @FILE (lines of text), a JSON row ('[1, 2]', '{"age": 3}'), numbers with commas ('1,2'), or a text; of a
        model that answers questions, these and then @FILE, or the text that they are asked about.
      accepts: `Interface.accepts`.

    Raises:
      UserError: a file that is not there, of an ending that the model does not take, or that holds no rows.
    """
    if 'question' in accepts:
        return list(_questions(words, accepts))
    return [pair for word in words for pair in _one(word, accepts)]


def _questions(words: Sequence[str], accepts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The questions before each @FILE are asked about its text; without one, those before the last word about that."""
    asked: list[str] = []
    for number, word in enumerate(words, 1):
        path = pathlib.Path(word.removeprefix('@')).expanduser()
        if not word.strip():
            raise UserError("an input: got '', expected a question or a text; fix: write it", code='predict/nothing')
        if path.suffix.lower() in TABLES and _exists(path):
            yield from _file(path, accepts)
            continue
        if word.startswith('@') and _is_name(word[1:]):
            if not _exists(path):
                raise UserError(f'{printable(path)}: there is no such file; fix: the path after @', code='predict/no-file')
            context, where = formats.text(path), f' · {path}'
        elif number == len(words) and asked:
            context, where = word, ''
        else:
            asked.append(word)
            continue
        if not asked:
            raise UserError(f'{printable(word)[:60]}: got a text without a question before it, expected one; fix: predict '
                            "'QUESTION' @FILE", code='predict/no-question')
        yield from ((f'{printable(question)[:60]}{where}', {'question': question, 'context': context}) for question in asked)
        asked = []
    if asked:
        raise UserError(f'{printable(asked[0])[:60]}: got a question without a text, expected one after it; fix: predict '
                        "'QUESTION' @FILE, or 'QUESTION' 'TEXT'", code='predict/no-question')


def _one(word: str, accepts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    path = pathlib.Path(word).expanduser()
    if not word.strip():  # as a path it would be the current folder
        raise UserError("an input: got '', expected a file, a folder, a row or a text; fix: write it", code='predict/nothing')
    if 'text' in accepts and word.startswith('@') and _is_name(word[1:]):  # as of curl: the lines of a file
        path = pathlib.Path(word[1:]).expanduser()
        if not _exists(path):
            raise UserError(f'{printable(path)}: there is no such file; fix: the path after @', code='predict/no-file')
        yield from _file(path, accepts)
    elif 'text' in accepts and not _exists(path):
        yield printable(word)[:40], word
    elif 'row' in accepts and (row := _written_out(word)) is not None:
        yield printable(word)[:40], row
    elif not _exists(path):
        row = ', nor is it a row, in JSON or as numbers with commas' if 'row' in accepts else ''
        raise UserError(f'{printable(word)}: there is no such file or folder{row}; fix: check the path', code='predict/no-file')
    elif path.is_dir():
        found = folders.walk(path)[0] if images.EXTENSIONS[0] in accepts else [
            p for p in sorted(path.rglob('*')) if p.is_file() and p.suffix.lower() in accepts
            and not any(map(folders.hidden, p.relative_to(path).parts))]
        if not found:
            raise UserError(f'{path}: got a folder without {_shown(accepts)}, expected such files; fix: the path',
                            code='predict/empty-folder')
        for file in found:
            yield from _file(file, accepts)
    else:
        yield from _file(path, accepts)


def _is_name(word: str) -> bool:
    """Whether a word may be the name of a file: one word, with an ending or in a folder."""
    return bool(word) and (_exists(pathlib.Path(word).expanduser()) or (
        not any(map(str.isspace, word)) and ('/' in word or bool(pathlib.Path(word).suffix))))


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a zero in it
        return False


def _file(path: pathlib.Path, accepts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    ending = path.suffix.lower()
    if ending not in accepts and not (images.EXTENSIONS[0] in accepts and not ending and images.looks_like_image(path)):
        raise UserError(f'{path}: got a file of the kind {ending or "(none)"}, expected {_shown(accepts)}; fix: convert '
                        'it', code='predict/kind')
    if 'document' in accepts and ending not in TABLES:
        yield str(path), formats.text(path)
        return
    if 'text' in accepts and ending not in TABLES:
        lines = [line.strip() for line in formats.lines(path)]
        if not any(lines):
            raise UserError(f'{path}: got no line of text, expected one per input; fix: add some', code='predict/empty-file')
        yield from ((f'{path}:{number}', line) for number, line in enumerate(lines, 1) if line)
        return
    if ending not in TABLES:
        yield str(path), path
        return
    try:
        rows = list(_rows(formats.text(path), ending))
    except (ValueError, csv.Error) as error:
        raise UserError(f'{path}: got a file that is no {ending} ({first_line(error)}), expected one row per line; fix: '
                        'correct it', code='predict/unreadable') from None
    if not rows:
        raise UserError(f'{path}: got no row, expected one per input; fix: add some', code='predict/empty-file')
    for number, row in enumerate(rows, 1):
        yield (f'{path}:{number}' if len(rows) > 1 else str(path)), row


def _rows(text: str, ending: str) -> Iterator[Any]:
    if ending == '.json':
        found = json.loads(text)
        yield from found if isinstance(found, list) and found and isinstance(found[0], list | dict) else [found]
    elif ending == '.jsonl':
        yield from (json.loads(line) for line in text.split('\n') if line.strip())
    else:
        rows = csv.reader(io.StringIO(text, newline=''), delimiter=tables.separator(text))
        lines = [row for row in rows if any(map(str.strip, row))]
        if lines and not all(map(_is_number, lines[0])):
            head = [name.strip() for name in lines[0]]
            for row in lines[1:]:
                if len(row) != len(head):
                    raise ValueError(f'a row of {len(row)} cells under {len(head)} names')
                yield dict(zip(head, row, strict=True))
        else:
            yield from lines


def _written_out(word: str) -> Any:
    """A row that is the word itself, or None."""
    if word.lstrip()[:1] in ('[', '{'):
        try:
            return json.loads(word)
        except ValueError as error:
            raise UserError(f'{printable(word)[:60]}: got no JSON ({first_line(error)}), expected a row; fix: correct it',
                            code='predict/json') from None
    cells = word.split(',')
    return cells if len(cells) > 1 and all(map(_is_number, cells)) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(accepts: Sequence[str]) -> str:
    return ', '.join(a for a in accepts if a.startswith('.')) or 'no files'
