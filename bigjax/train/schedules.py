"""Learning rate schedules: the spec of a config as a function from the optimizer step to the learning rate.

A spec is a name, a mapping with the key `name` and the keys of that name below, or a function of the step, whose value
`lr` (1 unless given) multiplies, such as a schedule of optax. A key that is None is not set. Steps count from 0. Every
duration ('5 epochs', '10%', 200) may be in any unit of `bigjax.train.durations`.

Below, t is the step and u = (t - warmup - hold) / (total - warmup - hold), kept within 0..1.

    constant     lr                                                   (warmup)
    linear       lr + (end - lr) u                                    (warmup, hold, end)
    cosine       end + (lr - end) (1 + cos(pi u)) / 2                 (warmup, hold, end)
    step         lr factor^(number of boundaries passed)              (warmup, factor, and boundaries or every)
    exponential  lr factor^((t - warmup) / every)                     (warmup, factor, every)
    rsqrt        lr min(1, t / warmup) sqrt(w / max(t, w))            (warmup, timescale, which is w)
    one_cycle    from lr / div up to lr and down to lr / div / final_div, by half cosines  (peak, div, final_div)
    plateau      lr, times factor after each `patience` without a better training loss
                                                                      (warmup, factor, patience, cooldown, min_lr, rtol,
                                                                       atol)

Sources: cosine is Loshchilov and Hutter (SGDR, 2017), eq. 5 without restarts; rsqrt is Vaswani et al. (2017), eq. 3;
one_cycle is Smith (2018).

* warmup: a duration over which lr rises linearly from 0, before the schedule; hold: stay at lr before it falls.
* end: the learning rate at the last step, 0 unless given. factor: 0.1 unless given.
* boundaries: durations from step 0; the step at which one has passed is the first with the smaller rate.
* timescale: `warmup` unless given (10000 steps where there is no warm-up); with warmup w it is the Transformer's.
* peak: the duration of the rise, '30%' unless given; div 25, final_div 10000. The peak is at step peak - 1 and the
  end at step total - 1, as in torch.optim.lr_scheduler.OneCycleLR (which moves the momentum as well; this does not).
* plateau: factor 0.1, patience '10 epochs', cooldown 0, min_lr 0, rtol 0.0001, atol 0. The mean training loss of each
  epoch is compared with the best so far and is better below (1 - rtol) best - atol, so Keras's min_delta is atol. As in
  Keras, the rate falls after `patience` epochs without an improvement (torch's ReduceLROnPlateau waits one more). It
  depends on the loss, so it is part of the optimizer's state (`bigjax.train.optimizers`), and the schedule here is what
  it multiplies.
"""
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax

from bigjax.errors import UserError
from bigjax.io.text import hint
from bigjax.train import durations

KEYS = {
    'constant': ('warmup',),
    'linear': ('warmup', 'hold', 'end'),
    'cosine': ('warmup', 'hold', 'end'),
    'step': ('warmup', 'factor', 'boundaries', 'every'),
    'exponential': ('warmup', 'factor', 'every'),
    'rsqrt': ('warmup', 'timescale'),
    'one_cycle': ('peak', 'div', 'final_div'),
    'plateau': ('warmup', 'factor', 'patience', 'cooldown', 'min_lr', 'rtol', 'atol'),
}


POSITIVE = ('factor', 'div', 'final_div')  # keys that divide or multiply a rate
NUMBERS = (*POSITIVE, 'end', 'min_lr', 'rtol', 'atol')


def make(spec: str | Mapping | Callable | None, lr: float, *, total_steps: int, steps_per_epoch: float | None = None,
         batch_size: int | None = None) -> Callable:
    """`schedule(step) -> learning rate`, float32; `step` may be traced, batched, or a number.

    Raises:
      UserError: the name or a key is unknown, or a value is not understood.
    """
    name, get = read(spec)
    if name == 'function':
        return lambda step: jnp.asarray(lr * spec(jnp.asarray(step)), jnp.float32) + jnp.zeros(jnp.shape(step), jnp.float32)

    def span(duration):
        return durations.steps(duration, total_steps=total_steps, steps_per_epoch=steps_per_epoch,
                               batch_size=batch_size)

    if name == 'one_cycle':
        return _one_cycle(lr, span(get('peak', '30%')), total_steps, get('div', 25.0), get('final_div', 1e4))
    warmup = span(get('warmup'))
    if name == 'rsqrt':
        return _rsqrt(lr, warmup, span(get('timescale', warmup or 10_000)))
    parts, starts = [], []
    if warmup:
        parts, starts = [optax.linear_schedule(0.0, lr, warmup)], [warmup]
    if name in ('linear', 'cosine'):
        hold, end = span(get('hold')), float(get('end', 0.0))
        if hold:
            parts, starts = [*parts, optax.constant_schedule(lr)], [*starts, warmup + hold]
        length = max(1, total_steps - warmup - hold)
        if name == 'linear':
            main = optax.linear_schedule(lr, end, length)
        else:
            cosine = optax.cosine_decay_schedule(1.0, length)
            main = lambda t: end + (lr - end) * cosine(t)
    elif name == 'step':
        main = _staircase(lr, warmup, total_steps, float(get('factor', 0.1)), get('boundaries'), get('every'), span)
    elif name == 'exponential':
        if not get('every'):
            raise UserError("optimizer.schedule.every is missing: the duration after which 'exponential' has "
                            "multiplied the learning rate by `factor`", code='schedule/missing')
        main = optax.exponential_decay(lr, span(get('every')), float(get('factor', 0.1)))
    else:  # constant, plateau
        main = optax.constant_schedule(lr)
    joined = optax.join_schedules([*parts, main], starts) if parts else main
    return lambda step: jnp.asarray(joined(jnp.asarray(step)), jnp.float32) + jnp.zeros(jnp.shape(step), jnp.float32)


