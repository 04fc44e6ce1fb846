"""YAML as people read it, from dicts, lists and scalars; what kubectl and SkyPilot read back is exactly what was written.

A string stands plain where no reader could take it for anything else, as a block where it has lines, else in quotes.
"""
import math
import re
from collections.abc import Mapping
from typing import Any

PLAIN = re.compile(r'[A-Za-z_/][A-Za-z0-9_./:@=+,()-]*( [A-Za-z0-9_./=+,()@-][A-Za-z0-9_./:@=+,()-]*)*')
RESERVED = {'y', 'n', 'yes', 'no', 'on', 'off', 'true', 'false', 'null'}  # of YAML 1.1, which both readers speak
SHORT = {'"': '\\"', '\\': '\\\\', '\n': '\\n', '\t': '\\t', '\r': '\\r'}


def dump(value: Mapping[str, Any]) -> str:
    """One document.

    Raises:
      TypeError: it holds something else than dicts with string keys, lists, str, int, float, bool and None.
    """
    return _block(value, '').removeprefix('\n')


def _block(value: Any, indent: str) -> str:
    """What stands after a key or a hyphen, its newline in front included."""
    if isinstance(value, Mapping) and value:
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f'{key!r} is no key of a manifest')
        return '\n' + ''.join(f'{indent}{_scalar(key)}:{_after(item, indent)}' for key, item in value.items())
    if isinstance(value, list | tuple) and value:
        items = (_block(item, f'{indent}  ') for item in value)
        rows = ((f" {item.lstrip()}" if item.startswith('\n') else item) for item in items)
        return '\n' + ''.join(f'{indent}-{row}' for row in rows)
    if isinstance(value, str) and _lines(value):
        hyphen = '' if value.endswith('\n') else '-'
        body = ''.join(f'{indent}{line}\n' if line else '\n' for line in value.removesuffix('\n').split('\n'))
        return f' |{hyphen}\n{body}'
    return f' {_scalar(value)}\n'


def _after(value: Any, indent: str) -> str:
    """The value of a key: a list stands as far left as its key."""
    return _block(value, indent if isinstance(value, list | tuple) else f'{indent}  ')


def _scalar(value: Any) -> str:
    if value is None:
        return 'null'
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)
        return text if 'e' not in text else f'{value:.17e}'
    if isinstance(value, Mapping | list | tuple):
        return '{}' if isinstance(value, Mapping) else '[]'
    if not isinstance(value, str):
        raise TypeError(f'{value!r} cannot stand in a manifest')
    if PLAIN.fullmatch(value) and not value.endswith(':') and value.lower() not in RESERVED and ': ' not in value:
        return value
    return '"' + ''.join(map(_escaped, value)) + '"'


def _escaped(letter: str) -> str:
    if letter in SHORT:
        return SHORT[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f'\\x{code:02x}' if code < 0x100 else f'\\u{code:04x}' if code < 0x10000 else f'\\U{code:08x}'


def _lines(text: str) -> bool:
    """Whether it is several lines that a block gives back as they are."""
    return ('\n' in text.rstrip('\n') and not text.endswith('\n\n') and text[0] not in ' \n'
            and all(line.isprintable() and line == line.rstrip() for line in text.split('\n')))
