"""Reads weights of another library: a whole model, or the parameters of a model that there is already."""
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import models
from bigjax.data import tokenizers
from bigjax.data.foreign_tokenizers import HF_FILE, SP_FILE
from bigjax.data.vocabularies import OWN_FILE
from bigjax.errors import UserError
from bigjax.io.nested import tuples
from bigjax.io.text import first_line, hint, printable
from bigjax.nn import stacking
from bigjax.sharding import tree_paths
from bigjax.weights.config_json import differences, fields, find
from bigjax.weights.family import Architecture, Family, Row, families, tokens
from bigjax.weights.match import Plan, pairs, plan, read, short
from bigjax.weights.place import Opened, opened
from bigjax.weights.tensors import damaged, listed

SIZES = ('vocab_size', 'num_classes', 'block_size', 'image_size', 'pool', 'mlm')  # what shapes tell, what cuts them, and heads
PARAMS = 'params/'
TOKENIZERS = (OWN_FILE, HF_FILE, SP_FILE, 'vocab.txt')


def load(place: str, *, model=None, say: Callable[[str], None] = print, seed: int = 0, **changes) -> tuple:
    """(model, variables, tokenizer or None) of a place.

    Args:
      place: 'hf:FOLDER_OR_ID', 'timm:FOLDER_OR_ID', 'torch:FILE', 'npz:FILE', 'keras:FILE.weights.h5' or 'pip:PACKAGE'.
      model: the module, where the file does not describe one.
      say: receives a line where arrays were initialised anew or left out.
      seed: of what is initialised anew.
      changes: fields of the model in place of those that the file describes, such as num_classes.

    Raises:
      UserError: see `bigjax.weights.place.opened`, `bigjax.weights.match.plan` and `bigjax.weights.config_json`.
    """
    files = opened(place)
    model, plain, inputs, abstract, found = laid_over(files, model, changes, place)
    wanted = leaves(abstract)
    values = read(found, files.tensors, wanted, lambda _, array: jnp.asarray(array))
    if found.fresh:
        values |= _initialised(plain, inputs, seed, found.fresh)
    if line := _summary(found, wanted, place):
        say(line)
    variables = tree_paths.map_leaves(lambda path, _: values[path.removeprefix(PARAMS)], abstract)
    return model, variables if plain is model else stacking.stack(variables), tokenizer_of(files, model, place, say)


def into(place: str, model, params: Mapping, model_state: Mapping, say: Callable[[str], None] = print,
         members: int = 0) -> tuple[dict, dict]:
    """(params, model_state) of a model that there is, with the arrays of a place, each placed like the given one.

    Args:
      params, model_state: freshly initialised, or arrays of NumPy, which are placed nowhere; they fill in a head that the
        place lacks.
      members: of a population, along the first axis of every leaf; all receive the same arrays.

    Raises:
      UserError: as `load`; the file describes a model that computes something else ('weights/other-model').
    """
    given, stacked, unrolled = {'params': params, **model_state}, stacking.is_stacked(params), _unrolled(params, members)
    shapes = jax.eval_shape(unrolled, given)
    files, wanted, found = planned(place, model, shapes, members)
    placed = {} if stacked else leaves(given)
    shardings = {path: leaf.sharding for path, leaf in placed.items() if not isinstance(leaf, np.ndarray)}

    def put(path, array):
        array = np.broadcast_to(array, (members, *array.shape)) if members else array
        return jax.device_put(array, shardings[path]) if path in shardings else array

    values = read(found, files.tensors, wanted, put)
    if found.fresh:
        kept = leaves(unrolled(given))
        values |= {path: kept[path] for path in found.fresh}
    if line := _summary(found, wanted, place):
        say(line)
    loaded = tree_paths.map_leaves(lambda path, _: values[path.removeprefix(PARAMS)], shapes)
    if stacked:
        loaded = (jax.vmap(stacking.stack) if members else stacking.stack)(loaded)
        loaded = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), loaded, given)
    return loaded['params'], {name: tree for name, tree in loaded.items() if name != 'params'}


def check(place: str, model, params: Mapping, model_state: Mapping, members: int = 0) -> None:
    """Raises the UserErrors of `into`, less those of damage within an array, given shapes alone; no array is read."""
    planned(place, model, jax.eval_shape(_unrolled(params, members), {'params': params, **model_state}), members)


