"""The shared keys of a config, resolved to numbers and checked before any device is touched."""
import dataclasses
import functools
import math
from collections.abc import Mapping

from bigjax.errors import UserError
from bigjax.io.nested import is_section
from bigjax.io.text import counted, printable
from bigjax.sharding.explicit_reduce import DTYPES
from bigjax.train import best, durations

LARGEST = {'seed': 2**31 - 1, 'steps': 2**31 - 1, 'population': 2**20}  # seeds and steps are 32 bits wide on devices


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved keys of `bigjax.experiment.base_config`; every cadence is in steps."""

    seed: int
    steps: int
    batch_size: int
    eval_batch_size: int
    accumulate: int
    population: int
    population_over: str
    members: tuple[Mapping[str, float], ...]  # of a population that is written out: {key: value} of each
    data_threads: int
    data_workers: int
    damaged: str
    resident: str
    mesh: str
    reduce_dtype: str
    steps_per_call: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    checkpoint_keep: int
    best: str
    patience: int
    ema: float
    steps_per_epoch: float
    sinks: tuple[str, ...]

    def cadence(self, duration) -> int:
        """Any other duration in steps; '' or None is 0."""
        return durations.steps(duration or 0, total_steps=self.steps, steps_per_epoch=self.steps_per_epoch,
                               batch_size=self.batch_size)


def _refusal(key: str, value, expected: str, fix: str = '', code: str = 'config/range') -> UserError:
    return UserError(f'config.{key}: got {_shown(value)}, expected {expected}{f"; fix: {fix}" if fix else ""}', code=code)


def _shown(value) -> str:
    return printable(repr(value))


def _at_least(config, key: str, low: int) -> int:
    """The whole number of a key."""
    value, largest = config[key], LARGEST.get(key, 2**63 - 1)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= largest:
        raise _refusal(key, value, f'a whole number from {low} to {largest}', f'--config.{key}={low}')
    return value


def _duration(config, key: str, **run) -> int:
    """The duration of a key in steps."""
    try:
        return durations.steps(config[key] or 0, **run)
    except UserError as error:
        raise UserError(f'config.{key}: {error}', code=error.code) from None


def _one_of(config, key: str, choices) -> str:
    if config[key] not in choices:
        raise _refusal(key, config[key], f"one of {', '.join(map(repr, choices))}", code='config/choice')
    return config[key]


def read(config: Mapping, examples: int) -> Settings:
    """Resolves the shared keys of `config` for a training set of `examples`.

    Raises:
      UserError: a value has the wrong type or is out of range.
    """
    if examples < 1:
        raise UserError('config.data: got a training set without examples, expected at least one', code='data/empty')
    batch_size = _at_least(config, 'batch_size', 1)
    per_epoch = examples / batch_size
    known = dict(steps_per_epoch=per_epoch, batch_size=batch_size)
    steps = _duration(config, 'steps', **known)
    if not 1 <= steps <= LARGEST['steps']:
        raise _refusal('steps', config['steps'], f"at least one step and at most {LARGEST['steps']:,}", '--config.steps=1')

    cadence = functools.partial(_duration, config, total_steps=steps, **known)
    accumulate = _at_least(config, 'accumulate', 1)
    if batch_size % accumulate:
        raise _refusal('batch_size', batch_size, f'a multiple of config.accumulate={accumulate}',
                       f'--config.batch_size={-(-batch_size // accumulate) * accumulate}', 'config/batch-divisible')
    ema = config['ema']
    if isinstance(ema, bool) or not isinstance(ema, int | float) or not 0 <= ema < 1:
        raise _refusal('ema', ema, 'a decay in [0, 1)', '--config.ema=0.999')
    members = written_out(config)
    seed, population = _at_least(config, 'seed', 0), len(members) or _at_least(config, 'population', 1)
    if not members and seed + population - 1 > LARGEST['seed']:
        raise _refusal('seed', seed, f"at most {LARGEST['seed'] - population + 1}, as {population} members count from it")
    patience, log_every = cadence('patience'), cadence('log_every')
    if log_every < 1:
        raise _refusal('log_every', config['log_every'], 'at least one step', "--config.log_every='1 epoch'")
    if patience and not config['best']:
        raise _refusal('patience', config['patience'], "'' where config.best is not set, as no metric is named for it",
                       '--config.best=val/loss', 'config/patience')
    return Settings(
        seed=seed, steps=steps, batch_size=batch_size,
        eval_batch_size=_at_least(config, 'eval_batch_size', 0), accumulate=accumulate,
        population=population, population_over=config['population_over'], members=members,
        data_threads=_at_least(config, 'data_threads', 1), data_workers=_at_least(config, 'data_workers', 0),
        damaged=_one_of(config, 'damaged', ('stop', 'skip')),
        resident=_one_of(config, 'resident', ('auto', 'yes', 'no')), mesh=config['mesh'],
        reduce_dtype=_one_of(config, 'reduce_dtype', ('', *DTYPES)),
        steps_per_call=_at_least(config, 'steps_per_call', 0), log_every=log_every,
        eval_every=cadence('eval_every'), checkpoint_every=cadence('checkpoint_every'),
        checkpoint_keep=_at_least(config, 'checkpoint_keep', 1),
        best=best.checked(config['best']), patience=patience, ema=float(ema), steps_per_epoch=per_epoch,
        sinks=tuple(filter(None, config['sinks'].split(','))))


def written_out(config: Mapping) -> tuple[dict[str, float], ...]:
    """The members that `population_over` writes out: numbers of the optimizer, and the seed, which change no shape.

    Raises:
      UserError: a key that cannot differ between members that share one compiled step, or members of different keys.
    """
    text, code = config['population_over'], 'config/population-over'
    if '=' not in text:
        return ()
    members = []
    for part in filter(str.strip, text.split(';')):
        member = {}
        for item in part.split():
            key, _, value = item.partition('=')
            section, _, name = key.rpartition('.')
            now = config['optimizer'].get(name) if section == 'optimizer' and is_section(config.get('optimizer')) else None
            if key != 'seed' and (section != 'optimizer' or isinstance(now, bool) or not isinstance(now, int | float)):
                raise _refusal('population_over', key,
                               "'seed', or a number of the optimizer that the config sets (optimizer.lr)",
                               'train members that differ in more as runs of their own', code)
            try:
                member[key] = _at_least({key: int(value)}, key, 0) if key == 'seed' else float(value)
            except ValueError:
                raise _refusal('population_over', item, f'{printable(key)}=NUMBER', code=code) from None
            if not 0 <= member[key] < math.inf or (key == 'optimizer.lr' and not member[key]):
                raise _refusal('population_over', item, 'a finite number of at least 0, and a rate above 0', code=code)
        members.append(member)
    if any(member.keys() != members[0].keys() for member in members):
        raise _refusal('population_over', text, f"members that all set the same keys ({', '.join(members[0])})", code=code)
    if config['population'] not in (1, len(members)):
        raise _refusal('population', config['population'], f'the {len(members)} members that config.population_over writes out',
                       'leave config.population out', code)
    return tuple(members)


def check_devices(settings: Settings, parts: int) -> None:
    """Raises UserError where the batch cannot be split over `parts` devices and the micro-batches."""
    whole = parts * settings.accumulate
    if settings.batch_size % whole:
        raise _refusal('batch_size', settings.batch_size,
                       f'a multiple of {counted(parts, "device")} x config.accumulate={settings.accumulate}',
                       f'--config.batch_size={-(-settings.batch_size // whole) * whole} or a smaller --config.mesh',
                       'config/batch-divisible')
