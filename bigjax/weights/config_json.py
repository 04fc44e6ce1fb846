"""config.json of the other library, and the fields of our model: read, written, and which family and class they belong to."""
import json
from collections.abc import Mapping
from typing import Any

from bigjax import models
from bigjax.errors import UserError
from bigjax.io.nested import tuples
from bigjax.io.text import first_line, hint, printable
from bigjax.weights.family import REQUIRED, Architecture, Family, families

ROPE_SCALING = ('rope_factor', 'rope_low', 'rope_high', 'rope_window')  # read where `rope_scaling` names one
MAX_LAYERS, MAX_SIZE = 10_000, 2**31  # a config.json beyond them is damaged, and would be built for hours
TIMM = 'timm'  # `Family.model_type` of the models of that library: each architecture is a set of sizes
FULL, SLIDING = 'full_attention', 'sliding_attention'
RUNTIME = ('parent', 'name', 'dtype', 'scan', 'remat', 'microbatches', 'chunk', 'context', 'dropout', 'hidden_dropout',
           'attention_dropout', 'capacity', 'kernel_init', 'bias_init', 'head_init', 'zero_last', 'layer_scale',
           'drop_path', 'resample_positions')  # fields that change no result of a trained model


def find(config: Mapping, where) -> tuple[Family, Architecture]:
    """The family and the class that a config.json names.

    Raises:
      UserError: none of the families has it; 'weights/architecture'.
    """
    named = [config['architecture']] if 'architecture' in config else config.get('architectures')
    named = [str(name) for name in named] if isinstance(named, list) else []
    own = [family for family in families().values() if family.model_type]  # the others have no config.json
    known = {name: (family, architecture) for family in own for name, architecture in family.architectures.items()}
    for name in named:
        if name in known:
            return known[name]
    of_type = [family for family in own if family.model_type == config.get('model_type')]
    if not named and of_type:
        return of_type[0], next(iter(of_type[0].architectures.values()))
    got = printable(', '.join(named) or f"model_type {config.get('model_type')!r}")
    raise UserError(f'{where}: got {got}, expected one of {", ".join(known)}{hint(got, known)}; fix: name a model of these',
                    code='weights/architecture')


def fields(family: Family, architecture: Architecture, config: Mapping, where) -> dict[str, Any]:
    """The fields of our model that a config.json describes.

    Raises:
      UserError: a key is missing, or has a value that our model does not compute; 'weights/config'.
    """
    if family.model_type == TIMM:
        config = _with_arguments(family, config, where)
    for key, values in family.fixed.items():
        if config.get(key, values[0]) not in (*values, None):
            raise refused(where, key, config[key], values)
    layers = config.get('layer_types')
    layers = layers if isinstance(layers, list) else []
    if any(kind not in (FULL, SLIDING) or kind != layers[0] for kind in layers):
        raise refused(where, 'layer_types', layers, (FULL,))
    found = {}
    for field in family.fields:
        if field.theirs not in config and field.ours in architecture.fields:
            continue
        value = tuples(config.get(field.theirs, field.default))
        if value is REQUIRED:
            raise UserError(f"{where}: got no '{field.theirs}', which its models have; fix: copy the whole config.json",
                            code='weights/config')
        if field.values:
            if value not in list(field.values):  # a value of another kind may have no hash
                raise refused(where, field.theirs, value, field.values)
            value = field.values[value]
        found[field.ours] = value
    try:
        made = {name: value(config) if callable(value) else value for name, value in architecture.fields.items()
                if name not in found}
        found |= {**family.read_config(config), **made}
    except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f'{where}: got keys from which no model can be built ({type(error).__name__}: {first_line(error)}); '
                        'fix: copy the whole config.json', code='weights/config') from error
    for name, value in found.items():
        kind = type(models.find(family.model).__dataclass_fields__[name].default)
        most = MAX_LAYERS if name == 'num_layers' else MAX_SIZE
        if not isinstance(value, (int, float) if kind is float else kind) or (kind is int and not 0 <= value <= most):
            raise UserError(f'{where}: got {printable(repr(value))} for the field {name}, expected {kind.__name__}; fix: copy '
                            'config.json again', code='weights/config')
    return found


def _with_arguments(family: Family, config: Mapping, where) -> dict:
    """A config.json of timm with the arguments that its model was built with beside the other keys."""
    arguments = config.get('model_args') or {}
    known = {field.theirs for field in family.fields} | family.fixed.keys()
    for key in arguments if isinstance(arguments, dict) else ('model_args',):
        if key not in known:
            raise refused(where, 'model_args', key, sorted(known))
    return {**config, **arguments}


