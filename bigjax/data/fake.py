"""Made-up data with the shapes, dtypes, classes and vocabularies of real data: for tests, and for `--config.data=fake`.

A shape is (shape of one example, dtype, number of classes, a range of integers, or None); `shapes` maps names to them, as the
table in named.py does: {'image': ((28, 28, 1), 'uint8', None), 'label': ((), 'int32', 10)}. The dtype of text is 'object',
and its classes are the tokens of its vocabulary, the two special ones included: texts are made of the words w0, w1, …
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data.sources import ArraySource, Splits
from bigjax.data.windows import WindowSource

TEXT = 'object'  # the dtype of text
Shapes = Mapping[str, tuple[tuple[int, ...], str, int | range | None]]


def made_up_words(vocabulary: int) -> list[str]:
    """The words of made-up texts whose vocabulary has so many tokens, the two special ones included."""
    return [f'w{i}' for i in range(max(vocabulary - 2, 1))]


def arrays(shapes: Shapes, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` records; equal arguments give equal arrays, and no name depends on the others.

    Classes 0 … K-1 each occur count / K times, up to one, in a shuffled order; other integers are uniform over their
    classes or their range (or over the dtype's range for uint8, and 0, 1 elsewhere); floats are standard normal.
    """
    out = {}
    for name, (shape, dtype, classes) in shapes.items():
        rng = np.random.default_rng([seed, count, *name.encode()])
        if dtype == TEXT:
            lengths, words = rng.integers(1, 20, count), made_up_words(classes or 100)
            out[name] = np.array([' '.join(words[i] for i in rng.integers(0, len(words), n)) for n in lengths], object)
        elif np.dtype(dtype).kind == 'f':
            out[name] = rng.standard_normal((count, *shape)).astype(dtype)
        elif isinstance(classes, range):
            out[name] = rng.integers(classes.start, classes.stop, (count, *shape), dtype)
        elif classes is not None and shape == ():
            out[name] = rng.permutation(np.arange(count) % classes).astype(dtype)
        else:
            out[name] = rng.integers(0, classes or (256 if dtype == 'uint8' else 2), (count, *shape), dtype)
    return out


def stand_ins(shapes: Shapes, records: Mapping[str, int], *, length: int = 0) -> dict[str, Any]:
    """{split: a source of zeros} with these shapes and numbers of records, which takes no memory.

    Args:
      shapes: of one example, or of one token where there is a 'stream'.
      records: {split: records}, or tokens where there is a 'stream'.
      length: the window over a 'stream'.
    """
    out = {}
    for split, count in records.items():
        zeros = {name: np.broadcast_to(np.zeros((), dtype), (count, *shape)) for name, (shape, dtype, _) in shapes.items()}
        out[split] = (WindowSource(zeros['stream'], length, 1 if split == 'train' else length) if 'stream' in shapes
                      else ArraySource(zeros))
    return out


def shapes_of(source: Any) -> Shapes:
    """The shapes of a source with arrays: the classes of an integer array are its largest value + 1."""
    def classes(array):
        return int(array.max()) + 1 if array.dtype.kind in 'iu' and array.dtype != np.uint8 and array.size else None

    return {name: (array.shape[1:], str(array.dtype), classes(array)) for name, array in source.arrays.items()}


def fake(like: Splits | Shapes, n: int, seed: int = 0, *, info: Mapping[str, Any] | None = None, length: int = 0,
         evals: tuple[str, ...] = ('test',)) -> Splits:
    """Made-up splits of `n` records each, like real ones.

    Args:
      like: Splits whose sources have arrays, or shapes.
      n: records in every split (windows, for a stream of tokens).
      seed: what the values depend on.
      info: facts to carry over (those of `like`, where it is Splits).
      length: the window, where shapes has a 'stream' of tokens.
      evals: names of the evaluation splits (those of `like`, where it is Splits).
    """
    sources = {'train': like.train, **like.evals} if isinstance(like, Splits) else dict.fromkeys(('train', *evals))
    info = dict(info or (like.info if isinstance(like, Splits) else {}))
    out = {}
    for number, (split, source) in enumerate(sources.items()):
        shapes = like if source is None else shapes_of(source)
        if 'stream' in shapes:
            stride = getattr(source, 'stride', 1 if split == 'train' else length)
            window = getattr(source, 'length', length)
            stream = arrays(shapes, (n - 1) * stride + window + 1, seed * 100 + number)['stream']
            out[split] = WindowSource(stream, window, stride)
        else:
            out[split] = ArraySource(arrays(shapes, n, seed * 100 + number))
    info.update(source=f'made up, seed {seed}', records={split: len(source) for split, source in out.items()})
    info.setdefault('name', 'fake')
    return Splits(out.pop('train'), out, info)
