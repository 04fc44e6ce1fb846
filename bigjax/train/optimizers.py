"""Optimizers: the spec of a config as one optax transformation.

    optimizer = {'name': 'adamw', 'lr': 1e-3, 'schedule': {'name': 'cosine', 'warmup': '5%'}, 'weight_decay': 0.05}

`name` is any optimizer of optax or optax.contrib (`names()` lists them). The update of a parameter w is made in this
order; a key that is absent or None does nothing:

1. l2, l1: `l2 * w + l1 * sign(w)` is added to the gradient: the gradient of l2/2 |w|^2 + l1 |w|. (torch's
   weight_decay of SGD and Adam is `l2`; Keras's regularizers.l2(c) is l2 = 2c.)
2. clip_value: each element to [-c, c]; then clip_norm: the whole gradient to that norm.
3. the optimizer `name`, with `lr` times `schedule` (bigjax.train.schedules), which counts optimizer steps. Every other
   key of the spec is an argument of its optax constructor: b1, momentum, nesterov, eps, …
4. weight_decay: `- lr(step) * weight_decay * w`, decoupled (Loshchilov and Hutter, 2019; SGDW, AdamW). Unless given it
   is the optimizer's own default (adamw 1e-4, lion 1e-3). Optimizers whose own rule contains the decay (`DECAY_INSIDE`:
   lamb, lars, prodigy, …) apply it there.
5. lr_mults: ((regex, factor), …) on the update, so a factor on the parameter's learning rate, decay included.
6. the plateau schedule's factor; its loss is the `value` of `update(grads, state, params, value=loss)`.
7. max_norm: the incoming weights of each unit (a kernel's last axis) are projected onto a ball of this radius after the
   update (Srivastava et al., 2014, sec. 5.1); parameters of two or more dimensions.

Decay and penalties of 1 and 4 act on every parameter, unless wd_mask='kernels' (two or more dimensions: not biases, not
norm scales) or wd_mults=((regex, factor), …) say otherwise.

frozen=(regex, …) never change and have no optimizer state. groups=((regex, spec), …) gives each group of parameters an
optimizer of its own, with its own clipping, schedule and state; keys beside `groups` are the groups' defaults.

A regex must match the whole path of a parameter ('encoder/block_0/.*'). The first rule that matches wins, a rule that
no parameter is left for is an error, and with groups every parameter needs one.
"""
import difflib
import functools
import inspect
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigjax.errors import UserError
from bigjax.train import durations, schedules

OWN_KEYS = ('name', 'lr', 'schedule', 'weight_decay', 'l2', 'l1', 'clip_norm', 'clip_value', 'max_norm', 'lr_mults',
            'wd_mults', 'wd_mask', 'frozen', 'groups')

# The decay stands inside the rule: under a trust ratio, in an averaged iterate, or in the distance that sets the rate.
DECAY_INSIDE = ('cocob', 'dadapt_adamw', 'dog', 'dowg', 'lamb', 'lars', 'madgrad', 'momo', 'momo_adam', 'novograd',
                'prodigy', 'schedule_free_adamw', 'schedule_free_sgd')

# What a training step, which has one gradient and one loss, cannot give them.
UNFIT = {
    'dpsgd': 'it needs the gradient of every example',
    'optimistic_adam': 'optax has replaced it by optimistic_adam_v2',
    'schedule_free': 'it wraps another optimizer: use schedule_free_sgd or schedule_free_adamw',
    'sophia': 'it needs the loss as a function, for the diagonal of the Hessian',
}
# What these take as their learning rate, of (schedule, lr), instead of a schedule.
_ODD_RATES = {
    'rprop': lambda schedule, lr: lr,  # the size of its first step, no more
    'sm3': lambda schedule, lr: 1.0,  # a number; the schedule follows it
    'prodigy': lambda schedule, lr: lambda step: jnp.maximum(schedule(step), 1e-4 * lr),  # a rate of 0 is 0/0 in both
    'dadapt_adamw': lambda schedule, lr: lambda step: jnp.maximum(schedule(step), 1e-4 * lr),
}
_NOT_FROM_A_CONFIG = ('learning_rate', 'weight_decay', 'mask', 'weight_decay_mask', 'scaling', 'linesearch')
_OWN_NAMES = {'learning_rate': 'lr', 'mask': 'wd_mask', 'weight_decay_mask': 'wd_mask'}


