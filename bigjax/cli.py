"""The command line of an experiment: flags, verbs, exit codes. Only this file, `experiments` and `launch` know flags.

    python -m experiments.NAME [VERB] --workdir=DIR [--variant=A,B] [--config.key=value]

exit 0 done · 2 the input is wrong · 3 a non-finite loss · 4 done, and the answer is no · 75 preempted, run it again
"""
import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from bigjax import config as configs
from bigjax.distributed import accelerators
from bigjax.distributed.bootstrap import Flags, Start, start
from bigjax.errors import NonFinite, Preempted, UserError
from bigjax.io import storage
from bigjax.io.text import printable
from bigjax.watchdog.phases import process_began
from bigjax.watchdog.watchdog import Unstarted, preemptible

DONE, FAILED, USER, NONFINITE, NO, PREEMPTED = 0, 1, 2, 3, 4, 75
DOCTOR_START = 10.0  # seconds
HURRY, CALM = 3.0, 60.0  # seconds that the end of the program may take, when asked to stop and otherwise


def main() -> None:
    """Runs the experiment script that Python was started with, and exits."""
    module = sys.modules['__main__']
    name = module.__spec__.name if module.__spec__ else pathlib.Path(module.__file__).stem
    try:
        with preemptible():
            code = run(module, name, sys.argv[1:], process_began())
    except Unstarted as error:
        _end_now(_say(f"{name.rsplit('.', 1)[-1]}: {error}", PREEMPTED))
    except BaseException as error:  # also sys.exit() somewhere in a script, of which the other processes know nothing
        traceback.print_exc()
        wanted = error.code if isinstance(error, SystemExit) else FAILED
        _end_now(wanted if isinstance(wanted, int) else FAILED if wanted else DONE)
    if code in (FAILED, USER):
        _end_now(code)
    # Python waits for threads that read data, and data may have stalled; atexit's functions need a moment, JAX's the others.
    ending = threading.Timer(HURRY if code == PREEMPTED else CALM, _end_now, (code,))
    ending.daemon = True
    ending.start()
    sys.exit(code)


def _end_now(code: int) -> None:
    """Ends a process that fails without waiting for anybody: at the end of a program JAX would wait minutes for the other
    processes, and threads of libraries for a disk or a store that answers nobody any more.

    An exit that all processes reach together (0, 3, 4, 75) is not a failure of one; the guard has told the others.
    """
    with contextlib.suppress(OSError):  # a pipe that nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run(module, name: str, argv: Sequence[str], began: float | None = None) -> int:
    """One command; returns its exit code. `module` has `get_config(variant)` and `get_experiment(config)`.

    Args:
      began: when its process was started (`time.monotonic`).
    """
    from bigjax.train import compile_cache
    from bigjax.train.stuck_params import NotDeterministic
    from bigjax.watchdog.phases import budgets
    from bigjax.watchdog.watchdog import Guard
    short = name.rsplit('.', 1)[-1]
    try:
        options, verb, overrides = _parse(module, name, argv)
        if options is None:
            return DONE
        if verb not in VERBS:
            raise UserError(f"'{printable(verb)}': no such verb{configs.nearest(verb, list(VERBS))}; the verbs are "
                            f"{', '.join(VERBS)}")
        limits = budgets(options.budgets)
        limits = limits if verb == 'train' else {}  # the others are in one phase all the time
        _platform(options.platform)
        if options.deterministic:
            _deterministic()
        if verb == 'plan':  # is for other machines
            joined = Start()
        else:
            compile_cache.enable(options.compile_cache)
            joined = _join(options, name, argv, _patience(options, verb))
        with Guard(grace=options.grace, budgets=limits, lifeline=joined.lifeline, name=joined.name, explain=_storage,
                   began=began) as guard, _ending(guard) if verb == 'train' else contextlib.nullcontext():
            if verb not in ('plan', 'shard', 'doctor'):
                accelerators.refuse_cpu(options.platform)
            return VERBS[verb](Job(module, short, options, overrides, list(argv), joined.process == 0, guard, joined))
    except UserError as error:
        return _say(f'{short}: {error}', USER)
    except (compile_cache.StrictError, NotDeterministic) as error:
        return _say(f'{short}: {error}', FAILED)
    except NonFinite as error:
        return _say(f'{short}: {error}', NONFINITE)
    except Preempted as error:
        return _say(f'{short}: {error}', PREEMPTED)
    except Exception as error:
        if why := _storage(error):
            return _say(f'{short}: {why}', FAILED)
        raise


