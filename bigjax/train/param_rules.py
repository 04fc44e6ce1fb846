"""Rules by parameter path: which parameters a regex of an optimizer's config means, and the value that it gives them."""
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from bigjax.errors import UserError
from bigjax.io.nested import is_section


def as_spec(spec, place: str = 'optimizer') -> Mapping:
    """A spec as a mapping, an optax transformation too.

    Raises:
      UserError: it is neither.
    """
    spec = {'fn': spec} if isinstance(spec, optax.GradientTransformation) else spec
    if not is_section(spec):
        name = spec if isinstance(spec, str) and spec else 'adam'
        raise UserError(f'{place}: got {spec!r}, expected a section; fix: {place}=dict(name={name!r}, lr=1e-3)',
                        code='optimizer/no-section')
    return spec


def assign(rules: Sequence[tuple[str, Any]], paths: Sequence[str], place: str) -> dict[str, Any]:
    """{path: value} by the first rule whose regex matches the whole path.

    Args:
      rules: ((regex, value), …).
      paths: the paths of the parameters.
      place: the config key that holds the rules, for errors.

    Raises:
      UserError: a regex is not one, matches nothing, or matches only parameters that an earlier rule has taken.
    """
    assigned = {}
    for regex, value in rules:
        try:
            matched = [path for path in paths if re.fullmatch(regex, path)]
        except (re.error, TypeError) as error:
            raise UserError(f'{place}: {regex!r} is not a regular expression: {error}', code='optimizer/regex') from None
        if not matched:
            near = sorted(paths, key=lambda path: -_likeness(regex, path))[:3]
            raise UserError(f'{place}: no parameter matches {regex!r}, which must match a whole path; the most similar are '
                            f'{", ".join(map(repr, near)) or "none"}', code='optimizer/no-match')
        fresh = [path for path in matched if path not in assigned]
        if not fresh:
            raise UserError(f'{place}: an earlier rule takes every parameter that {regex!r} matches; '
                            'fix: put the narrower rule first', code='optimizer/no-match')
        assigned.update(dict.fromkeys(fresh, value))
    return assigned


def regexes(spec: Mapping, key: str, place: str) -> tuple[str, ...]:
    """The regexes of a key that may hold one regex or several."""
    given = spec.get(key) or ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence) or not all(isinstance(regex, str) for regex in given):
        raise UserError(f"{place}.{key}: got {given!r}, expected regexes on the parameters' paths, such as ('head/.*',)",
                        code='optimizer/regex')
    return tuple(given)


def factors(spec: Mapping, place: str, paths: Sequence[str]) -> dict[str, dict[str, float]]:
    """{'lr_mults' or 'wd_mults': {path: factor}} for the lists that the spec has."""
    tables = {}
    for key in ('lr_mults', 'wd_mults'):
        if rules := spec.get(key):
            try:
                rules = [(regex, float(factor)) for regex, factor in rules]
            except (TypeError, ValueError):
                raise UserError(f'{place}.{key}: got {rules!r}, expected pairs of a regex and a number, such as '
                                "(('head/.*', 0.1),)", code='optimizer/number') from None
            for regex, factor in rules:
                if not 0 <= factor < math.inf:
                    raise UserError(f'{place}.{key}: got the factor {factor} for {regex!r}, expected a finite number of at '
                                    'least 0', code='optimizer/number')
            tables[key] = assign(rules, paths, f'{place}.{key}')
    return tables


def _likeness(regex, path):
    return difflib.SequenceMatcher(None, re.sub(r'[^\w/]+', '', regex), path).ratio()