def make(spec: Mapping, params: Any, *, total_steps: int, steps_per_epoch: float | None = None,
         batch_size: int | None = None) -> tuple[optax.GradientTransformationExtraArgs, Callable]:
    """The optimizer of a spec, and its learning rate as a function of the step.

    Args:
      spec: see above; a dict, a ConfigDict or any Mapping.
      params: the parameters, or their shapes; only the paths are used, so a population may be given stacked.
      total_steps, steps_per_epoch, batch_size: the run, for durations.

    Returns:
      (tx, lr): `tx.init` and `tx.update(grads, state, params, value=loss)` work under jit, vmap and scan. Always give
      `value`, the training loss: optimizers that do not need it ignore it. `lr(step)` leaves out the plateau's factor
      (`plateau_factor`); with groups it is the first group's.

    Raises:
      UserError: a key, a name or an argument is unknown, or a regex does not fit the parameters.
    """
    paths = [path for path, _ in _flatten(params)]
    run = {'total_steps': total_steps, 'steps_per_epoch': steps_per_epoch, 'batch_size': batch_size}
    rules = _rules(spec, 'optimizer', paths)
    frozen, groups = spec.get('frozen') or (), spec.get('groups') or ()
    if isinstance(frozen, str):
        raise UserError(f"optimizer.frozen: give a tuple of regexes, such as ('{frozen}',)")
    assigned = _assign([(regex, 'frozen') for regex in frozen], paths, 'optimizer.frozen')
    if not groups:
        tx, lr = _single(spec, 'optimizer', rules, run)
        labels, parts = {path: assigned.get(path, 'train') for path in paths}, {'train': tx}
    else:
        free = [path for path in paths if path not in assigned]
        chosen = _assign([(regex, i) for i, (regex, _) in enumerate(groups)], free, 'optimizer.groups')
        for path in free:
            if path not in chosen:
                raise UserError(f"optimizer.groups: no rule matches the parameter '{path}'; add ('.*', …) as the last "
                                'rule, or freeze it')
        parts, rates = {}, []
        for i, (regex, group) in enumerate(groups):
            place = f'optimizer.groups[{i}]'
            members = [path for path in free if chosen[path] == i]
            for key in ('groups', 'frozen'):
                if key in group:
                    raise UserError(f'{place}.{key}: a group has no {key} of its own; give it beside `groups`')
            own = _rules(group, place, members)
            parts[f'{i}: {regex}'], rate = _single(ChainMap(group, _Without(spec, ('groups', 'frozen'))), place,
                                                   {**rules, **own}, run)
            rates.append(rate)
        labels = {path: assigned.get(path) or f'{chosen[path]}: {groups[chosen[path]][0]}' for path in paths}
        lr = rates[0]
    if len(parts) == 1 and not assigned:
        return optax.with_extra_args_support(*parts.values()), lr
    tx = optax.partition({**parts, 'frozen': optax.set_to_zero()}, functools.partial(_map_paths, labels.__getitem__))
    return optax.with_extra_args_support(tx), lr


def still(spec: Mapping, params: Any) -> set[str]:
    """The paths of parameters that a spec means to leave as they are: frozen, or with a rate of zero."""
    paths = [path for path, _ in _flatten(params)]
    groups = spec.get('groups') or ()
    frozen = set(_assign([(regex, True) for regex in spec.get('frozen') or ()], paths, 'optimizer.frozen'))
    mults = _rules(spec, 'optimizer', paths).get('lr_mults', {})
    for regex, group in groups:
        if group.get('lr', spec.get('lr')) == 0:
            frozen |= {path for path in paths if re.fullmatch(regex, path)}
    return frozen | {path for path, factor in mults.items() if factor == 0}


