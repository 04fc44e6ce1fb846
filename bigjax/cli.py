"""The command line of an experiment: flags, verbs, exit codes.

    python -m experiments.NAME [VERB] --workdir=DIR [--variant=A,B] [--config.key=value]

Only this file, `bigjax.train.job`, `experiments` and `launch` know flags. A verb is a folder of bigjax/ with a `verb.py`
(`bigjax.train.job.Verb`), which states what it needs; `run` provides it. The exit codes are those of `bigjax.errors`.
"""
import contextlib
import errno
import math
import os
import pathlib
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence

from absl import flags

from bigjax import config as configs
from bigjax import models
from bigjax.distributed import accelerators
from bigjax.distributed.bootstrap import Flags, Start, start
from bigjax.errors import DONE, FAILED, NONFINITE, PREEMPTED, USER, NonFinite, Preempted, UserError
from bigjax.experiment import EXPLAINED, KEYS, OPTIONAL
from bigjax.io import nested, storage
from bigjax.io.text import first_line, hint, printable
from bigjax.train.build import scanned
from bigjax.train.job import PROCESS, Flag, Job, Verb, script_config, variants, without
from bigjax.watchdog.phases import process_began
from bigjax.watchdog.signals import InterruptedBeforeStart, interruptible_start

PREEMPTED_EXIT_S, EXIT_S = 3.0, 60.0  # the end of the program may take so long, when it was asked to stop and otherwise

VERBS: dict[str, Verb] = {verb.name: verb for verb in scanned('verb', 'VERB')}

SHARED = (
    Flag('workdir', '', 'the folder of the run, or gs://BUCKET/FOLDER: all it writes; started again, it resumes from there'),
    Flag('variant', '', 'which of the configs of the experiment; without it, all rows of its table'),
    Flag('platform', '', 'cpu, cuda or tpu instead of the best there is (or BIGJAX_PLATFORM); cpu:4 is a CPU as four'),
    Flag('compile_cache', '', "the folder that keeps compiled programs for later runs, or 'off'; by default the user's cache"),
    Flag('population', None, 'how many members to train at once (config.population)', 'int'),
    Flag('coordinator', '', 'several processes by hand: HOST:PORT of process 0; SLURM, MPI, TPU and GKE need no flag'),
    Flag('processes', None, 'several processes by hand: how many', 'int', 1),
    Flag('process', None, 'several processes by hand: which one this is, from 0', 'int', 0),
    Flag('start_timeout', 300.0, 'seconds to wait for the other processes (doctor: 10)', 'float', 0.0),
    Flag('grace', 30.0, 'seconds after SIGTERM or Ctrl-C in which the state must be saved', 'float', 0.0),
    Flag('heartbeat', 30.0, 'seconds of silence after which another process counts as dead', 'float', 1.0),
    Flag('phase_timeouts', '', "seconds that a phase may last before the run counts as stuck, such as 'step:60,save:300'"),
)
RENAMED = {'budgets': 'phase_timeouts'}  # old name -> new name, for one release


def main() -> None:
    """Runs the experiment script that Python was started with, and exits."""
    if 'BIGJAX_LIFE' in os.environ:  # a row that another process trains beside others
        from bigjax.train import side_by_side
        side_by_side.end_with_parent()
    module = sys.modules['__main__']
    name = module.__spec__.name if module.__spec__ else pathlib.Path(module.__file__).stem
    try:
        with interruptible_start():
            code = run(module, name, sys.argv[1:], process_began())
    except InterruptedBeforeStart as error:
        _end_now(_print_error(f"{name.rsplit('.', 1)[-1]}: {error}", PREEMPTED))
    except BaseException as error:  # also sys.exit() somewhere in a script, which the other processes would wait for
        traceback.print_exc()
        wanted = error.code if isinstance(error, SystemExit) else FAILED
        _end_now(wanted if isinstance(wanted, int) else FAILED if wanted else DONE)
    if code in (FAILED, USER):
        _end_now(code)
    # Python waits for threads that read data, and data may have stalled; atexit's functions need a moment, JAX's the others.
    ending = threading.Timer(PREEMPTED_EXIT_S if code == PREEMPTED else EXIT_S, _end_now, (code,))
    ending.daemon = True
    ending.start()
    sys.exit(code)


