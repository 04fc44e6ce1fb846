"""Windows of tokens over one stream, for language models."""
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError

IGNORE = -1  # a target that does not count; `bigjax.tasks.language.next_token` ignores it by default


class WindowSource:
    """Windows of T tokens over one stream, and the same windows one token later, for next-token prediction.

    Example i is tokens[i*stride : i*stride + T] with targets one further; `stride` 1 gives n - T overlapping windows
    (train), `stride` T gives windows in which every target counts exactly once (evaluation). The last window may not fit: it
    then begins earlier, at n - 1 - T, and its targets before i*stride, which the window before it has, are IGNORE.

    Args:
      tokens: [n] integers of any width (uint16 keeps a long stream small); batches are int32.
      length: T.
      stride: distance between the starts of two windows.

    Raises:
      UserError: the stream is not one row of integers, or too short for one window.
    """

    cut_from: ClassVar = {'tokens': 'stream'}  # whose numbers are those of the targets, too

    def __init__(self, tokens: np.ndarray, length: int, stride: int = 1):
        self._file = _mapped(tokens)
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or tokens.dtype.kind not in 'iu':
            raise UserError(f'a token stream: got {tokens.dtype}{list(tokens.shape)}, expected one row of integers; fix: '
                            'encode the text first', code='data/not-a-stream')
        if length < 1 or stride < 1 or len(tokens) <= length:
            raise UserError(f'a token stream: got {len(tokens)} tokens, expected more than a window of {length} (stride '
                            f'{stride}, both at least 1); fix: a shorter window or a longer text', code='data/too-short')
        self.arrays = {'stream': tokens}
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return -(-self._last // self.stride) + 1

    @property
    def _last(self) -> int:
        """The start of the last window."""
        return len(self.arrays['stream']) - 1 - self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]  # negative and out-of-range numbers behave as those of a list
        start = min(index * self.stride, self._last)
        window = self.arrays['stream'][start:][:self.length + 1].astype(np.int32)
        targets = window[1:].copy()
        targets[:index * self.stride - start] = IGNORE
        return {'tokens': window[:-1], 'targets': targets}

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of one example."""
        return dict.fromkeys(('tokens', 'targets'), jax.ShapeDtypeStruct((self.length,), np.dtype(np.int32)))

    def __getstate__(self) -> dict:
        """For another process, which maps a mapped file itself instead of being sent it."""
        return {**self.__dict__, **({'arrays': {}} if self._file else {})}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._file:
            self.arrays = {'stream': np.asarray(np.memmap(*self._file))}

    def __repr__(self) -> str:
        return f'WindowSource({len(self.arrays["stream"])} tokens, length={self.length}, stride={self.stride})'

    def take(self, arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """Windows `indices` [B]: {'tokens': int32 [B, T], 'targets': int32 [B, T]}."""
        index_Bx1, within_T1 = indices[:, None], np.arange(self.length + 1, dtype=np.int32)
        last = arrays['stream'].shape[0] - 1 - self.length
        windows = -(-last // self.stride) + 1
        repeated = (windows - 1) * self.stride - last  # targets at the head of the last window
        if not repeated:
            windows_BxT1 = arrays['stream'][index_Bx1 * self.stride + within_T1].astype('int32')
            return {'tokens': windows_BxT1[:, :-1], 'targets': windows_BxT1[:, 1:]}
        where = np.where if isinstance(index_Bx1, np.ndarray) else jnp.where
        is_last_Bx1 = index_Bx1 == windows - 1
        windows_BxT1 = arrays['stream'][where(is_last_Bx1, last, index_Bx1 * self.stride) + within_T1].astype('int32')
        ignored_BxT = is_last_Bx1 & (within_T1[:-1] < repeated)
        return {'tokens': windows_BxT1[:, :-1], 'targets': where(ignored_BxT, np.int32(IGNORE), windows_BxT1[:, 1:])}


def _mapped(tokens: np.ndarray) -> tuple | None:
    """The arguments of `np.memmap` that give the same numbers, for a mapped file or a part of one in a row; else None."""
    if not isinstance(tokens, np.memmap) or tokens.filename is None or not tokens.flags.c_contiguous:
        return None
    whole = tokens
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    start = whole.offset + tokens.__array_interface__['data'][0] - whole.__array_interface__['data'][0]
    return str(tokens.filename), tokens.dtype, 'r', start, tokens.shape