def _unrolled(params: Mapping, members: int) -> Callable:
    """A tree of variables to one with a tree of each layer."""
    if not stacking.is_stacked(params):
        return lambda tree: tree
    return jax.vmap(stacking.unstack) if members else stacking.unstack


def planned(place: str, model, shapes: Mapping, members: int = 0) -> tuple[Opened, dict[str, Any], Plan]:
    """(the files, {path: shape of one member}, which of their arrays become which) of `into`; no array is read.

    Args:
      shapes: of the variables, with a tree of each layer.

    Raises:
      UserError: as `into`, less damage within an array.
    """
    files = opened(place)
    family, _ = _described(files, model, {}, place)
    wanted = {path: jax.ShapeDtypeStruct(x.shape[bool(members):], x.dtype) for path, x in leaves(shapes).items()}
    return files, wanted, _planned(family, files, model, wanted, place)


class LaidOver(NamedTuple):
    """A file laid over its model.

    Attributes:
      model, plain: the module, and the one with its layers one by one; inputs: what that is initialised with.
      abstract: its variables as shapes.
      found: what of the file becomes what.
    """

    model: Any
    plain: Any
    inputs: tuple
    abstract: Any
    found: Plan


def laid_over(files: Opened, model, changes: Mapping, place: str) -> LaidOver:
    """A file laid over the given model, or over the one that it describes; nothing is read yet."""
    family, model = _described(files, model, changes, place)
    plain = model.clone(scan=False) if getattr(model, 'scan', False) else model
    inputs = tuple(map(jnp.zeros, files.inputs)) or _inputs(family, plain)
    try:
        abstract = jax.eval_shape(lambda: plain.init(jax.random.key(0), *inputs, train=False))
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise UserError(f'{place}: got sizes of which no {type(model).__name__} can be built ({first_line(error)}); fix: give '
                        'it the sizes of its arrays', code='weights/config') from error
    wanted = leaves(abstract)
    found = _planned(family, files, model, wanted, place)
    return LaidOver(model, plain, inputs, abstract, found)


def _planned(family: Family | None, files: Opened, model, wanted: Mapping, place: str) -> Plan:
    return plan(family or _fitting(files, model, wanted), files.tensors, _shapes(wanted), place,
                getattr(model, 'resample_positions', False))


def _described(files: Opened, model, changes: Mapping, place: str) -> tuple[Family | None, Any]:
    """(the family of a place's names, None where its names alone tell it; the model: the given one, or the described one)."""
    if files.config is not None:
        family, architecture = find(files.config, place)
        stated = fields(family, architecture, files.config, place)
        kind = models.find(family.model)
        for name in changes:
            if name not in kind.__dataclass_fields__:
                raise UserError(f'{kind.__name__}: got {printable(name)}, which is no field of it'
                                f'{hint(name, kind.__dataclass_fields__)}; fix: choose one', code='weights/unknown-field')
        if stated.get('mlm') and 'mlm' not in changes and (changes.get('num_classes') or changes.get('pool', 'none') != 'none'):
            stated['mlm'] = False  # another head in the place of the one of words
        described = kind(**{**stated, **changes})
    elif files.spec is not None:
        family, described = None, _made(files.spec, changes, place)
    elif model is None:
        raise UserError(f'{place}: got weights without a config.json beside them, expected the model that they belong to; fix: '
                        'load(place, model=…), or --init_from of an experiment', code='weights/no-model')
    else:
        return None, model
    if model is not None:
        _check_same(model, described, place)
    return family, model or described


def _made(spec: Mapping, changes: Mapping, place: str):
    """The module that our own file describes."""
    try:
        return models.make({**{key: tuples(value) for key, value in spec.items()}, **changes})
    except (TypeError, KeyError, AttributeError) as error:
        raise damaged(place, f'no description of a model: {error}') from error


