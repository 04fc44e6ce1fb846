"""Model families, one file each; a model is a `flax.linen.Module` that returns its output and nothing else.

    config.model = models.spec('mlp', 'mnist1d', dropout=0.1)         {'name': 'mlp', 'features': …}: what config.json holds
    model = models.make(config.model, num_classes=10, dtype=dtype)    and the module that it describes

A name is the file and the class, 'timeseries.FCN'; the file alone where the class has its name ('mlp' is mlp.MLP).
"""
import importlib
import inspect
import pathlib
import re
from collections.abc import Mapping

from bigjax.errors import UserError
from bigjax.io.nested import is_section
from bigjax.io.text import hint, printable

NOT_ZERO = ('num_layers', 'layers', 'width', 'num_heads', 'embed', 'latent', 'patch', 'features', 'hidden', 'channels',
            'widths', 'groups', 'group_width')
OF_THE_DATA = ('num_classes', 'vocab_size', 'block_size', 'source_vocab', 'target_vocab')  # sizes that the data decides


def spec(name: str, variant: str = '', **changes) -> dict:
    """The section `config.model` of one of the family's `VARIANTS`, less the sizes that the data decides."""
    variants = importlib.import_module(f'bigjax.models.{name.partition(".")[0]}').VARIANTS
    fields = variants[variant] if variant else {}
    return {'name': name, **{key: value for key, value in fields.items() if key not in OF_THE_DATA}, **changes}


def make(section: Mapping, **given):
    """The module that `config.model` describes, with the fields that the script or the data decide.

    Raises:
      UserError: no section or no such model, a field that it does not have, or one that is decided elsewhere.
    """
    if not is_section(section) or 'name' not in section:
        raise UserError(f"config.model: got {printable(repr(section))}, expected a section with a name; fix: "
                        "config.model=models.spec('mlp', features=(64,))", code='model/no-section')
    module = find(section['name'])
    own = {key: section[key] for key in section if key != 'name'}
    known = [field for field in module.__dataclass_fields__ if field not in ('parent', 'name')]
    for key, value in own.items():
        if key in given:
            raise UserError(f'config.model.{key}: got {printable(repr(value))}, expected {given[key]!r}, which the script or '
                            'its data decides; fix: leave it out', code='model/decided')
        if key not in known:
            raise UserError(f"config.model.{printable(key)}: {section['name']} has no such field{hint(key, known)}; it has "
                            f"{', '.join(k for k in known if k not in given)}", code='model/unknown-field')
        _check_numbers(key, value, module.__dataclass_fields__[key].default)
    return module(**own, **{key: value for key, value in given.items() if key in known or key not in OF_THE_DATA})


def _check_numbers(key: str, value, default) -> None:
    """Raises UserError for sizes below zero, layers and widths of none, and shares that are no shares: a network of those is
    built without an error, and is another one."""
    numbers = [v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, int | float)
               and not isinstance(v, bool)]
    if key in ('dropout', 'drop_path') or key.endswith('_dropout'):
        wrong, expected = [v for v in numbers if not 0 <= v < 1], 'a share in [0, 1)'
    elif isinstance(default, int) and default < 0:
        return
    else:
        least = int(key in NOT_ZERO)
        wrong, expected = [v for v in numbers if isinstance(v, int) and v < least], f'sizes of at least {least}'
    if wrong:
        raise UserError(f'config.model.{key}: got {printable(repr(value))}, expected {expected}', code='model/size')


def find(name: str) -> type:
    """The class that a model's name names.

    Raises:
      UserError: there is no such model.
    """
    family, _, wanted = name.partition('.')
    files = sorted(p.stem for p in pathlib.Path(__file__).parent.glob('[a-z]*.py'))
    if family not in files:
        raise UserError(f"config.model.name: there is no '{printable(name)}'; there are {', '.join(files)}",
                        code='model/unknown-name')
    classes = _classes(family)
    if wanted in classes:
        return classes[wanted]
    found = [cls for key, cls in classes.items() if key.lower() == (wanted or family).lower()]
    if not found:
        raise UserError(f"config.model.name: there is no '{printable(name)}'; there are "
                        f"{', '.join(f'{family}.{key}' for key in classes)}", code='model/unknown-name')
    return found[0]


def _classes(family: str) -> dict[str, type]:
    import flax.linen as nn  # here, so that a config can be looked at without it
    module = importlib.import_module(f'bigjax.models.{family}')
    return {name: cls for name, cls in vars(module).items()
            if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__}


def _named(config: Mapping) -> type | None:
    """The class of `config.model.name`, None where the config names no model of this folder."""
    section = config.get('model')
    name = section.get('name') if hasattr(section, 'get') else None
    try:
        return find(name) if isinstance(name, str) else None
    except UserError:
        return None


def optional(config: Mapping) -> dict:
    """{'model.dropout': its default} of the fields of `config.model.name` that a config can hold."""
    if (module := _named(config)) is None:
        return {}
    defaults = {name: field.default for name, field in module.__dataclass_fields__.items() if name not in ('parent', 'name')}
    return {f'model.{name}': value for name, value in defaults.items() if isinstance(value, bool | int | float | str | tuple)}


def meanings(config: Mapping) -> dict[str, str]:
    """{'model.features': meaning} of the fields of `config.model.name`, from its docstring; {} where it names no model."""
    text, found = inspect.getdoc(_named(config) or object) or '', {}
    for names, meaning in re.findall(r'^  (\w[\w, ]*): (.*(?:\n    .*)*)', text, re.MULTILINE):
        found |= dict.fromkeys((f'model.{key}' for key in names.split(', ')), ' '.join(meaning.split()))
    return found