def _end_now(code: int) -> None:
    """Ends a process that fails at once: at the end of a program JAX would wait minutes for the other processes, and threads
    of libraries for a disk or a store that no longer answers.

    An exit that all processes reach together (0, 3, 4, 75) is not a failure of one; the watchdog has informed the others.
    """
    with contextlib.suppress(OSError):  # a closed pipe
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
    from bigjax.watchdog.phases import phase_timeouts
    from bigjax.watchdog.watchdog import Guard
    short = name.rsplit('.', 1)[-1]
    try:
        options, verb, inputs, overrides = parse(module, name, argv)
        if options is None:
            return DONE
        limits = phase_timeouts(options.phase_timeouts)
        limits = limits if verb.watched else {}  # the others are in one phase all the time
        own = {flag.name: options[flag.name].value for flag in verb.flags} | ({'inputs': inputs} if verb.inputs else {})
        platform = accelerators.choose(options.platform or os.environ.get(accelerators.PLATFORM, ''))
        if own.get('deterministic'):
            _deterministic()
        if verb.needs_devices or verb.joins_processes:
            compile_cache.enable(options.compile_cache)
        joined = _join(options, name, argv, _start_timeout(options, verb)) if verb.joins_processes else Start()
        with Guard(grace=options.grace, timeouts=limits, peers=joined.peers, name=joined.name, explain=_storage,
                   began=began) as guard, _ending(guard) if verb.watched else contextlib.nullcontext():
            if verb.needs_devices and platform not in ('', 'cpu'):
                _check_platform(platform)
            if verb.needs_devices:
                accelerators.require_accelerator(platform)
            job = Job(module, short, overrides, list(argv), options.variant, options.workdir, leads=joined.process == 0,
                      guard=guard, joined=joined, platform=platform, grace=options.grace,
                      stored=verb.needs_workdir and not _pretrained(module, verb, options.workdir, own.get('init_from')))
            return verb.run(job, **own)
    except UserError as error:
        return _print_error(f'{short}: {error}', USER)
    except (compile_cache.StrictError, NotDeterministic) as error:
        return _print_error(f'{short}: {error}', FAILED)
    except NonFinite as error:
        return _print_error(f'{short}: {error}', NONFINITE)
    except Preempted as error:
        return _print_error(f'{short}: {error}', PREEMPTED)
    except Exception as error:
        if why := _storage(error):
            return _print_error(f'{short}: {why}', FAILED)
        raise


def _pretrained(module, verb, workdir: str, init_from: str | None) -> bool:
    """Whether a verb that reads a run takes other weights in its place: those of --init_from, or those that the script begins
    with."""
    if verb.takes_pretrained and init_from and workdir.strip():
        raise UserError(f'{verb.name}: got --workdir and --init_from, expected one of the two; fix: leave one of them out',
                        code='cli/two-weights')
    return verb.takes_pretrained and not workdir.strip() and bool(init_from or getattr(module, 'PRETRAINED', False))


@contextlib.contextmanager
def _ending(guard):
    """Context manager that is left when all processes of a job have come to its end, under the watchdog: JAX's own wait for
    the others would last minutes, and would not name the one that is missing. A process that fails does not wait."""
    try:
        yield
    except BaseException as error:
        if getattr(error, 'shared', False):
            guard.wait_for_all()
        raise
    guard.wait_for_all()


def _print_error(text: str, code: int) -> int:
    print(' '.join(text.split()), file=sys.stderr, flush=True)
    return code


STORAGE = {
    errno.ENOSPC: 'no space left on the device that holds the workdir; free some',
    errno.EDQUOT: 'the quota of the file system that holds the workdir is used up; free some',
    errno.EROFS: 'the file system that holds the workdir has become read-only; look at its disk',
    errno.EIO: 'the disk that holds the workdir has failed to read or write; look at the system\'s log',
    errno.ESTALE: 'the network file system that holds the workdir has gone; mount it again'}


