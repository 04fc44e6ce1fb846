"""The text after the engine's name in --on, 'v5e-16,zone=us-west4-a,spot', as a dataclass of the engine's own."""
import dataclasses
import types
import typing
from typing import Any, TypeVar

from bigjax.errors import UserError
from bigjax.io.text import hint

T = TypeVar('T')


def parse(kind: str, text: str, cls: type[T]) -> T:
    """Reads items between commas: 'key=value'; 'key' alone for yes; any other item is a value of the first field, in order.

    A value with commas is quoted: setup='a, b'. Fields are str, int, float, bool, or tuple[str, ...], each with its meaning
    in its metadata, field(metadata={'help': …}).

    Raises:
      UserError: a key that the engine does not have, a value of another type, a missing required field.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints, first = typing.get_type_hints(cls), next(iter(fields))
    values: dict[str, Any] = {}
    loose = []
    for item in _split(f'--on={kind}:{text}', text):
        key, equals, value = item.partition('=')
        if equals or (key in fields and hints[key] is bool):
            if key not in fields:
                raise UserError(f"--on={kind}:{text}: no '{key}'{hint(key, fields)}; fix: write one of {', '.join(fields)}",
                                code='launch/unknown-key')
            values[key] = _value(f'--on={kind}: {key}={value}', value if equals else 'yes', hints[key])
        else:
            if values and hints[first] == tuple[str, ...]:
                raise UserError(f"--on={kind}:{text}: '{item}' comes after key=value; fix: write the {first} first, and a "
                                "value with commas in quotes that the shell leaves alone: \"key='a, b'\"",
                                code='launch/bad-order')
            loose.append(item)
    if hints[first] == tuple[str, ...]:
        values.update({first: tuple(loose)} if loose else {})
    elif len(loose) > 1:
        near = f'; the key needs a value, {loose[1]}=…' if loose[1] in fields else hint(loose[1], fields)
        raise UserError(f"--on={kind}:{text}: '{loose[1]}' is not key=value{near}; fix: write one of {', '.join(fields)}",
                        code='launch/unknown-key')
    elif loose:
        values[first] = _value(f'--on={kind}: {loose[0]}', loose[0], hints[first])
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"--on={kind}:{text}: {name} is missing ({field.metadata.get('help', '')})",
                            code='launch/missing-key')
    return cls(**values)


def write(value: Any) -> str:
    """The text of a target, the inverse of `parse`."""
    items = []
    for number, field in enumerate(dataclasses.fields(value)):
        this = getattr(value, field.name)
        if not number and isinstance(this, tuple):
            items += map(_quoted, this)
        elif this != field.default:
            words = '+'.join(this) if isinstance(this, tuple) else str(this)
            if isinstance(this, bool):
                words = 'yes' if this else 'no'
            items.append(_quoted(words) if not number else f'{field.name}={_quoted(words)}')
    return ','.join(items)


def _quoted(words: str) -> str:
    quote = '"' if "'" in words else "'"
    return f'{quote}{words}{quote}' if any(letter in words for letter in ',\'"') else words


def describe(cls: type) -> list[tuple[str, str]]:
    """A list of (key=default, meaning), one per field, for --help."""
    rows = []
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = '' if needed or field.default in ('', (), dataclasses.MISSING) else f'={field.default}'
        rows.append((f'{field.name}{default}', field.metadata.get('help', '')))
    return rows


def text(meaning: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its meaning."""
    return dataclasses.field(default=default, metadata={'help': meaning})


def _split(where: str, text: str) -> list[str]:
    items, item, quote = [], '', ''
    for letter in text:
        if quote:
            item, quote = (item, '') if letter == quote else (item + letter, quote)
        elif letter in '\'"':
            quote = letter
        elif letter == ',':
            items.append(item)
            item = ''
        else:
            item += letter
    if quote:
        raise UserError(f'{where}: the quote {quote} is not closed; fix: close it', code='launch/open-quote')
    return [item.strip() for item in [*items, item] if item.strip()]


def _value(where: str, text: str, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is bool:
        if text.lower() in ('yes', 'true', '1', 'no', 'false', '0'):
            return text.lower() in ('yes', 'true', '1')
        raise UserError(f'{where}: expected yes or no', code='launch/bad-value')
    if kind == tuple[str, ...]:
        return tuple(part for part in text.split('+') if part)
    try:
        return kind(text)
    except ValueError:
        raise UserError(f'{where}: expected {"a whole number" if kind is int else "a number"}',
                        code='launch/bad-value') from None
