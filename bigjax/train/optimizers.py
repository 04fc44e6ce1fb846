"""Optimizers: the spec of a config as one optax transformation.

    optimizer = {'name': 'adamw', 'lr': 1e-3, 'schedule': {'name': 'cosine', 'warmup': '5%'}, 'weight_decay': 0.05}

`name` is any optimizer of optax or optax.contrib (`names()` lists them). The update of a parameter w is made in this
order; a key that is absent or None does nothing:

1. l2, l1: `l2 * w + l1 * sign(w)` is added to the gradient: the gradient of l2/2 |w|^2 + l1 |w|. (torch's
   weight_decay of SGD and Adam is `l2`; Keras's regularizers.l2(c) is l2 = 2c.)
2. clip_value: each element to [-c, c]; then clip_norm: the whole gradient to that norm.
3. the optimizer `name`, with `lr` times `schedule` (bigjax.train.schedules), which counts optimizer steps. Every other
   key of the spec is an argument of its optax constructor: b1, momentum, nesterov, eps, …
4. weight_decay: `- lr(step) * weight_decay * w`, decoupled (Loshchilov and Hutter, 2019; SGDW, AdamW). The default is
   the optimizer's own (adamw 1e-4, lion 1e-3). Optimizers whose own rule contains the decay (`DECAY_INSIDE`: lamb, lars,
   prodigy, …) apply it there.
5. lr_mults: ((regex, factor), …) on the update, so a factor on the parameter's learning rate, decay included.
6. the plateau schedule's factor; its loss is the `value` of `update(grads, state, params, value=loss)`.
7. max_norm: the incoming weights of each unit (a kernel's last axis) are projected onto a ball of this radius after the
   update (Srivastava et al., 2014, sec. 5.1); parameters of two or more dimensions.
8. lookahead={'period': 6, 'step_size': 0.5}, swa={'start': '75%', 'every': '1 epoch'}: averaged parameters
   (bigjax.train.averages); evaluation uses `eval_params`.

Decay and penalties of 1 and 4 act on every parameter, unless wd_mask='kernels' (two or more dimensions: not biases, not
norm scales) or wd_mults=((regex, factor), …) restrict them. Dimensions and norms are those of one layer, also where layers
or experts are stacked in one array (bigjax.train.layers).

frozen=(regex, …) never change and have no optimizer state. groups=((regex, spec), …) gives each group of parameters an
optimizer of its own, with its own clipping, schedule and state; keys beside `groups` are the groups' defaults. A group with
'every': n is updated in every n-th step only, of which its schedule and state count one (the critic's steps of a GAN).

A regex must match the whole path of a parameter ('encoder/block_0/.*'). The first rule that matches wins, a rule without
parameters is an error, and with groups every parameter needs a rule.

An own transformation: optimizer={'fn': function(rate) -> transformation, 'lr': …}, where `rate(step)` is `lr` times
`schedule`, in the place of 3; or 'fn' is a transformation, whose updates `lr` times `schedule` multiplies (1 by default).
The optimizer may be the transformation itself. It sees the arrays as they are; `layers.per_layer` maps it over stacks.
"""
import functools
import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigjax.errors import UserError
from bigjax.io.text import hint
from bigjax.sharding.tree_paths import leaves, map_leaves
from bigjax.train import averages, durations, layers, penalties, schedules
from bigjax.train.averages import eval_params as eval_params
from bigjax.train.param_rules import as_spec, assign, factors, regexes

OWN_KEYS = ('name', 'fn', 'lr', 'schedule', 'weight_decay', 'l2', 'l1', 'clip_norm', 'clip_value', 'max_norm', 'lr_mults',
            'wd_mults', 'wd_mask', 'frozen', 'groups', 'lookahead', 'swa')

# The decay is inside the rule: under a trust ratio, in an averaged iterate, or in the distance that sets the rate.
DECAY_INSIDE = ('cocob', 'dadapt_adamw', 'dog', 'dowg', 'lamb', 'lars', 'madgrad', 'momo', 'momo_adam', 'novograd',
                'prodigy', 'schedule_free_adamw', 'schedule_free_sgd')

# The rule depends on the shape or the norm of each array, so it is mapped over stacked layers.
PER_LAYER = ('adafactor', 'fromage', 'galore', 'lamb', 'lars', 'muon', 'novograd', 'sm3')

