"""Prompts of unequal length as one batch, padded on the left inside, whichever side they come padded on."""
from typing import NamedTuple

import numpy as np

from bigjax.errors import UserError


class Prompts(NamedTuple):
    """Glossary: B rows · P columns of the longest prompt.

    Attributes:
      tokens: int32 [B, P], the last token of every row in the last column.
      mask: bool [B, P], false where a row is padded.
      shift: int [B], by how many columns a row was moved to the right.
    """

    tokens: np.ndarray
    mask: np.ndarray
    shift: np.ndarray


def prepare(tokens, mask=None, vocab_size: int | None = None, pad: int = 0) -> Prompts:
    """Checks prompts [B, P] and moves those that are padded on the right.

    Args:
      mask: bool [B, P], true where a token counts; all by default.

    Raises:
      UserError: tokens are no integers of the vocabulary, a prompt is empty, or a mask has another shape or a hole;
        'decode/tokens', 'decode/token-range', 'decode/empty-prompt', 'decode/mask'.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in 'iu':
        raise UserError(f'a prompt: got {tokens.dtype} {list(tokens.shape)}, expected integers [batch, length]; fix: encode it '
                        'first, and put it into a batch', code='decode/tokens')
    mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask)
    if mask.shape != tokens.shape:
        raise UserError(f'a mask: got {list(mask.shape)}, expected {list(tokens.shape)} as the tokens; fix: make one of that '
                        'shape', code='decode/mask')
    mask = mask.astype(bool)
    B, P = tokens.shape
    lengths = mask.sum(1)
    if P == 0 or B == 0 or not lengths.all():
        row = int(np.argmin(lengths)) if B else 0
        raise UserError(f'a prompt: got no token in row {row}, expected one or more; fix: begin with a token',
                        code='decode/empty-prompt')
    size = vocab_size or np.iinfo(np.int32).max
    wrong = mask & ((tokens < 0) | (tokens >= size))
    if wrong.any():
        row, place = map(int, np.argwhere(wrong)[0])
        raise UserError(f'a prompt: got token {tokens[row, place]} at place {place} of row {row}, expected 0 to '
                        f"{size - 1}, the model's vocabulary; fix: use the tokenizer of the model",
                        code='decode/token-range')
    last = P - np.argmax(mask[:, ::-1], axis=1)
    first = np.argmax(mask, axis=1)
    if (last - first != lengths).any():
        raise UserError(f'a mask: got a hole in row {int(np.argmax(last - first != lengths))}, expected padding at the ends '
                        'alone; fix: move the tokens together', code='decode/mask')
    shift = P - last
    columns = (np.arange(P) - shift[:, None]) % P
    tokens, mask = np.take_along_axis(tokens, columns, 1), np.take_along_axis(mask, columns, 1)
    return Prompts(np.where(mask, tokens, pad).astype(np.int32), mask, shift)


def restore(tokens: np.ndarray, prompts: Prompts, pad: int) -> np.ndarray:
    """Rows [B, P + new] moved back to the column that their prompts began in; padding fills what follows."""
    width = tokens.shape[1]
    columns = np.arange(width) + prompts.shift[:, None]
    moved = np.take_along_axis(tokens, np.minimum(columns, width - 1), 1)
    return np.where(columns < width, moved, pad)