def refused(where, key, value, values) -> UserError:
    """The error of a value that our model does not compute."""
    return UserError(f'{where}: got {printable(key)}={printable(repr(value))}, expected one of '
                     f'{", ".join(map(repr, values))}; fix: name a model that has it', code='weights/config')


def written(family: Family, architecture: str, model) -> dict:
    """The config.json of one of our models."""
    timm = family.model_type == TIMM
    known = {'num_classes': model.num_classes} if timm else {}  # without a pretrained_cfg timm reads no model_args
    config = ({'architecture': architecture, 'pretrained_cfg': known} if timm else
              {'architectures': [architecture], 'model_type': family.model_type})
    config |= {} if timm else {key: values[0] for key, values in family.fixed.items()}
    implied = family.architectures[architecture].fields if timm else {}
    arguments = {}
    resolved = _resolved({name: getattr(model, name) for name in model.__dataclass_fields__})  # 0 is a size of none there
    for field in family.fields:
        value = resolved.get(field.ours, getattr(model, field.ours))
        back = {ours: theirs for theirs, ours in reversed(field.values.items())}
        if timm and field.ours != 'num_classes':
            if value != implied.get(field.ours, field.default):
                arguments[field.theirs] = back.get(value, value)
        else:
            config[field.theirs] = back.get(value, value)
    return config | ({'model_args': arguments} if arguments else {}) | family.write_config(model)


def matching(model, wanted: str = '', kind: str = 'hf') -> tuple[Family, str, dict]:
    """(family, class, config.json) that describe one of our models: those from which the same model is read again.

    Args:
      wanted: the class, where several have the form of the model; '' for the first.
      kind: of the place, 'hf' or 'timm'.

    Raises:
      UserError: none does; 'weights/no-family', with the fields in which the nearest differs.
    """
    nearest = None
    for family in families().values():
        if (models.find(family.model) is not type(model) or not family.model_type
                or (family.model_type == TIMM) != (kind == TIMM)):
            continue
        for name, architecture in family.architectures.items():
            if not architecture.matches(model) or (wanted and wanted != name):
                continue
            config = json.loads(json.dumps(written(family, name, model)))
            try:
                differs = differences(model, fields(family, architecture, config, 'config.json'))
            except UserError:
                continue
            if not differs:
                return family, name, config
            nearest = min(filter(None, (nearest, differs)), key=len)
    raise UserError(f'{type(model).__name__}: got a model that no family of weights has'
                    + (f' (the nearest differs in {_told(nearest)})' if nearest else '')
                    + '; fix: write npz:FILE, which holds any model', code='weights/no-family')


def differences(model, described: Mapping[str, Any]) -> dict[str, tuple]:
    """{field: (value of the model, value described)} where results would differ; fields not described have their defaults."""
    names, found = [name for name in model.__dataclass_fields__ if name not in RUNTIME], {}
    all_ours = _resolved({name: getattr(model, name) for name in names})
    all_theirs = _resolved({name: described.get(name, model.__dataclass_fields__[name].default) for name in names})
    for name in names:
        if name in all_ours and name in all_theirs:
            ours, theirs = all_ours[name], all_theirs[name]
            if ours != theirs and not (isinstance(ours, float) and abs(ours - theirs) <= 1e-6 * abs(ours)):
                found[name] = ours, theirs
    return found


def _resolved(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the sizes that 0 means, and without those that nothing reads."""
    derived = {'num_kv_heads': lambda f: f['num_heads'], 'head_width': lambda f: f['width'] // f['num_heads'],
               'mlp_width': lambda f: 4 * f['width']}
    unread = {name for name in fields if fields.get('rope_scaling') == 'none' and name in ROPE_SCALING}
    known = derived if {'num_heads', 'width'} <= fields.keys() else {}
    return {name: known[name](fields) if name in known and not value else value
            for name, value in fields.items() if name not in unread}


def _told(differs: Mapping[str, tuple]) -> str:
    return ', '.join(f'{name}={ours!r} here, {theirs!r} there' for name, (ours, theirs) in differs.items())


def spec(model) -> dict:
    """`config.model` of a module: its name, and the fields that are not their defaults."""
    kind = type(model)
    name = f'{kind.__module__.rsplit(".", 1)[-1]}.{kind.__name__}'
    if not kind.__module__.startswith('bigjax.models.') or models.find(name) is not kind:
        raise UserError(f'{kind.__name__}: got a model of a script, expected one of bigjax.models; fix: move it there',
                        code='weights/no-family')
    own = {key: getattr(model, key) for key, field in model.__dataclass_fields__.items()
           if key not in ('parent', 'name', 'dtype') and getattr(model, key) != field.default}
    return {'name': name, **{key: value for key, value in own.items() if isinstance(value, bool | int | float | str | tuple)}}
