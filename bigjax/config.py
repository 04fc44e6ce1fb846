"""Configs: which keys the command line may override, and the proof that every key that was set is read.

A config is an `ml_collections.ConfigDict` made by an experiment's `get_config(variant)`. `override` puts
`--config.a.b=value` into a copy of it, with the type of the value that is there; `Reader` is the view that the run
reads, and lists the keys that were never read.
"""
import ast
import copy as copies
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_collections

from bigjax.errors import UserError
from bigjax.io.nested import is_section, leaves, tuples
from bigjax.io.text import hint, printable

DURATION = re.compile(r'\s*[\d.]+\s*(%|[a-z]+)\s*')
ELSEWHERE = {'epochs': "--config.steps='10 epochs'", 'lr': '--config.optimizer.lr', 'learning_rate': '--config.optimizer.lr'}
OPTIONAL = re.compile(r'optimizer\.\w+')  # None leaves such a key out, so that an optimizer without it can take its place
PUBLISHED = 'published'  # the section of what the paper reports: a record of the script's, never set from outside


def parse(key: str, text: str, current):
    """The value that `text` means for a key that holds `current` now.

    Raises:
      UserError: it does not fit the key's type.
    """
    def wrong(expected):
        return UserError(f'--config.{key}={printable(text)}: expected {expected}; it is now {current!r}', code='config/type')

    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (RecursionError, MemoryError):
        raise wrong('a value that is nested less deeply') from None
    except (ValueError, SyntaxError, TypeError):  # [] as a key of a dict is a TypeError
        value = {'true': True, 'false': False, 'none': None}.get(text.lower(), text)
    if not storable(value):
        raise wrong('text, a number, or lists and sections of them')
    if current is None or (value is None and OPTIONAL.fullmatch(key)):
        return value
    if isinstance(current, bool):
        if not isinstance(value, bool):
            raise wrong('True or False')
        return value
    if isinstance(current, int | float):
        if isinstance(value, str) and isinstance(current, int) and DURATION.fullmatch(text):
            return text  # a duration; the code that reads the key decides whether it may be one
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong('a number')
        if isinstance(current, int) and (not math.isfinite(value) or value != int(value) or not storable(int(value))):
            raise wrong('a whole number')
        return float(value) if isinstance(current, float) else int(value)
    if isinstance(current, tuple | list):
        return type(current)(value if isinstance(value, tuple | list) else (value,))
    raise wrong(f'no value: a {type(current).__name__} cannot be set here')


def storable(value) -> bool:
    """Whether JSON can hold a value, and so config.json: no bytes, sets or complex numbers, no whole number beyond 64 bits."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and '.' not in key for key in value) and all(map(storable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(storable, value))
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and -2**63 <= value < 2**64)


def copy(config: Mapping) -> ml_collections.ConfigDict:
    """A copy that shares no section and no list with `config`, and whose values may change their type."""
    new = ml_collections.ConfigDict(type_safe=False)
    for key in config:
        value = config[key]
        new[key] = copy(value) if is_section(value) else copies.deepcopy(value)
    return new


def override(config: Mapping, overrides: Mapping[str, str],
             optional: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
    """A copy of `config` with {'a.b': text} put in.

    Args:
      optional: {'a.b': its default} of keys that may be set although the config does not have them, where it has 'a'.

    Raises:
      UserError: an unknown key (the nearest is named), one that cannot be set, or a value of the wrong type.
    """
    config = copy(config)
    for key, text in overrides.items():
        known = {**(optional or {}), **leaves(config)}
        shown = printable(key)
        if key.partition('.')[0] == PUBLISHED:
            raise UserError(f'--config.{shown}: it is what the paper reports, which the script states; fix: leave it out',
                            code='config/fixed')
        target = _section(config, key) if key in known else None
        if target is None:
            inside = [k for k in known if k.startswith(f'{key}.')]
            there = [k for k in known if section_of(config, k)]
            fix = (f"; it is a section: {', '.join(inside)}" if inside else
                   f'; write {ELSEWHERE[key]}' if key in ELSEWHERE else hint(key, there))
            raise UserError(f'--config.{shown}: no such key{fix}', code='config/unknown-key')
        target[key.rpartition('.')[2]] = parse(key, text, known[key])
    return config


def section_of(config, key: str) -> bool:
    """Whether the section of a key is in the config."""
    return not (section := key.rpartition('.')[0]) or is_section(_at(config, section)) or isinstance(_at(config, section), str)


def _at(config, path: str):
    for part in path.split('.'):
        config = config.get(part) if is_section(config) else None
    return config


def _section(config, key: str):
    """The section that holds a key, None where there is none. A section that is written as its name alone
    (schedule='cosine') becomes {'name': 'cosine'}."""
    target = config
    for part in key.split('.')[:-1]:
        if part not in target:
            return None
        if isinstance(target[part], str):
            target[part] = ml_collections.ConfigDict({'name': target[part]}, type_safe=False)
        target = target[part]
        if not is_section(target):
            return None
    return target


def complete(config: Mapping, base: Mapping) -> ml_collections.ConfigDict:
    """A copy of a config with the keys of `base` that it lacks."""
    config = copy(config)
    for key in base:
        if key not in config:
            config[key] = base[key]
    return config


def restore(config: Mapping, stored: Mapping) -> ml_collections.ConfigDict:
    """A copy of `config` with the values of a config.json in place of its own; lists become tuples again."""
    config = copy(config)
    for key, value in stored.items():
        if isinstance(value, Mapping):
            inner = config.get(key)
            config[key] = restore(inner if is_section(inner) else {}, value)
        else:
            config[key] = tuples(value)
    return config


class Reader(Mapping):
    """A config that records which keys were read: `config.a.b`, `config['a']`, `**config.model`, `config.get('a')`.

    Args:
      untouched: keys that need not be read, because neither the script nor the user has set them.
    """

    def __init__(self, config: Mapping, path: str = '', read: set | None = None, untouched: Collection[str] = ()):
        self._config, self._path, self._untouched = config, path, frozenset(untouched)
        self._read = set() if read is None else read

    def __getitem__(self, key: str):
        if key not in self._config:
            raise KeyError(key)
        value = self._config[key]
        if is_section(value):
            return Reader(value, f'{self._path}{key}.', self._read)
        self._read.add(f'{self._path}{key}')
        return value

    def __getattr__(self, key: str):
        if key.startswith('_'):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            raise UserError(f'config.{self._path}{key}: the experiment reads this key and its config does not set it'
                            f'{hint(key, list(self._config))}', code='config/missing-key') from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)

    def unread(self) -> list[str]:
        """The keys that were set and never read."""
        return [key for key in leaves(self._config) if f'{self._path}{key}' not in self._read | self._untouched]

    def check(self) -> None:
        """Raises UserError where a key was set and never read."""
        if names := self.unread():
            also = f" (also {', '.join(names[1:4])})" if names[1:] else ''
            raise UserError(f'config.{names[0]}: set, and never read by this run{also}{hint(names[0], self._read)}; fix: '
                            'remove or rename it', code='config/unread-key')