def read(spec: str | Mapping | Callable | None) -> tuple[str, Callable]:
    """(name, `get(key, default=None)`) of a schedule's spec, after its name, keys and numbers have been checked."""
    if callable(spec) and not isinstance(spec, Mapping):
        return 'function', lambda key, default=None: default
    if spec is None or isinstance(spec, str):
        spec = {'name': spec or 'constant'}
    name = spec.get('name', 'constant')
    if name not in KEYS:
        raise UserError(f'optimizer.schedule.name: there is no schedule {name!r}{hint(name, KEYS)}; '
                        f'there are {", ".join(KEYS)}', code='schedule/unknown-name')
    for key in spec:
        if key != 'name' and key not in KEYS[name] and spec[key] is not None:
            raise UserError(f'optimizer.schedule.{key}: the schedule {name!r} has no such key'
                            f'{hint(key, KEYS[name])}; it has {", ".join(KEYS[name])}', code='schedule/unknown-key')
        if key in NUMBERS and spec[key] is not None:
            _check_number(key, spec[key])

    def get(key, default=None):
        value = spec.get(key)
        return default if value is None else value

    return name, get


def spans(spec: str | Mapping | Callable | None, **run) -> list[tuple[str, int]]:
    """(key, step) of the parts of a schedule that end or begin at a step: the warm-up, the hold, the peak, the boundaries.

    Args:
      run: total_steps, steps_per_epoch and batch_size, as for `make`.
    """
    name, get = read(spec)
    ends = {key: durations.steps(get(key), **run) for key in ('warmup', 'hold', 'peak', 'every', 'patience')
            if get(key) is not None and not (key == 'every' and name != 'step')}
    if 'hold' in ends:
        ends['hold'] += ends.get('warmup', 0)
    boundaries = get('boundaries', ())
    boundaries = (boundaries,) if isinstance(boundaries, str | int | float) else boundaries
    return [*ends.items(), *(('boundaries', durations.steps(each, **run)) for each in boundaries)]


def _check_number(key, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf or (number == 0 and key in POSITIVE):
        raise UserError(f'optimizer.schedule.{key}: got {value!r}, expected a finite number '
                        f'{"above" if key in POSITIVE else "of at least"} 0', code='schedule/number')


def _staircase(lr, warmup, total_steps, factor, boundaries, every, span):
    if (boundaries is None) == (every is None):
        raise UserError("optimizer.schedule: 'step' needs either `boundaries`, such as ('30 epochs', '60 epochs'), "
                        "or `every`, such as '30 epochs'", code='schedule/missing')
    if every is not None:
        period = max(1, span(every))
        at = range(period, total_steps, period)
    else:
        if isinstance(boundaries, str | int | float):
            boundaries = (boundaries,)
        at = [span(boundary) for boundary in boundaries]
    edges = jnp.asarray(sorted(at), jnp.int32) - warmup  # the schedule's own steps start after the warm-up
    return lambda t: lr * factor ** jnp.sum(jnp.asarray(t)[..., None] >= edges, axis=-1).astype(jnp.float32)


def _rsqrt(lr, warmup, timescale):
    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.minimum(1.0, step / warmup) if warmup else 1.0
        return lr * rise * jnp.sqrt(timescale / jnp.maximum(step, timescale))
    return schedule


def _one_cycle(lr, rise, total_steps, div, final_div):
    start, end = lr / div, lr / div / final_div
    top, last = rise - 1.0, max(total_steps - 1.0, rise)

    def between(a, b, u):
        return b + (a - b) * (1 + jnp.cos(math.pi * jnp.clip(u, 0.0, 1.0))) / 2

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        return jnp.where(step <= top, between(start, lr, step / max(top, 1.0)),
                         between(lr, end, (step - top) / (last - top)))
    return schedule
