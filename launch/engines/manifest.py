"""Manifests as YAML text, for the tools that engines submit to (kubectl, sky)."""
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

# kubectl's parser reads more words as numbers or booleans than PyYAML does (y, 0o7, 1e-3), so a string stays without quotes
# only if it begins as no number does, and PyYAML quotes what it would itself read as something else (yes, null).
PLAIN = re.compile(r'[A-Za-z_/].+')


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, with strings quoted as above and a string of several lines as a block."""

    def ignore_aliases(self, data):
        """Writes a value that occurs twice in full: a manifest is read by people."""
        return True


def _string(dumper: _Dumper, value: str) -> yaml.Node:
    style = '|' if '\n' in value else None if PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar('tag:yaml.org,2002:str', value, style=style)


_Dumper.add_representer(str, _string)


def dump(value: Mapping[str, Any]) -> str:
    """One document of dicts, lists and scalars, with the keys in their order.

    Raises:
      yaml.YAMLError: the value holds something else.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