def names() -> list[str]:
    """The optimizers that a spec can name."""
    return sorted(name for name in {*vars(optax), *vars(optax.contrib)} if name not in UNFIT and _constructor(name))


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate with: schedule-free's averaged iterate, else `params`. (Population: under vmap.)"""
    masked = lambda x: isinstance(x, optax.MaskedNode)
    for state in _states(opt_state, optax.contrib.ScheduleFreeState):
        average = lambda z, y, b1=state.b1: y if masked(z) else ((y - (1 - b1) * z) / b1).astype(y.dtype)
        params = jax.tree.map(average, state.z, params, is_leaf=masked)
    return params


def plateau_factor(opt_state: Any) -> jax.Array:
    """The plateau schedule's factor of the learning rate so far, [members] in a population; 1 where there is none."""
    states = _states(opt_state, optax.contrib.ReduceLROnPlateauState)
    return states[0].scale if states else jnp.float32(1)


def _states(opt_state, kind):
    return [x for x in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]


def _single(spec, place, rules, run):
    """The chain of one group: (transformation, schedule)."""
    name, constructor = _find(spec.get('name'), place)
    arguments = inspect.signature(constructor).parameters
    lr_name = 'scaling' if name == 'polyak_sgd' else 'learning_rate'
    lr = _number(spec, 'lr', place, default=arguments[lr_name].default)
    schedule = schedules.make(spec.get('schedule'), lr, **run)
    schedule_name, option = schedules.read(spec.get('schedule'))
    if name == 'rprop' and (schedule_name != 'constant' or option('warmup')):
        raise UserError(f'{place}.schedule: rprop sets its own step sizes and takes no schedule')
    kwargs = _arguments(spec, name, arguments, place) | {lr_name: _ODD_RATES.get(name, lambda s, _: s)(schedule, lr)}
    if name == 'lbfgs':
        kwargs['linesearch'] = None  # it would need the loss as a function
    if name == 'noisy_sgd':
        kwargs.setdefault('key', 0)

    factor = _decay_factor(rules.get('wd_mults', {}), spec.get('wd_mask'), place)
    decay = _number(spec, 'weight_decay', place, default=_default(arguments, 'weight_decay'))
    if name in DECAY_INSIDE and 'weight_decay' in arguments:
        kwargs['weight_decay'] = decay
        if _given(decay) and factor:
            kwargs[_decay_mask(arguments, name, rules, place)] = lambda tree: _map_leaves(
                lambda path, w: factor(path, w) > 0, tree)
        decay = 0.0
    elif 'weight_decay' in arguments:
        kwargs['weight_decay'] = 0.0

    l2, l1 = _number(spec, 'l2', place), _number(spec, 'l1', place)
    chain = []
    if _given(l2) or _given(l1):
        chain += [_add(lambda path, w, _: (l2 * w + l1 * jnp.sign(w)) * (factor(path, w) if factor else 1.0))]
    if _given(value := _number(spec, 'clip_value', place)):
        chain += [optax.clip(value)]
    if _given(norm := _number(spec, 'clip_norm', place)):
        chain += [optax.clip_by_global_norm(norm)]
    chain += [constructor(**kwargs)]
    if name == 'sm3':
        chain += [optax.scale_by_schedule(schedule)]
    if _given(decay):
        chain += [_add(lambda path, w, step: -schedule(step) * decay * (factor(path, w) if factor else 1.0) * w)]
    last = []
    if mults := rules.get('lr_mults', {}):
        last += [optax.stateless(lambda updates, _: _map_leaves(
            lambda path, u: u * mults.get(path, 1.0), updates))]
    if schedule_name == 'plateau':
        last += [_plateau(option, lr, run, place)]
    if _given(radius := _number(spec, 'max_norm', place)):
        last += [_max_norm(radius)]
    if last and name.startswith('schedule_free'):
        raise UserError(f'{place}: {name} keeps two iterates in step, so it cannot be combined with lr_mults, max_norm '
                        'or the plateau schedule')
    return optax.chain(*chain, *last), schedule