# They need what a training step, which has one gradient and one loss, does not have.
UNFIT = {
    'dpsgd': 'it needs the gradient of every example',
    'optimistic_adam': 'optax has replaced it by optimistic_adam_v2',
    'schedule_free': 'it wraps another optimizer: use schedule_free_sgd or schedule_free_adamw',
    'sophia': 'it needs the loss as a function, for the diagonal of the Hessian',
}
# name: what it takes as its learning rate, of (schedule, lr), where that is not the schedule.
_ODD_RATES = {
    'rprop': lambda schedule, lr: lr,  # the size of its first step, no more
    'sm3': lambda schedule, lr: 1.0,  # a number; the schedule follows it
    'prodigy': lambda schedule, lr: lambda step: jnp.maximum(schedule(step), 1e-4 * lr),  # a rate of 0 is 0/0 in both
    'dadapt_adamw': lambda schedule, lr: lambda step: jnp.maximum(schedule(step), 1e-4 * lr),
}
_ELSEWHERE = {  # arguments of optax's constructors that are keys of the spec
    'learning_rate': 'lr', 'mask': 'wd_mask', 'weight_decay_mask': 'wd_mask',
    'warmup_steps': "schedule={'name': 'constant', 'warmup': …}"}
_SHARES = ('b1', 'b2', 'b3', 'momentum', 'decay', 'rho')  # arguments of optax's constructors: factors of an average
_NOT_FROM_A_CONFIG = ('weight_decay', 'scaling', 'linesearch', *_ELSEWHERE)