def _check_same(model, described, place: str) -> None:
    """Raises UserError where the model computes something else with the same arrays, such as another epsilon."""
    if type(model) is not type(described):
        raise UserError(f'{place}: got weights of {type(described).__name__}, expected those of {type(model).__name__}; fix: '
                        'name a file of this model', code='weights/other-model')
    theirs = {name: getattr(described, name) for name in described.__dataclass_fields__}
    differs = {name: pair for name, pair in differences(model, theirs).items() if name not in SIZES}
    if differs:
        name, (_, theirs) = next(iter(differs.items()))
        raise UserError(f'{place}: got a model with {", ".join(f"{key}={there!r}" for key, (_, there) in differs.items())}, '
                        f'expected {", ".join(f"{key}={here!r}" for key, (here, _) in differs.items())} as here; fix: '
                        f'--config.model.{name}={theirs}', code='weights/other-model')


def _fitting(files: Opened, model, wanted: Mapping) -> Family:
    """The family, or our own names, that accounts for most of a file's keys."""
    def known(family):
        try:
            keys = {pair.key for pair in pairs(family, wanted)}
        except UserError:
            return 0
        return sum(short(family, name) in keys for name in files.tensors)

    same = [f for f in families().values() if models.find(f.model) is type(model) and f.suits(model)]
    return max([own(wanted), *same], key=known)


def own(paths: Iterable[str]) -> Family:
    """The family whose names are our own paths."""
    rows = [Row(path, path, grid=path.split('/')[-1] == 'pos_embed') for path in paths]
    head = [row for row in rows if 'head' in row.ours.split('/')]
    trunk = tuple(row for row in rows if row not in head)
    return Family('', rows=trunk, architectures={'': Architecture(PARAMS, heads=tuple(head))})


def leaves(variables) -> dict[str, Any]:
    """{path: leaf} of variables; those of 'params' without its name."""
    return {path.removeprefix(PARAMS): leaf for path, leaf in tree_paths.leaves(variables)}


def _inputs(family: Family | None, model) -> tuple:
    """The arguments that a model is initialised with."""
    same = [family] if family else [f for f in families().values() if models.find(f.model) is type(model)]
    return (same[0].inputs if same else tokens)(model)


def _shapes(wanted: Mapping) -> dict[str, tuple]:
    return {path: tuple(leaf.shape) for path, leaf in wanted.items()}


def _initialised(model, inputs, seed: int, fresh: Iterable[str]) -> dict:
    """{path: value} of some parameters; the compiler leaves the others out."""
    names = set(fresh)

    @jax.jit
    def some(key):
        return {path: leaf for path, leaf in leaves(model.init(key, *inputs, train=False)).items() if path in names}

    return some(jax.random.key(seed))


def _summary(found: Plan, wanted: Mapping, place: str) -> str:
    """The line that reports what was not taken as it is, '' where all was."""
    parts = [f'initialised anew: {listed([f"{path} ({why})" for path, why in found.fresh.items()])}'] if found.fresh else []
    parts += [f'cut to the first rows: {listed(found.cut)}'] if found.cut else []
    grids = [f'{path} ({there} x {there} to {here} x {here})' for path, (there, here) in found.resized.items()]
    parts += [f'resampled: {listed(grids)}'] if grids else []
    parts += [f'not used: {listed(found.unused)}'] if found.unused else []
    return '; '.join([f'{place}: {len(wanted) - len(found.fresh)} of {len(wanted)} arrays are taken', *parts]) if parts else ''


def tokenizer_of(files: Opened, model, place: str, say: Callable[[str], None] = print):
    """The tokenizer in the folder of the weights, None where there is none, or where its package is not installed.

    Raises:
      UserError: it has more tokens than the model; 'tokenizer/other-vocabulary'.
    """
    if not files.path.is_dir() or not any((files.path / name).exists() for name in TOKENIZERS):
        return None
    try:
        found = tokenizers.load(str(files.path))
    except UserError as error:
        if error.code != 'tokenizer/package':
            raise
        say(f'{place}: its tokenizer is left out: {error}')
        return None
    if (size := getattr(model, 'vocab_size', 0)) and found.vocab_size > size:  # rows of an embedding are often padded
        raise UserError(f'{place}: got a tokenizer of {found.vocab_size} tokens, expected at most the {size} of the model; '
                        'fix: copy the tokenizer that the model was made with', code='tokenizer/other-vocabulary')
    return found