def _find(name, place):
    """(name, constructor) of an optimizer by its name in optax or optax.contrib."""
    if not name:
        raise UserError(f"{place}.name is missing: the optimizer's name in optax, such as 'adam'")
    if name in UNFIT:
        raise UserError(f'{place}.name: {name!r} cannot be used here: {UNFIT[name]}')
    constructor = _constructor(name)
    if constructor is None:
        raise UserError(f'{place}.name: optax has no optimizer {name!r}{schedules.nearest(name, names())}; '
                        f'it has {", ".join(names())}')
    return name, constructor


def _constructor(name):
    """The function, where `name` is an optimizer: it has a learning rate and nothing else that must be given."""
    function = vars(optax).get(name) or vars(optax.contrib).get(name)  # getattr would find deprecated names too
    if not inspect.isfunction(function) or str(name).startswith(('_', 'scale_by_')):
        return None
    arguments = inspect.signature(function).parameters
    return function if {'learning_rate', 'max_learning_rate'} & set(arguments) else None


def _default(arguments, key):
    value = arguments[key].default if key in arguments else None
    return 0.0 if value is inspect.Parameter.empty or value is None else value


def _number(spec, key, place, default: Any = 0.0) -> float | jax.Array:
    value = spec.get(key)
    if isinstance(value, jax.Array):  # of one member of a population
        return value
    if value is None:
        if default is inspect.Parameter.empty or default is None:
            raise UserError(f'{place}.{key} is missing: a number, such as 1e-3')
        return default
    try:
        number = float(value)
        if isinstance(value, bool) or not 0 <= number < float('inf'):
            raise ValueError
        return number
    except (TypeError, ValueError):
        raise UserError(f'{place}.{key}: {value!r} is not a number of at least 0') from None


def _given(number) -> bool:
    """Whether a number does anything; of one that is known only to the compiled step one cannot say that it does not."""
    return isinstance(number, jax.Array) or bool(number)


def _arguments(spec, name, arguments, place):
    """The keys of the spec that are arguments of the optax constructor."""
    valid = [key for key in arguments if key not in _NOT_FROM_A_CONFIG]
    kwargs = {}
    for key in spec:
        if key in OWN_KEYS or spec[key] is None:
            continue
        if key not in valid:
            near = schedules.nearest(_OWN_NAMES.get(key, key), [*valid, *OWN_KEYS])
            raise UserError(f'{place}.{key}: {name} has no such argument{near}; it has {", ".join(valid) or "none"}, '
                            f'and every optimizer has {", ".join(OWN_KEYS)}')
        kwargs[key] = tuple(spec[key]) if isinstance(spec[key], list) else spec[key]
    return kwargs


def _rules(spec, place, paths) -> dict[str, dict[str, float]]:
    """{'lr_mults' | 'wd_mults': {path: factor}} of the lists that the spec has."""
    tables = {}
    for key in ('lr_mults', 'wd_mults'):
        if rules := spec.get(key):
            try:
                rules = [(regex, float(factor)) for regex, factor in rules]
            except (TypeError, ValueError):
                raise UserError(f'{place}.{key}: give pairs of a regex and a number, such as '
                                "(('head/.*', 0.1),)") from None
            tables[key] = _assign(rules, paths, f'{place}.{key}')
    return tables