def make(spec: Any, params: Any, *, total_steps: int, steps_per_epoch: float | None = None,
         batch_size: int | None = None) -> tuple[optax.GradientTransformationExtraArgs, Callable]:
    """The optimizer of a spec, and its learning rate as a function of the step.

    Args:
      spec: see above; a dict, a ConfigDict, any Mapping, or an optax transformation.
      params: the parameters of one member, or their shapes.
      total_steps, steps_per_epoch, batch_size: the run, for durations.

    Returns:
      (tx, lr): `tx.init` and `tx.update(grads, state, params, value=loss)` work under jit, vmap and scan. Always give
      `value`, the training loss: optimizers that do not need it ignore it. `lr(step)` leaves out the plateau's factor
      (`plateau_factor`); with groups it is the first group's.

    Raises:
      UserError: a key, a name or an argument is unknown, or a regex does not fit the parameters.
    """
    spec = as_spec(spec)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves(params)}
    leads, paths = layers.leads(params), list(shapes)
    run = {'total_steps': total_steps, 'steps_per_epoch': steps_per_epoch, 'batch_size': batch_size}
    rules = factors(spec, 'optimizer', paths)
    rules['rank'] = {path: len(shape) - len(leads[path]) for path, shape in shapes.items()}
    frozen, groups = regexes(spec, 'frozen', 'optimizer'), spec.get('groups') or ()
    assigned = assign([(regex, 'frozen') for regex in frozen], paths, 'optimizer.frozen')
    free = [path for path in paths if path not in assigned]
    some = lambda members: {path: leads[path] for path in members}
    if not groups:
        tx, lr = _single(spec, 'optimizer', rules, some(free), run)
        labels, parts = {path: assigned.get(path, 'train') for path in paths}, {'train': tx}
    else:
        chosen = assign([(regex, i) for i, (regex, _) in enumerate(groups)], free, 'optimizer.groups')
        for path in free:
            if path not in chosen:
                raise UserError(f"optimizer.groups: no rule matches the parameter '{path}'; fix: add ('.*', …) as the last "
                                'rule, or freeze it', code='optimizer/no-match')
        parts, rates = {}, []
        for i, (regex, group) in enumerate(groups):
            place = f'optimizer.groups[{i}]'
            group = dict(as_spec(group, place))
            members = [path for path in free if chosen[path] == i]
            for key in ('groups', 'frozen'):
                if key in group:
                    raise UserError(f'{place}.{key}: a group has no {key} of its own; fix: write it beside `groups`',
                                    code='optimizer/conflict')
            own = factors(group, place, members)
            every = group.pop('every', 1)
            if not isinstance(every, int) or every < 1:
                raise UserError(f'{place}.every: got {every!r}, expected a whole number of at least 1; fix: the number of '
                                'steps from one update of the group to the next', code='optimizer/number')
            tx, rate = _single(ChainMap(group, spec), place, {**rules, **own}, some(members), _rarer(run, every))
            parts[f'{i}: {regex}'] = tx if every == 1 else optax.conditionally_mask(
                tx, lambda step, every=every: step % every == every - 1)
            rates.append(rate if every == 1 else lambda step, rate=rate, every=every: rate(step // every))
        labels = {path: assigned.get(path) or f'{chosen[path]}: {groups[chosen[path]][0]}' for path in paths}
        lr = rates[0]
    if len(parts) == 1 and not assigned:
        return optax.with_extra_args_support(*parts.values()), lr
    tx = optax.partition({**parts, 'frozen': optax.set_to_zero()},
                         functools.partial(map_leaves, lambda path, _: labels[path]))
    return optax.with_extra_args_support(tx), lr


def _rarer(run: Mapping, every: int) -> dict[str, Any]:
    """The run as a group that is updated in every n-th step counts it."""
    scale = lambda value, factor: None if value is None else value * factor
    return {'total_steps': max(1, run['total_steps'] // every), 'steps_per_epoch': scale(run['steps_per_epoch'], 1 / every),
            'batch_size': scale(run['batch_size'], every)}


def wrap(tx: optax.GradientTransformation, transforms: Sequence[Callable]) -> optax.GradientTransformationExtraArgs:
    """`tx` in the wrappers of `Experiment.transforms`, the first one innermost.

    Raises:
      UserError: a wrapper does not return a gradient transformation.
    """
    for i, transform in enumerate(transforms):
        tx = transform(optax.with_extra_args_support(tx))
        if not isinstance(tx, optax.GradientTransformation):
            raise UserError(f'Experiment.transforms[{i}]: got {type(tx).__name__}, expected a gradient transformation of optax',
                            code='optimizer/transform')
    return optax.with_extra_args_support(tx)


def frozen_paths(spec: Any, params: Any) -> set[str]:
    """The paths of the parameters that a spec leaves as they are: frozen, or with a rate of zero."""
    spec, paths = as_spec(spec), [path for path, _ in leaves(params)]
    frozen = set(assign([(regex, True) for regex in regexes(spec, 'frozen', 'optimizer')], paths, 'optimizer.frozen'))
    if not spec.get('groups') and spec.get('lr') == 0:  # one member of a population
        return set(paths)
    mults = factors(spec, 'optimizer', paths).get('lr_mults', {})
    return frozen | {path for path, factor in mults.items() if factor == 0}


def names() -> list[str]:
    """The optimizers that a spec can name."""
    return sorted(name for name in {*vars(optax), *vars(optax.contrib)} if name not in UNFIT and _constructor(name))


def plateau_factor(opt_state: Any) -> jax.Array:
    """The plateau schedule's factor of the learning rate so far, [members] in a population; 1 where there is none."""
    found = averages.states(opt_state, optax.contrib.ReduceLROnPlateauState)
    return found[0].scale if found else jnp.float32(1)


def _single(spec, place, rules, leads, run):
    """The chain of one group: (transformation, learning rate by step)."""
    own = spec.get('fn')
    if own is None:
        name, constructor = _find(spec.get('name'), place)
        arguments = inspect.signature(constructor).parameters
    else:
        name, constructor, arguments = 'fn', own, {}
        if spec.get('name'):
            raise UserError(f"{place}: got both name={spec['name']!r} and fn; fix: remove one", code='optimizer/conflict')
    rate, lr = _rate(spec, name, own, arguments, run, place)
    kwargs = _arguments(spec, name, arguments, place)
    factor = penalties.decay_factor(rules.get('wd_mults', {}), rules['rank'], spec.get('wd_mask'), place)
    decay = _number(spec, 'weight_decay', place, default=_default(arguments, 'weight_decay'))
    if 'weight_decay' in arguments:
        inside = name in DECAY_INSIDE
        kwargs['weight_decay'] = decay if inside else 0.0
        if inside and _given(decay) and factor:
            kwargs[_mask_argument(arguments, name, rules, place)] = functools.partial(
                map_leaves, lambda path, _: factor(path) > 0)
        decay = 0.0 if inside else decay

    l2, l1 = _number(spec, 'l2', place), _number(spec, 'l1', place)
    chain = []
    if _given(l2) or _given(l1):
        chain += [penalties.add(lambda path, w, _: (l2 * w + l1 * jnp.sign(w)) * (factor(path) if factor else 1.0))]
    if _given(value := _number(spec, 'clip_value', place)):
        chain += [optax.clip(value)]
    if _given(norm := _number(spec, 'clip_norm', place)):
        chain += [optax.clip_by_global_norm(norm)]
    chain += _rule(name, constructor, kwargs, rate, lr, leads, place)
    if _given(decay):
        chain += [penalties.add(lambda path, w, step: -rate(step) * decay * (factor(path) if factor else 1.0) * w)]
    last = []
    if mults := rules.get('lr_mults', {}):
        last += [optax.stateless(lambda updates, _: map_leaves(lambda path, u: u * mults.get(path, 1.0), updates))]
    schedule_name, option = schedules.read(spec.get('schedule'))
    if schedule_name == 'plateau':
        last += [_plateau(option, lr, run, place)]
    if _given(radius := _number(spec, 'max_norm', place)):
        last += [penalties.max_norm(radius, leads)]
    average = _average(spec, run, place)
    if (last or average) and name.startswith('schedule_free'):
        raise UserError(f'{place}: {name} keeps two iterates in step, so it cannot be combined with lr_mults, max_norm, '
                        'lookahead, swa or the plateau schedule', code='optimizer/conflict')
    tx = optax.chain(*chain, *last)
    return average(tx) if average else tx, rate


def _rate(spec, name, own, arguments, run, place):
    """(learning rate by step, `lr`)."""
    schedule = spec.get('schedule')
    default = arguments['scaling' if name == 'polyak_sgd' else 'learning_rate'].default if arguments else None
    if callable(schedule) or isinstance(own, optax.GradientTransformation):
        default = 1.0
    lr = _number(spec, 'lr', place, default=default)
    if not isinstance(lr, jax.Array) and lr == 0:
        raise UserError(f"{place}.lr: got 0, which trains nothing, expected a rate above 0; fix: write frozen=('.*',) for "
                        'parameters that must not change', code='optimizer/zero-rate')
    schedule_name, option = schedules.read(schedule)
    if name == 'rprop' and (schedule_name != 'constant' or option('warmup')):
        raise UserError(f'{place}.schedule: rprop sets its own step sizes and takes no schedule', code='optimizer/conflict')
    return schedules.make(schedule, lr, **run), lr


def _rule(name, constructor, kwargs, rate, lr, leads, place) -> list[optax.GradientTransformation]:
    """The optimizer's own rule, with its learning rate."""
    if name == 'fn':
        if isinstance(constructor, optax.GradientTransformation):
            return [constructor, optax.scale_by_schedule(rate)]
        tx = constructor(rate) if callable(constructor) else constructor
        if not isinstance(tx, optax.GradientTransformation):
            raise UserError(f'{place}.fn: got {type(tx).__name__}, expected a gradient transformation of optax, or a function '
                            'that makes one of a schedule', code='optimizer/transform')
        return [tx]
    kwargs['scaling' if name == 'polyak_sgd' else 'learning_rate'] = _ODD_RATES.get(name, lambda s, _: s)(rate, lr)
    if name == 'lbfgs':
        kwargs['linesearch'] = None  # it would need the loss as a function
    if name == 'noisy_sgd':
        kwargs.setdefault('key', 0)
    tx = constructor(**kwargs)
    tx = layers.per_layer(tx, leads) if name in PER_LAYER else tx
    return [tx, optax.scale_by_schedule(rate)] if name == 'sm3' else [tx]


def _average(spec, run, place) -> Callable | None:
    """The wrapper of `lookahead` or `swa`, where the spec has one."""
    slow, mean = spec.get('lookahead'), spec.get('swa')
    if slow and mean:
        raise UserError(f'{place}: got both lookahead and swa, each of which averages; fix: remove one',
                        code='optimizer/conflict')
    for key, section, valid in (('lookahead', slow, ('period', 'step_size')), ('swa', mean, ('start', 'every'))):
        if section and not isinstance(section, Mapping) and not hasattr(section, 'keys'):
            raise UserError(f'{place}.{key}: got {section!r}, expected a mapping with {", ".join(valid)}',
                            code='optimizer/number')
        for name in section or ():
            if name not in valid:
                raise UserError(f'{place}.{key}.{name}: no such key; it has {", ".join(valid)}', code='optimizer/unknown-key')
    inside = f'{place}.{"lookahead" if slow else "swa"}'
    if slow:
        period, step = _span(slow, 'period', 6, run, inside), _number(slow, 'step_size', inside, default=0.5)
        if not isinstance(step, jax.Array) and not 0 < step <= 1:
            raise UserError(f'{inside}.step_size: got {step}, expected a number in (0, 1], as slow weights that do not move '
                            'are the initial ones', code='optimizer/number')
        return lambda tx: averages.lookahead(tx, period, step)
    if mean:
        start, every = _span(mean, 'start', '75%', run, inside), _span(mean, 'every', 1, run, inside)
        if start > run['total_steps']:
            raise UserError(f'{inside}.start: got step {start:,} of a run of {run["total_steps"]:,}, expected one before its '
                            "end, as nothing would be averaged; fix: such as '75%'", code='optimizer/number')
        return lambda tx: averages.swa(tx, start, every)
    return None


def _span(section, key: str, default, run, place: str) -> int:
    """A duration of at least one step."""
    value = section.get(key, default)
    try:
        steps = durations.steps(value, **run)
    except UserError as error:
        raise UserError(f'{place}.{key}: {error}', code=error.code) from None
    if steps < 1:
        raise UserError(f'{place}.{key}: got {value!r}, expected at least one step', code='optimizer/number')
    return steps


def _find(name, place):
    """(name, constructor) of an optimizer by its name in optax or optax.contrib."""
    if not name:
        raise UserError(f"{place}.name is missing: the optimizer's name in optax, such as 'adam'", code='optimizer/missing')
    if name in UNFIT:
        raise UserError(f'{place}.name: {name!r} cannot be used here: {UNFIT[name]}', code='optimizer/unfit')
    constructor = _constructor(name)
    if constructor is None:
        raise UserError(f'{place}.name: optax has no optimizer {name!r}{hint(name, names())}; it has {", ".join(names())}',
                        code='optimizer/unknown-name')
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
            raise UserError(f'{place}.{key} is missing: a number, such as 1e-3', code='optimizer/missing')
        return default
    try:
        number = float(value)
        if isinstance(value, bool) or not 0 <= number < float('inf'):
            raise ValueError
        return number
    except (TypeError, ValueError):
        raise UserError(f'{place}.{key}: got {value!r}, expected a finite number of at least 0',
                        code='optimizer/number') from None


def _given(number) -> bool:
    """Whether a number has an effect. A traced one may have, so its branch is always built."""
    return isinstance(number, jax.Array) or bool(number)


def _arguments(spec, name, arguments, place):
    """The keys of the spec that are arguments of the optax constructor."""
    valid = [key for key in arguments if key not in _NOT_FROM_A_CONFIG]
    kwargs = {}
    for key in spec:
        if key in OWN_KEYS or spec[key] is None:
            continue
        if key not in valid:
            fix = f'; write {_ELSEWHERE[key]}' if key in _ELSEWHERE else hint(key, [*valid, *OWN_KEYS]) or (
                f'; --config.{place}.{key}=None leaves it out' if place == 'optimizer' else '')
            raise UserError(f'{place}.{key}: {name} has no such argument{fix}; it has {", ".join(valid) or "none"}, '
                            f'and every optimizer has {", ".join(OWN_KEYS)}', code='optimizer/unknown-key')
        number = spec[key] if isinstance(spec[key], int | float) and not isinstance(spec[key], bool) else 0.5
        if number != number or (key in _SHARES and not 0 <= number < 1) or (key.startswith('eps') and number < 0):
            expected = 'in [0, 1)' if key in _SHARES else 'of at least 0' if key.startswith('eps') else 'that is one'
            raise UserError(f'{place}.{key}: got {spec[key]!r}, expected a number {expected}', code='optimizer/number')
        kwargs[key] = tuple(spec[key]) if isinstance(spec[key], list) else spec[key]
    return kwargs


def _mask_argument(arguments, name, rules, place):
    """The constructor's own name for a mask of the decay."""
    masks = [key for key in ('mask', 'weight_decay_mask') if key in arguments]
    if masks and set(rules.get('wd_mults', {}).values()) <= {0.0, 1.0}:
        return masks[0]
    raise UserError(f'{place}: {name} decays inside its own rule, where wd_mults and wd_mask '
                    f'{"can only be 0 or 1" if masks else "have no place"}', code='optimizer/conflict')


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
        raise UserError(f'{place}.schedule: {error}', code='schedule/number') from None