@contextlib.contextmanager
def _ending(guard):
    """All processes of a job have come to its end when this is left, under the eyes of the guard: JAX's own wait for the others
    would last minutes, and nobody would say for whom. A process that fails waits for nobody."""
    try:
        yield
    except BaseException as error:
        if getattr(error, 'shared', False):
            guard.wait_for_all()
        raise
    guard.wait_for_all()


def _say(text: str, code: int) -> int:
    print(' '.join(text.split()), file=sys.stderr, flush=True)
    return code


STORAGE = {
    errno.ENOSPC: 'no space left on the device that holds the workdir; free some',
    errno.EDQUOT: 'the quota of the file system that holds the workdir is used up; free some',
    errno.EROFS: 'the file system that holds the workdir has become read-only; look at its disk',
    errno.EIO: 'the disk that holds the workdir has failed to read or write; look at the system\'s log',
    errno.ESTALE: 'the network file system that holds the workdir has gone; mount it again'}


def _storage(error: BaseException | None) -> str:
    """What the disk has to do with an error, however deep (asynchronous saves wrap it), or ''."""
    for _ in range(20):
        if error is None:
            break
        if isinstance(error, storage.Broken):
            return str(error)
        for number, text in STORAGE.items():
            if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in str(error):
                return f'{text} and run the same command again, finished checkpoints are intact'
        error = error.__cause__ or error.__context__
    return ''


def _platform(name: str) -> None:
    if name:
        import jax
        jax.config.update('jax_platforms', name)


def _deterministic() -> None:
    """XLA reads its flags when the first device is touched; only GPUs have operations that differ from time to time."""
    os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def _patience(options, verb: str) -> float:
    """Seconds to wait for the other processes; `doctor` is to tell soon who is missing."""
    return DOCTOR_START if verb == 'doctor' and not options['start_timeout'].present else options.start_timeout


def _join(options, name: str, argv: Sequence[str], seconds: float) -> Start:
    """Meets the other processes of this command, where there are any; no device has been touched yet."""
    return start(Flags(options.coordinator, options.processes, options.process), seconds=seconds, heartbeat=options.heartbeat,
                 command=shlex.join([name, *without(argv, *OWN, '--config.data_dir')]))


OWN = ('--coordinator', '--processes', '--process', '--start_timeout', '--heartbeat', '--grace', '--budgets')


def without(argv: Sequence[str], *names: str) -> list[str]:
    """The arguments less some flags, written as --flag=value or --flag value."""
    kept, queue = [], list(argv)
    while queue:
        arg = queue.pop(0)
        flag, equals, _ = arg.partition('=')
        if f"--{flag.lstrip('-')}" not in names or not flag.startswith('-'):
            kept.append(arg)
        elif not equals:
            queue = queue[1:]
    return kept


