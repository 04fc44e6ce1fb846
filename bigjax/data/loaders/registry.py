"""The named data sets, looked up and loaded.

`load(name)` looks, in this order, in `data_dir` (or the variable BIGJAX_DATA), which holds one folder per set; in the
TFDS folders (prepared as array_record, read without TensorFlow); in an installed package. Otherwise the error names
the command that gets it. named.py holds the table of the sets.
"""
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigjax.data.fake import fake, stand_ins
from bigjax.data.lazy import LazySource
from bigjax.data.loaders.named import NAMED, DatasetSpec
from bigjax.data.sources import Splits, derived
from bigjax.errors import UserError
from bigjax.io import local_copy, storage
from bigjax.io.text import hint


def names() -> list[str]:
    """Every known name, with its variants spelt out."""
    return [full for name, named in NAMED.items() for full in ([f'{name}/{v}' for v in named.variants] or [name])]


def lookup(name: str, *, known: bool = False) -> tuple[DatasetSpec, str]:
    """The entry and the variant of a name; `known` requires that the table has the variant's shapes, too.

    Raises:
      UserError: an unknown name, with the nearest one.
    """
    family, _, variant = name.partition('/')
    named = NAMED.get(family)
    if named is not None and bool(variant) == bool(named.variants) and (
            not variant or variant in named.variants or (named.open_ended and not known)):
        return named, variant
    choices = names() if named is None else [n for n in names() if n.partition('/')[0] == family]
    found = hint(name, choices)
    listed = f'; there are {", ".join(choices)}' if len(choices) < 6 or not found else ''
    raise UserError(f'there is no data set {name!r}{found}{listed}', code='data/unknown-name')


def here(data_dir: str, name: str) -> str:
    """The same data_dir, or where in this machine's cache the folder of one set has been copied to from a store."""
    place = storage.place(data_dir) if data_dir else data_dir
    if not storage.remote(place):
        return str(place)
    folder = place / name.partition('/')[0]
    if storage.children(folder):
        return str(local_copy.copied(folder).parent)
    empty = local_copy.cache(folder.parent)
    empty.mkdir(parents=True, exist_ok=True)
    return str(empty)


def load(name: str, data_dir: str = '', **options) -> Splits:
    """A named data set, from the first place that has it.

    Args:
      name: 'mnist', 'ucr/Coffee', …; see `names()`.
      data_dir: holds one folder per set, which of gs://BUCKET/FOLDER is copied to this machine; '' means the variable
        BIGJAX_DATA.
      **options: `length` of the window (tiny_shakespeare), `split` (uci), `seed`, `test_fraction` (breast_cancer).

    Raises:
      UserError: an unknown name or option; a damaged file; found nowhere (with the command that gets it).
    """
    named, variant = lookup(name)
    _check_options(name, named, options)
    data_dir = str(data_dir) or os.environ.get('BIGJAX_DATA', '')
    given, data_dir = data_dir, here(data_dir, name)
    if data_dir and not os.path.isdir(data_dir):
        raise UserError(f'data_dir={data_dir}: got no folder, expected one with a folder per data set; fix: check the path',
                        code='data/data-dir')
    for finder in named.finders:
        splits = finder(named, name, variant, data_dir, **options)
        if splits is not None:
            return splits
    place = f'not in {given}' if given else 'no data_dir given and BIGJAX_DATA not set'
    near = hint(variant, [other for other in named.variants if other != variant], 0.6)
    command = named.get.format(data_dir=given or '$BIGJAX_DATA', variant=variant or name)
    if '$BIGJAX_DATA' in command and command.startswith(('curl', 'for', 'git', 'mkdir')):  # else the root
        command = f'export BIGJAX_DATA=$HOME/data; {command}'
    raise UserError(f'{name} was not found ({place}, nor in the TFDS folder, nor in an installed package); '
                    f'get it with: {command}{near}', code='data/not-found')


def later(name: str, opened: Callable[[], Splits], **options) -> Splits | None:
    """A named set of which the shapes and sizes are known, to be opened when its first example is used.

    Args:
      name: as for `load`.
      opened: the set itself, called on first use.
      options: as for `load`.

    Returns:
      Splits of `LazySource`s, or None where the table does not have the sizes.
    """
    named, variant = lookup(name)
    if variant and variant not in named.variants:
        return None
    sizes = named.sizes(variant) if named.sizes else named.info(variant).get('records', {})
    if not sizes:
        return None
    opened = functools.cache(opened)
    made = {split: LazySource(stand_in, lambda split=split: opened().train if split == 'train' else opened().evals[split])
            for split, stand_in in stand_ins(named.shapes(variant), sizes, length=options.get('length', 256)).items()}
    info = {**named.info(variant), 'name': name, 'source': 'not on this machine',
            'records': {split: len(source) for split, source in made.items()}}
    return Splits(made.pop('train'), made, info)


def _check_options(name: str, named: DatasetSpec, options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in named.options:
            raise UserError(f'{name}: got option {option!r}, expected {", ".join(named.options) or "none"}; fix: leave it out',
                            code='data/option')


def fake_set(name: str, n: int = 256, seed: int = 0, **options) -> Splits:
    """Made-up data like a named set, which need not be on this machine; options as for `load`.

    Raises:
      UserError: a name or a variant whose shapes are not in the table.
    """
    named, variant = lookup(name, known=True)
    _check_options(name, named, options)
    shapes = named.shapes(variant)
    sizes = named.sizes(variant) if named.sizes else named.info(variant).get('records', {'train': n, 'test': n})
    evals = tuple(split for split in sizes if split != 'train')
    info = {**named.info(variant), 'name': name}
    return fake(shapes, n, seed, info=info, length=options.get('length', 256), evals=evals)


def standardize(splits: Splits, key: str = 'x') -> tuple[Splits, dict[str, np.ndarray]]:
    """Subtracts the training mean of one array and divides by its training deviation (1 where it is 0), in every split.

    Of the data of a run that is described alone (`bigjax.data.recorded`), both are those that the run recorded.

    Returns:
      (splits, {'mean', 'std'}), both float32 with the shape of one example.
    """
    if 'recorded' in splits.info and 'standardized' in splits.info:
        mean, std = (np.asarray(splits.info['standardized'][name]) for name in ('mean', 'std'))
    else:
        values = splits.train.arrays[key].astype(np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0)
        std = np.where(std == 0, 1.0, std)
    scaled = derived(splits, lambda parts: {split: {**arrays, key: ((arrays[key] - mean) / std).astype(np.float32)}
                                            for split, arrays in parts.items()})
    return scaled, {'mean': np.float32(mean), 'std': np.float32(std)}
