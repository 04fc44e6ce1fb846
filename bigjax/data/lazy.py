"""Sources that are opened when they are used: a config is checked, counted and planned without its data on this machine."""
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bigjax.errors import UserError


class LazySource:
    """A source that is opened when its first example or array is used; its length and shapes are known before.

    Args:
      stand_in: a source of the same shapes and length that needs no data, such as those of `bigjax.data.fake.stand_ins`.
      open: `open() -> source`, called at most once per process.

    Raises:
      UserError: on opening, where the length or the shapes differ from the stand-in's, or what `open` raises.
    """

    def __init__(self, stand_in: Any, open: Callable[[], Any]):
        self.stand_in, self._open = stand_in, open
        self._lock = threading.Lock()

    @functools.cached_property
    def source(self) -> Any:
        """The opened source."""
        with self._lock:  # reading threads start together, and the data is to be opened once
            if self.opened:
                return self.__dict__['source']
            source = self._open()
            for what, got, expected in (('records', len(source), len(self.stand_in)),
                                        ('shapes', getattr(source, 'spec', None), self.stand_in.spec)):
                if got is not None and got != expected:
                    raise UserError(f'{source!r}: got {what} {got}, expected {expected}; fix: use the published data, or read '
                                    'it as data of your own (config.data=KIND:PLACE)', code='data/other-than-published')
            self.__dict__['source'] = source
            return source

    @property
    def opened(self) -> bool:
        """Whether the source is open."""
        return 'source' in self.__dict__

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of one example."""
        return self.stand_in.spec

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays of the opened source; `array_shapes` has their shapes without opening."""
        return self.source.arrays

    def take(self, arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """The same as the opened source's `take`, which depends on no data."""
        return self.stand_in.take(arrays, indices)

    def __len__(self) -> int:
        return len(self.stand_in)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[index]

    def __reduce__(self):
        """A worker process receives the opened source."""
        return _same, (self.source,)

    def __repr__(self) -> str:
        return repr(self.source) if self.opened else f'LazySource({self.stand_in!r})'


def _same(source: Any) -> Any:
    return source