def _define() -> flags.FlagValues:
    """The flags that every experiment has, in a namespace of their own."""
    values = flags.FlagValues()
    text = lambda name, default, help: flags.DEFINE_string(name, default, help, flag_values=values)
    flags.DEFINE_boolean('help', False, 'show this', short_name='h', flag_values=values)
    text('workdir', '', 'the folder of the run, or gs://BUCKET/FOLDER: all it writes; started again, it goes on from there')
    text('variant', '', 'which of the configs of the experiment; without it, all rows of its table')
    text('init_from', '', 'the workdir or checkpoint of another run whose weights this one starts from')
    text('replay', '', 'the nonfinite/ folder of a run that exited 3: repeat the step and name what broke')
    text('platform', os.environ.get(accelerators.PLATFORM, ''),
         'cpu, cuda or tpu instead of the best there is (or BIGJAX_PLATFORM)')
    text('compile_cache', '', "the folder that keeps compiled programs for later runs, or 'off'; by default the user's cache")
    text('profile', '', 'A:B: trace the steps after A until B, and print the operations that took the time')
    flags.DEFINE_boolean('strict', False, 'warnings that a careful run should not have are errors: a step compiled twice, a '
                         'parameter that does not move', flag_values=values)
    flags.DEFINE_boolean('deterministic', False, 'choose algorithms that repeat bit for bit, and prove it by doing the first '
                         'steps twice', flag_values=values)
    text('against', '', "bench: 'torch' times the same model, batch and optimizer in PyTorch beside it")
    text('out', '', 'bench, plan: also write the figures to this JSON file')
    text('topology', '', "plan: the hardware, such as 'v5e-16', 'v5p:4x8x8', 'v5e:16x16*2', 'h100:64', 'cpu:8'")
    text('mesh', '', "plan: meshes to compare, separated by ';', instead of config.mesh")
    text('inside', '', "plan: compile in this process and write the figures here, as plan's own processes do")
    flags.DEFINE_float('hbm', None, 'plan: GiB that a program may use on a chip, instead of the known ones', 0.0,
                       flag_values=values)
    text('coordinator', '', 'several processes by hand: HOST:PORT of process 0; SLURM, MPI, TPU and GKE need no flag')
    number = lambda name, help: flags.DEFINE_integer(name, None, help, upper_bound=2**31, flag_values=values)
    number('processes', 'several processes by hand: how many')
    number('process', 'several processes by hand: which one this is, from 0')
    flags.DEFINE_float('start_timeout', 300.0, 'seconds to wait for the other processes (doctor: 10)', flag_values=values)
    flags.DEFINE_float('grace', 30.0, 'seconds after SIGTERM or Ctrl-C in which the state must be saved', 0.0,
                       flag_values=values)
    flags.DEFINE_float('heartbeat', 30.0, 'seconds of silence after which another process counts as dead', 1.0,
                       flag_values=values)
    text('budgets', '', "seconds that a phase may last before the run counts as stuck, such as 'step:60,save:300'")
    number('population', 'how many members to train at once (config.population)')
    flags.DEFINE_boolean('check', False, 'exit 4 where a result misses what the paper reports', flag_values=values)
    return values


def _parse(module, name: str, argv: Sequence[str]):
    """(flags or None after --help, verb, {config key: text})."""
    overrides, rest, queue = {}, [], list(argv)
    while queue:
        arg = queue.pop(0)
        if not re.match(r'--?config\.', arg):
            rest.append(arg)
            continue
        key, equals, value = arg.lstrip('-').removeprefix('config.').partition('=')
        if not equals:
            if not queue:
                raise UserError(f'{printable(arg)}: a value is missing; write it as --config.KEY=VALUE')
            value = queue.pop(0)
        overrides[key] = value
    values = _define()
    try:
        positional = values([name, *rest])[1:]
    except (flags.Error, ValueError) as error:  # --nostrict=x is a ValueError of absl
        raise UserError(f'{printable(str(error).splitlines()[0])}; --help shows the flags') from None
    except RecursionError:  # absl looks for the flags that are nearest to it
        raise UserError('a flag has too many letters; --help shows the flags') from None
    if len(positional) > 1:
        raise UserError(f"'{printable(positional[1])}': one verb at a time; flags start with --")
    if values.help:
        print(_help(module, name, values))
        return None, '', {}
    if values.population is not None:
        overrides['population'] = str(values.population)
    return values, positional[0] if positional else 'train', overrides


def _help(module, name: str, values) -> str:
    rows = variants(module, values.variant)
    shown = [f"{(module.__doc__ or '').strip()}\n\nusage: python -m {name} [{'|'.join(VERBS)}] --workdir=DIR [flags]\n\nflags:"]
    for flag in sorted(values[f].name for f in values):
        shown.append(f'  --{flag:12} {values[flag].help}')
    for row in rows[:1]:
        title = f' of --variant={row}' if row else ''
        shown.append(f"\nconfig{title} (--config.key=value):\n{configs.lines(module.get_config(row))}")
    if len(rows) > 1:
        shown.append(f"\nrows of its table: {' '.join(rows)}")
    return '\n'.join(shown)


