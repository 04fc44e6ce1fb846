"""Nested mappings as data: configs, the contents of config.json and run.json."""
import math
from collections.abc import Mapping
from typing import Any

import ml_collections


def is_section(value) -> bool:
    """Whether a value of a config is a section with keys of its own."""
    return isinstance(value, Mapping | ml_collections.ConfigDict)


def leaves(config: Mapping, prefix: str = '') -> dict:
    """{'a.b': value} of every key that is not itself a section."""
    found = {}
    for key in config:
        value = config[key]
        if is_section(value):
            found |= leaves(value, f'{prefix}{key}.')
        else:
            found[f'{prefix}{key}'] = value
    return found


def tuples(value):
    """The value with tuples for all its lists."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def difference(config: Mapping, base: Mapping) -> dict:
    """{'a.b': (value here, value in base)} of the keys that are not the same; None where a side has none. Lists and tuples of
    the same values are the same."""
    ours, theirs = ({k: tuples(v) for k, v in leaves(c).items()} for c in (config, base))
    return {key: (ours.get(key), theirs.get(key)) for key in {**theirs, **ours} if key not in ours or key not in theirs
            or ours[key] != theirs[key]}


def plain(value: Any) -> Any:
    """The value as dicts, lists, numbers, strings, booleans and None, as JSON returns them."""
    if hasattr(value, 'tolist'):  # numpy and JAX
        value = value.tolist()
    if is_section(value):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | bool | int) or value is None else str(value)


def lines(config: Mapping) -> str:
    """One `key = value` per line, for people."""
    found = leaves(config)
    width = max(map(len, found), default=0)
    return '\n'.join(f'  {key:{width}} = {value!r}' for key, value in found.items())
