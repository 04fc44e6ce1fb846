"""Configs: what the command line may override, and proof that every key is read.

A config is an `ml_collections.ConfigDict` made by an experiment's `get_config(variant)`. `override` puts
`--config.a.b=value` into it under the type that stands there; `Reader` is the window through which the run looks at it
and knows at the end which keys nobody read.
"""
import ast
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import ml_collections

from bigjax.errors import UserError

DURATION = re.compile(r'\s*[\d.]+\s*(%|[a-z]+)\s*')
ELSEWHERE = {'epochs': "--config.steps='10 epochs'", 'lr': '--config.optimizer.lr', 'learning_rate': '--config.optimizer.lr'}

OPTIONAL = {  # section: keys that may be set although the script does not set them
    'optimizer': ('schedule', 'weight_decay', 'l2', 'l1', 'clip_norm', 'clip_value', 'max_norm', 'lr_mults', 'wd_mults',
                  'wd_mask', 'frozen', 'lookahead', 'swa'),
    'optimizer.schedule': ('warmup', 'hold', 'end', 'factor', 'boundaries', 'every', 'patience', 'cooldown', 'min_lr')}


def leaves(config: Mapping, prefix: str = '') -> dict:
    """{'a.b': value} of every key that is not itself a section."""
    found = {}
    for key in config:
        value = config[key]
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            found |= leaves(value, f'{prefix}{key}.')
        else:
            found[f'{prefix}{key}'] = value
    return found


def nearest(name: str, valid: Sequence[str]) -> str:
    """'; the nearest is …' or ''."""
    tails = {key.rsplit('.', 1)[-1]: key for key in valid}
    match = difflib.get_close_matches(name, valid, 1, 0.5)
    if not match and (tail := difflib.get_close_matches(name.rsplit('.', 1)[-1], tails, 1, 0.6)):
        match = [tails[tail[0]]]
    return f'; the nearest is {match[0]}' if match else ''


def parse(key: str, text: str, current):
    """The value that `text` means for a key that holds `current` now.

    Raises:
      UserError: it does not fit the key's type.
    """
    def wrong(what):
        shown = text if text.isprintable() and len(text) <= 200 else ascii(text[:200])
        return UserError(f'--config.{key}={shown}: {what}; it is now {current!r}')

    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (RecursionError, MemoryError):
        raise wrong('is nested too deeply') from None
    except (ValueError, SyntaxError, TypeError):  # [] as a key of a dict is a TypeError
        value = {'true': True, 'false': False, 'none': None}.get(text.lower(), text)
    if not storable(value):
        raise wrong('wants text, a number, or lists and sections of them')
    if current is None:
        return value
    if isinstance(current, bool):
        if not isinstance(value, bool):
            raise wrong('wants True or False')
        return value
    if isinstance(current, int | float):
        if isinstance(value, str) and isinstance(current, int) and DURATION.fullmatch(text):
            return text  # a duration; what reads the key knows whether it may be one
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong('wants a number')
        if isinstance(current, int) and (not math.isfinite(value) or value != int(value) or not storable(int(value))):
            raise wrong('wants a whole number')
        return float(value) if isinstance(current, float) else int(value)
    if isinstance(current, tuple | list):
        return type(current)(value if isinstance(value, tuple | list) else (value,))
    raise wrong(f'a {type(current).__name__} cannot be set here')


def storable(value) -> bool:
    """Whether JSON can hold a value, and so config.json: no bytes, sets or complex numbers, no whole number beyond 64 bits."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and '.' not in key for key in value) and all(map(storable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(storable, value))
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and -2**63 <= value < 2**64)


def override(config: ml_collections.ConfigDict, overrides: Mapping[str, str]) -> ml_collections.ConfigDict:
    """A copy of `config` with {'a.b': text} put in.

    Raises:
      UserError: an unknown key (the nearest is named) or a value of the wrong type.
    """
    config = ml_collections.ConfigDict(config, type_safe=False)
    known = leaves(config)
    sections = {key.rpartition('.')[0] for key in known}
    optional = {f'{section}.{key}' for section in sections for key in OPTIONAL.get(section, ())} - sections
    known = dict.fromkeys(sorted(optional)) | known
    for key, text in overrides.items():
        if key not in known:
            inside = [k for k in known if k.startswith(f'{key}.')]
            hint = (f"; it is a section: {', '.join(inside)}" if inside else
                    f'; write {ELSEWHERE[key]}' if key in ELSEWHERE else nearest(key, list(known)))
            shown = key if key.isprintable() and len(key) <= 200 else ascii(key[:200])
            raise UserError(f"--config.{shown}: no such key{hint}")
        section, _, last = key.rpartition('.')
        target = config
        for part in filter(None, section.split('.')):
            target = target[part]
        with target.ignore_type():
            target[last] = parse(key, text, known[key])
    return config


class Reader(Mapping):
    """A config that remembers which keys were read: `config.a.b`, `config['a']`, `**config.model`, `config.get('a')`."""

    def __init__(self, config: Mapping, path: str = '', read: set | None = None):
        self._config, self._path = config, path
        self._read = set() if read is None else read

    def __getitem__(self, key: str):
        if key not in self._config:
            raise KeyError(key)
        value = self._config[key]
        if isinstance(value, Mapping | ml_collections.ConfigDict):
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
                            f'{nearest(key, list(self._config))}') from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)

    def unread(self) -> list[str]:
        """The keys that nobody has read."""
        return [key for key in leaves(self._config) if f'{self._path}{key}' not in self._read]

    def check(self) -> None:
        """Raises UserError where a key was set and never read."""
        if names := self.unread():
            also = f" (also {', '.join(names[1:4])})" if names[1:] else ''
            raise UserError(f'config.{names[0]}: set, and never read by this run{also}'
                            f'{nearest(names[0], sorted(self._read))}; remove it or mend its name')


def plain(config: Mapping) -> dict:
    """The config as nested dicts of JSON values."""
    def value(v):
        if isinstance(v, Mapping | ml_collections.ConfigDict):
            return plain(v)
        return [value(x) for x in v] if isinstance(v, tuple | list) else v

    return {key: value(config[key]) for key in config}


def lines(config: Mapping) -> str:
    """One `key = value` a line, for people."""
    found = leaves(config)
    width = max(map(len, found), default=0)
    return '\n'.join(f'  {key:{width}} = {value!r}' for key, value in found.items())