def variants(module, variant: str) -> tuple[str, ...]:
    """The rows that a command runs: the one it names, or the whole table of the experiment."""
    return (variant,) if variant else tuple(getattr(module, 'TABLE', ())) or ('',)


@dataclasses.dataclass
class Job:
    """One command: what the verbs work on."""

    module: Any
    name: str
    flags: Any
    overrides: Mapping[str, str]
    argv: list[str]
    leads: bool = True
    """Whether this is process 0, which alone prints and writes reports."""
    guard: Any = None
    """`bigjax.watchdog.watchdog.Guard` of this process; None keeps no watch."""
    joined: Start = dataclasses.field(default_factory=Start)
    """How this process takes part."""

    @property
    def rows(self) -> tuple[str, ...]:
        """The variants to run."""
        return variants(self.module, self.flags.variant)

    def workdir(self, row: str):
        """The folder of one row: a sub-folder where there are several."""
        return self.root / row.replace(',', '_').replace('/', '_') if len(self.rows) > 1 else self.root

    @property
    def root(self):
        """What --workdir names."""
        if not self.flags.workdir:
            raise UserError('--workdir is missing; name a folder for the run, for example --workdir=/tmp/run')
        return storage.place(self.flags.workdir)

    def command(self, row: str) -> str:
        """The command that repeats one row."""
        rest = [a for a in without(self.argv, '--workdir', '--variant', *OWN) if a != 'train']
        return ' '.join(['python -m', f'experiments.{self.name}', *([f'--variant={row}'] if row else []),
                         f'--workdir={self.workdir(row)}', *map(shlex.quote, rest)])

    def stored_config(self, row: str, stored: Mapping):
        """The config that a run recorded, put over the script's own."""
        flat = {key: str(value) for key, value in configs.leaves(stored).items() if not isinstance(value, list | dict)}
        config = configs.override(self.module.get_config(row), {k: v for k, v in flat.items() if v != 'None'})
        return configs.override(config, self.overrides)

    def config(self, row: str):
        """The resolved config of one row."""
        try:
            config = self.module.get_config(row)
        except (TypeError, AttributeError) as error:
            if isinstance(error, TypeError) and 'override field' not in str(error):
                raise
            raise UserError(f'get_config({row!r}) of {self.name}: {error}') from None
        return configs.override(config, self.overrides)

    def experiment(self, row: str, config):
        """(experiment, settings) of one row, without a program."""
        from bigjax.train import settings as settings_module
        reader = configs.Reader(config)
        experiment = self.module.get_experiment(reader)
        return experiment, settings_module.read(reader, len(experiment.data.train))

    def program(self, row: str, config, devices=None, watch=None):
        """(program, settings) of one row on some devices (None: all); every key was read when it returns."""
        from bigjax.train import settings as settings_module
        from bigjax.train.program import Program
        reader = configs.Reader(config)
        experiments = [self.module.get_experiment(reader)]
        if config.data != self.module.get_config(row).data:  # the paper says nothing of other data
            experiments = [dataclasses.replace(experiments[0], expected=())]
        settings = settings_module.read(reader, len(experiments[0].data.train))
        if settings.population_over != 'seed' and not settings.members:
            over = settings.population_over
            if not isinstance(configs.leaves(config).get(over), int):
                raise UserError(f"config.population_over: '{over}' is not an integer key of the config"
                                f'{configs.nearest(over, list(configs.leaves(config)))}')
            for m in range(1, settings.population):
                mine = configs.override(config, {over: str(configs.leaves(config)[over] + m)})
                experiments.append(self.module.get_experiment(configs.Reader(mine)))
        return Program(experiments, settings, check=reader.check, devices=devices, watch=watch), settings


from bigjax import verbs  # noqa: E402  the verbs need Job's type only by name

VERBS = {'train': verbs.train, 'eval': verbs.evaluate, 'plan': verbs.plan, 'bench': verbs.bench,
         'shard': verbs.shard, 'doctor': verbs.doctor}