def _storage(error: BaseException | None) -> str:
    """The part that the disk has in an error, however deep (asynchronous saves wrap it), or ''."""
    for _ in range(20):
        if error is None:
            break
        if isinstance(error, storage.StorageUnavailable):
            return str(error)
        for number, text in STORAGE.items():
            if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in str(error):
                return f'{text} and run the same command again, finished checkpoints are intact'
        error = error.__cause__ or error.__context__
    return ''


def _check_platform(name: str) -> None:
    """Raises UserError where JAX has no device of the platform; its own errors are a bare assertion and a traceback."""
    import jax
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'--platform={printable(name)}: JAX finds no such device ({first_line(error)}); fix: leave it out, or '
                        'install bigjax[cuda] or bigjax[tpu] on a machine that has one', code='cli/platform') from None


def _deterministic() -> None:
    """XLA reads its flags when the first device is touched; only GPUs have operations whose results vary."""
    os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def _start_timeout(options, verb: Verb) -> float:
    """Seconds to wait for the other processes."""
    return options.start_timeout if verb.start_timeout is None or options['start_timeout'].present else verb.start_timeout


def _join(options, name: str, argv: Sequence[str], seconds: float) -> Start:
    """Meets the other processes of this command, where there are any; no device has been touched yet."""
    return start(Flags(options.coordinator, options.processes, options.process), seconds=seconds, heartbeat=options.heartbeat,
                 command=shlex.join([name, *without(argv, *PROCESS, '--config.data_dir')]))


def _define(verbs: Mapping[str, Verb]) -> flags.FlagValues:
    """The flags of all verbs, in a namespace of their own."""
    values = flags.FlagValues()
    flags.DEFINE_boolean('help', False, 'show this', short_name='h', flag_values=values)
    known = {flag.name: flag for verb in verbs.values() for flag in verb.flags} | {flag.name: flag for flag in SHARED}
    for flag in known.values():
        if flag.kind == 'switch':
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, flag_values=values)
        elif flag.kind == 'float':
            flags.DEFINE_float(flag.name, flag.default, flag.help, flag.lower, flag_values=values)
        elif flag.kind == 'int':
            flags.DEFINE_integer(flag.name, flag.default, flag.help, flag.lower, 2**31, flag_values=values)
        elif flag.kind == 'texts':
            flags.DEFINE_multi_string(flag.name, flag.default, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=values)
    return values


def parse(module, name: str, argv: Sequence[str]):
    """(flags or None after --help, verb, its inputs, {config key: text})."""
    overrides, rest, queue = {}, [], list(argv)
    while queue:
        arg = queue.pop(0)
        if not re.match(r'--?config\.', arg):
            rest.append(f' {arg}' if re.match(r'-[\d.]', arg) else _renamed(arg))  # a row of numbers is no flag
            continue
        key, equals, value = arg.lstrip('-').removeprefix('config.').partition('=')
        if not equals:
            if not queue:
                raise UserError(f'{printable(arg)}: a value is missing; write it as --config.KEY=VALUE', code='cli/no-value')
            value = queue.pop(0)
        overrides[key] = value
    values = _define(VERBS)
    try:
        words = values([name, *rest])[1:]
    except (flags.Error, ValueError) as error:  # --nostrict=x is a ValueError of absl
        raise UserError(f'{printable(str(error).splitlines()[0])}; --help shows the flags', code='cli/flag') from None
    except RecursionError:  # absl looks for the flags that are nearest to it
        raise UserError('a flag has too many letters; --help shows the flags', code='cli/flag') from None
    if odd := next((flag for flag in values if values[flag].present and isinstance(values[flag].value, float)
                    and not math.isfinite(values[flag].value)), None):
        raise UserError(f'--{odd}: got {values[odd].value}, expected a finite number; fix: leave it out', code='cli/flag')
    verb = _verb(words)
    if values.help:
        try:
            print(_help(module, name, values, verb, bool(words)), flush=True)
        except BrokenPipeError:  # `--help | head`: the reader has left; the flush at exit must not raise again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None, verb, [], {}
    own = {flag.name for flag in (*verb.flags, *SHARED)}
    if foreign := sorted(flag for flag in values if values[flag].present and flag not in own and flag not in ('help', 'h')):
        owners = [v.name for v in VERBS.values() if foreign[0] in {flag.name for flag in v.flags}]
        raise UserError(f"--{foreign[0]}: a flag of {' and '.join(owners)}, not of {verb.name}; fix: leave it out, "
                        'or write the verb', code='cli/foreign-flag')
    if values.population is not None:
        overrides['population'] = str(values.population)
    return values, verb, words[1:], overrides


