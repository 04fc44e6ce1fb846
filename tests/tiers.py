"""Which cases of a parametrised check are run by default."""
from collections.abc import Iterable

import pytest


def first(count: int, cases: Iterable) -> list:
    """The cases, all but the first `count` in the slow tier; a case of several arguments is a tuple."""
    return [case if i < count else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
            for i, case in enumerate(cases)]
