"""A family of models in another library's names, as data: `families/NAME.py` holds one `FAMILY` or several in `FAMILIES`.

The same rows and fields are used in both directions. `{i}` and `{j}` in a path and in a key are numbers: that of
a layer, or those of a stage and a block.
"""
import dataclasses
import functools
import importlib
import pathlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

REQUIRED = object()  # the default of a field that a config.json has to have


def tokens(model) -> tuple:
    """The arguments that a language model is initialised with."""
    return (jnp.zeros((1, 2), jnp.int32),)


class Row(NamedTuple):
    """An array of theirs, and what it is of ours.

    Attributes:
      ours: the path of a parameter, such as 'block_{i}/attn/query/kernel', or the paths of several in one array of theirs;
        other collections begin with their name, 'batch_stats/…'.
      theirs: the key, without the architecture's prefix.
      transform: a name of `bigjax.weights.transforms.TRANSFORMS`.
      optional: the array may be missing here or there: ours is then initialised anew, theirs is left out.
      cut: ours may have fewer rows, which are then the first ones.
      grid: learned positions of a grid of patches, which a model with `resample_positions` takes from a grid of another size.
      beside: the row counts only where there is this path, too; of several rows with one path the first counts.
    """

    ours: str | tuple[str, ...]
    theirs: str
    transform: str = 'same'
    optional: bool = False
    cut: bool = False
    beside: str = ''
    grid: bool = False


class Field(NamedTuple):
    """A key of config.json, and the model's field.

    Attributes:
      default: what the key means where it is absent.
      values: {value there: value here}, where they are not the same; any other value is refused.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    values: Mapping = {}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One class of the other library: the prefix of its keys, and the fields of ours that it implies.

    Attributes:
      prefix: of the keys of `Family.rows`.
      fields: {field: value}, or {field: function of config.json}.
      heads: the rows of its head, which have no prefix.
      matches: whether a model of ours is written as this one.
    """

    prefix: str = ''
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: tuple[Row, ...] = ()
    matches: Callable[[Any], bool] = lambda model: True


@dataclasses.dataclass(frozen=True)
class Family:
    """The names of a family of models, and the models that they describe.

    Attributes:
      model: the name of our class, 'gpt.GPT' (`bigjax.models.find`).
      model_type: of config.json; '' for a format without one; 'timm' for the models of that library, whose architectures are
        sets of sizes: `Architecture.fields` holds those, and `fields` the arguments that may differ from them.
      architectures: {name in config.json: `Architecture`}; the first that matches is written.
      fields: config.json <-> the model's fields.
      fixed: {key of config.json: the values that our model computes}, the first of which is written; an absent key has the
        first, too.
      rows: the trunk: every array has to be there. The heads are those of the architectures: an array of theirs that is
        missing, or of another size, is initialised anew; one that has no place is left out.
      tied: {key: key of the array that it repeats} where ours has no such parameter.
      ignored: regular expressions of keys of no consequence, such as stored masks.
      spare: regular expressions of keys of heads that ours have not; they are left out, and reported.
      renamed: (regular expression, replacement) of keys in older files.
      read_config: function of config.json to more fields. write_config: function of a model to more keys.
      suits: whether a model of the class has these names, where several families have the class.
      inputs: function of a model to the arguments that it is initialised with; tokens by default.
    """

    model: str
    model_type: str = ''
    architectures: Mapping[str, Architecture] = dataclasses.field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    fixed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    read_config: Callable[[Mapping], dict] = lambda config: {}
    write_config: Callable[[Any], dict] = lambda model: {}
    suits: Callable[[Any], bool] = lambda model: True
    inputs: Callable[[Any], tuple] = tokens

    @property
    def heads(self) -> list[Row]:
        """The rows of all heads, each once."""
        return list(dict.fromkeys(row for architecture in self.architectures.values() for row in architecture.heads))

    @property
    def prefixes(self) -> list[str]:
        """The prefixes of its architectures, the longest first."""
        return sorted({a.prefix for a in self.architectures.values()}, key=len, reverse=True)


@functools.cache
def families() -> dict[str, Family]:
    """{name: family} of every file in `families/`."""
    folder, found = pathlib.Path(__file__).with_name('families'), {}
    for entry in pkgutil.iter_modules([str(folder)]):
        module = importlib.import_module(f'bigjax.weights.families.{entry.name}')
        found |= getattr(module, 'FAMILIES', None) or {entry.name: module.FAMILY}
    return found
