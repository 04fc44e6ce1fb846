"""What the loop needs to know, read once from the config and resolved to numbers before any device is touched."""
import dataclasses
from collections.abc import Mapping

from bigjax.errors import UserError
from bigjax.io.text import printable
from bigjax.sharding.explicit_reduce import DTYPES
from bigjax.train import durations

LARGEST = {'seed': 2**31 - 1, 'population': 2**20}  # seeds are 32 bits wide on devices
HIGHER = ('accuracy', 'auc', 'f1', 'match', 'likelihood', 'bleu', 'score', 'precision', 'recall')


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

    @property
    def best_is_higher(self) -> bool:
        """Whether more of the metric `best` is better, judged by its name."""
        return any(word in self.best.rsplit('/', 1)[-1] for word in HIGHER)

    def cadence(self, duration) -> int:
        """Any other duration in steps; '' or None is 0."""
        return durations.steps(duration or 0, total_steps=self.steps, steps_per_epoch=self.steps_per_epoch,
                               batch_size=self.batch_size)


def _at_least(config, key: str, low, kinds=int):
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, kinds) or value < low:
        raise UserError(f'config.{key}: {_shown(value)} is not a number of at least {low}')
    if isinstance(value, int) and value > LARGEST.get(key, 2**63 - 1):
        raise UserError(f'config.{key}: {_shown(value)} is too large; it is at most {LARGEST.get(key, 2**63 - 1)}')
    return value


def _shown(value) -> str:
    return printable(repr(value))


def read(config: Mapping, examples: int) -> Settings:
    """Resolves the shared keys of `config` for a training set of `examples`.

    Raises:
      UserError: a value has the wrong type or is out of range.
    """
    if examples < 1:
        raise UserError('config.data: the training set is empty')
    batch_size = _at_least(config, 'batch_size', 1)
    per_epoch = examples / batch_size
    known = dict(steps_per_epoch=per_epoch, batch_size=batch_size)
    steps = durations.steps(config['steps'], **known)
    if steps < 0:
        raise UserError(f"config.steps: {_shown(config['steps'])} is negative")

    def cadence(key):
        return durations.steps(config[key] or 0, total_steps=steps, **known)

    accumulate = _at_least(config, 'accumulate', 1)
    if batch_size % accumulate:
        raise UserError(f'config.batch_size: {batch_size} is not divisible by config.accumulate={accumulate}; '
                        f'write --config.batch_size={-(-batch_size // accumulate) * accumulate}')
    resident = config['resident']
    if resident not in ('auto', 'yes', 'no'):
        raise UserError(f"config.resident: {_shown(resident)} is none of 'auto', 'yes', 'no'")
    reduce_dtype = config['reduce_dtype']
    if reduce_dtype not in ('', *DTYPES):
        raise UserError(f"config.reduce_dtype: {_shown(reduce_dtype)} is none of '', {', '.join(map(repr, DTYPES))}")
    ema = config['ema']
    if not 0 <= ema < 1:
        raise UserError(f'config.ema: a decay of {_shown(ema)} is not in [0, 1)')
    members = written_out(config)
    seed, population = _at_least(config, 'seed', 0), len(members) or _at_least(config, 'population', 1)
    if not members and seed + population - 1 > LARGEST['seed']:
        raise UserError(f"config.seed: {population} members from {seed} on, and the largest seed is {LARGEST['seed']}")
    return Settings(
        seed=seed, steps=steps, batch_size=batch_size,
        eval_batch_size=_at_least(config, 'eval_batch_size', 0), accumulate=accumulate,
        population=population, population_over=config['population_over'],
        members=members,
        data_threads=_at_least(config, 'data_threads', 1), data_workers=_at_least(config, 'data_workers', 0),
        resident=resident, mesh=config['mesh'], reduce_dtype=reduce_dtype,
        steps_per_call=_at_least(config, 'steps_per_call', 0), log_every=max(1, cadence('log_every')),
        eval_every=cadence('eval_every'), checkpoint_every=cadence('checkpoint_every'),
        checkpoint_keep=_at_least(config, 'checkpoint_keep', 1),
        best=config['best'], patience=cadence('patience'), ema=float(ema), steps_per_epoch=per_epoch,
        sinks=tuple(filter(None, config['sinks'].split(','))))


def written_out(config: Mapping) -> tuple[dict[str, float], ...]:
    """The members that `population_over` writes out: numbers of the optimizer, and the seed, which change no shape.

    Raises:
      UserError: a key that cannot differ between members that share one compiled step, or members of different keys.
    """
    text = config['population_over']
    if '=' not in text:
        return ()
    members = []
    for part in filter(str.strip, text.split(';')):
        member = {}
        for item in part.split():
            key, _, value = item.partition('=')
            section, _, name = key.rpartition('.')
            now = config['optimizer'].get(name) if section == 'optimizer' and 'optimizer' in config else None
            if key != 'seed' and (section != 'optimizer' or isinstance(now, bool) or not isinstance(now, int | float)):
                raise UserError(f'config.population_over: {_shown(key)} is neither the seed nor a number of the optimizer that '
                                'the config sets (optimizer.lr); members that differ in more are runs of their own')
            try:
                member[key] = _at_least({key: int(value)}, key, 0) if key == 'seed' else float(value)
            except ValueError:
                raise UserError(f'config.population_over: {printable(item)} is not a number') from None
        members.append(member)
    if any(member.keys() != members[0].keys() for member in members):
        raise UserError('config.population_over: the members set different keys, '
                        f'{printable(", ".join(members[0]))} and others')
    if config['population'] not in (1, len(members)):
        raise UserError(f"config.population: {config['population']} members, and config.population_over writes out "
                        f'{len(members)}; leave config.population out')
    return tuple(members)


def check_devices(settings: Settings, parts: int) -> None:
    """Raises UserError where the batch cannot be split over `parts` devices and the micro-batches."""
    whole = parts * settings.accumulate
    if settings.batch_size % whole:
        raise UserError(
            f'config.batch_size: {settings.batch_size} is not divisible by {parts} devices x {settings.accumulate} '
            f'micro-batches; write --config.batch_size={-(-settings.batch_size // whole) * whole} or a smaller '
            '--config.mesh')