def _assign(rules, paths, place) -> dict[str, Any]:
    """{path: value} by the first rule whose regex matches the whole path; every rule must be used."""
    assigned = {}
    for regex, value in rules:
        try:
            matched = [path for path in paths if re.fullmatch(regex, path)]
        except (re.error, TypeError) as error:
            raise UserError(f'{place}: {regex!r} is not a regular expression: {error}') from None
        if not matched:
            near = sorted(paths, key=lambda path: -_likeness(regex, path))[:3]
            raise UserError(f'{place}: no parameter matches {regex!r}, which must match the whole path; '
                            f'near it are {", ".join(repr(path) for path in near) or "none"}')
        fresh = [path for path in matched if path not in assigned]
        if not fresh:
            raise UserError(f'{place}: every parameter that {regex!r} matches is taken by a rule before it; '
                            'put the narrower rule first')
        assigned.update(dict.fromkeys(fresh, value))
    return assigned


def _likeness(regex, path):
    return difflib.SequenceMatcher(None, re.sub(r'[^\w/]+', '', regex), path).ratio()


def _flatten(tree):
    return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _map_leaves(function, tree, *rest):
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(jax.tree_util.keystr(path, simple=True, separator='/'), *leaves), tree, *rest)


def _map_paths(function, tree):
    return _map_leaves(lambda path, _: function(path), tree)


class _Without(Mapping):
    """A mapping less some keys, reading the others only when asked."""

    def __init__(self, mapping, keys):
        self.mapping, self.keys_out = mapping, keys

    def __getitem__(self, key):
        if key in self.keys_out:
            raise KeyError(key)
        return self.mapping[key]

    def __iter__(self):
        return (key for key in self.mapping if key not in self.keys_out)

    def __len__(self):
        return sum(1 for _ in self)


def _decay_factor(mults, mask, place):
    """`factor(path, w)` on decay and penalties, or None where it is 1 everywhere."""
    if mask not in (None, '', 'all', 'kernels'):
        raise UserError(f"{place}.wd_mask: {mask!r} is neither 'all' nor 'kernels'")
    if not mults and mask != 'kernels':
        return None
    return lambda path, w: 0.0 if mask == 'kernels' and w.ndim < 2 else mults.get(path, 1.0)


def _decay_mask(arguments, name, rules, place):
    """The constructor's own name for a mask of the decay."""
    for key in ('mask', 'weight_decay_mask'):
        if key in arguments and set(rules.get('wd_mults', {}).values()) <= {0.0, 1.0}:
            return key
    raise UserError(f'{place}: {name} decays inside its own rule, where wd_mults and wd_mask '
                    f'{"can only be 0 or 1" if {"mask", "weight_decay_mask"} & set(arguments) else "have no place"}')


def _add(term):
    """Adds `term(path, w, step)` to every update."""

    def update(updates, step, params=None, **_):
        new = _map_leaves(lambda path, w, u: u + term(path, w, step).astype(u.dtype), params, updates)
        return new, optax.safe_increment(step)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros([], jnp.int32), update)


def _max_norm(radius):
    def project(updates, params):
        def one(w, u):
            if w.ndim < 2:
                return u
            new = w + u
            norm = jnp.sqrt(jnp.sum(jnp.square(new), axis=tuple(range(w.ndim - 1)), keepdims=True))
            return jnp.where(norm > radius, new * (radius / norm) - w, u)  # where it does not bind, the update is exact
        return jax.tree.map(one, params, updates)
    return optax.stateless(project)


def _plateau(option, lr, run, place):
    """optax's reduce_on_plateau, with durations: its unit of time is the epoch, or a step where there is no epoch."""
    window = max(1, round(run['steps_per_epoch'] or 1))
    spans = {key: durations.steps(option(key, default), **run) / window
             for key, default in (('patience', 10 * window), ('cooldown', 0))}
    floor = float(option('min_lr', 0.0))
    try:
        return optax.contrib.reduce_on_plateau(
            factor=float(option('factor', 0.1)), rtol=float(option('rtol', 1e-4)), atol=float(option('atol', 0.0)),
            accumulation_size=window, patience=max(1, round(spans['patience'])), cooldown=round(spans['cooldown']),
            min_scale=floor / lr if floor else 0.0)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f'{place}.schedule: {error}') from None
