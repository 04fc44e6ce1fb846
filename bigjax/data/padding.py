"""The mask of rows that are filled up with a token of padding."""
from collections.abc import Callable


def masked(tokens: str = 'tokens', pad: int = 0) -> Callable:
    """A `Data.preprocess` that adds 'mask', bool [B, T], true where a row of `tokens` holds no padding."""
    return lambda batch: {**batch, 'mask': batch[tokens] != pad}
