"""The check that wrong input is refused: by the code of the error, never by its words."""
import contextlib

import pytest

from bigjax.errors import UserError


@contextlib.contextmanager
def refused(code: str, *names: str):
    """`with refused('config/unknown-key', 'optimiser'):` a `UserError` of that code, one line that holds every one of `names`:
    the values, paths and nearest forms that a user needs, not the prose around them."""
    with pytest.raises(UserError) as found:
        yield found
    assert found.value.code == code, f'{found.value.code!r}: {found.value}'
    text = str(found.value)
    assert '\n' not in text and all(name in text for name in names), text