def _renamed(arg: str) -> str:
    flag, equals, value = arg.partition('=')
    new = RENAMED.get(flag.lstrip('-')) if flag.startswith('-') else None
    return f'--{new}{equals}{value}' if new else arg


def _verb(words: Sequence[str]) -> Verb:
    """The verb that the words begin with, `train` without words."""
    name = words[0] if words else 'train'
    if name not in VERBS:
        raise UserError(f"'{printable(name)}': no such verb{hint(name, list(VERBS))}; the verbs are "
                        f"{', '.join(VERBS)}", code='cli/verb')
    if len(words) > 1 and not VERBS[name].inputs:
        raise UserError(f"'{printable(words[1])}': one verb at a time; flags start with --", code='cli/words')
    return VERBS[name]


def _help(module, name: str, values, verb: Verb, named: bool) -> str:
    """The help of a verb, or without one of the experiment."""
    rows = variants(module, values.variant)
    flag_line = lambda flag: f'  --{flag.name:14} {flag.help}'
    words = ' '.join(filter(None, (verb.name if named else '[VERB]', '--workdir=DIR', verb.inputs)))
    usage = f'usage: python -m {name} {words} [flags]'
    shown = [f"{(module.__doc__ or '').strip()}\n\n{usage}"]
    if named:
        shown.append(f'\n{verb.name}: {verb.help}')
    else:
        shown += ['\nverbs (VERB --help shows its flags):', *(f'  {v.name:9} {v.help}' for v in VERBS.values())]
    shown += ['\nflags:', *map(flag_line, sorted((*SHARED, *verb.flags), key=lambda flag: flag.name))]
    own = getattr(module, 'HELP', {})
    for row in rows[:1]:
        title = f' of --variant={row}' if row else ''
        shown.append(f'\nconfig{title} (--config.key=value):\n{explained(script_config(module, name, row), own)}')
    if len(rows) > 1:
        shown.append(f"\nrows of its table: {' '.join(rows)}")
    return '\n'.join(shown)


def explained(config: Mapping, own: Mapping[str, str]) -> str:
    """One `key = value   meaning (choices)` per line: the script's keys, the shared ones, and the optional ones.

    Args:
      own: {key: meaning} of the script's own keys.
    """
    known = {key: (entry.help, entry.choices) for key, entry in {**OPTIONAL, **KEYS}.items()}
    known |= {key: (text, ()) for key, text in {**EXPLAINED, **models.meanings(config), **own}.items()}
    found = {key: value for key, value in nested.leaves(config).items() if not key.startswith(configs.PUBLISHED)}
    rows = [(f'{key} = {value!r}', *known.get(key, ('', ()))) for key, value in found.items()]
    rows += [(key, entry.help, entry.choices) for key, entry in OPTIONAL.items()
             if key not in found and (configs.section_of(config, key))]
    width = min(44, max((len(row[0]) for row in rows), default=0))
    shown = [(left, text + (f" ({', '.join(map(repr, choices))})" if choices else '')) for left, text, choices in rows]
    return '\n'.join(f'  {left:{width}}  {text}'.rstrip() for left, text in shown)
