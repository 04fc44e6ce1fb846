"""One command as data: the `Verb` that was chosen, its `Flag`s, and the `Job` that it works on."""
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigjax import config as configs
from bigjax import models
from bigjax.distributed.bootstrap import Start
from bigjax.errors import UserError
from bigjax.experiment import OPTIONAL, base_config
from bigjax.io import nested, storage
from bigjax.io.text import printable
from bigjax.runs.reader import read_run
from bigjax.train.build import Build, build, check_takes

PROCESS = ('--coordinator', '--processes', '--process', '--start_timeout', '--heartbeat', '--grace', '--phase_timeouts',
           '--budgets')
"""Flags of one process, which may differ between the processes of a run and are no part of the command that repeats it."""

@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag that one verb or several have: its type is that of its default, 'float' or 'int' where the default is None."""

    name: str
    default: Any
    help: str
    kind: str = 'text'  # text, texts (given once or more), switch, float, int
    lower: float | None = None


CHECK = Flag('check', False, 'exit 4 where a result misses what the paper reports', 'switch')
INIT_FROM = Flag('init_from', '', 'weights to start from, or, without --workdir, to judge and to apply: the workdir or '
                 'checkpoint of a run, or hf:, timm:, torch:, npz: or keras: of another library')


@dataclasses.dataclass(frozen=True)
class Verb:
    """One thing that an experiment can do; `bigjax/NAME/verb.py` holds it as `VERB`.

    Attributes:
      run: `run(job, *, flag=value, …) -> exit code`, called with the verb's own flags.
      flags: the flags that it has beside those of every verb.
      needs_devices: it computes, so a CPU beside an accelerator is refused.
      needs_workdir: it reads a run: the config.json of --workdir is its config.
      takes_pretrained: without --workdir it takes the weights that --init_from names, or those that an experiment begins with,
        of a script with PRETRAINED.
      joins_processes: it is one program on all processes of the job.
      watched: it has phases, with timeouts, and all processes leave it together.
      inputs: the name of the words after the verb, '' where it takes none.
      start_timeout: seconds to wait for the other processes, None for the flag's default.
    """

    name: str
    run: Callable[..., int]
    help: str
    flags: tuple[Flag, ...] = ()
    needs_devices: bool = True
    needs_workdir: bool = False
    takes_pretrained: bool = False
    joins_processes: bool = True
    watched: bool = False
    inputs: str = ''
    start_timeout: float | None = None


@dataclasses.dataclass
class Job:
    """One command: what a verb works on.

    Attributes:
      module, name: the script, and its short name.
      overrides: {config key: text} of the command line.
      argv: the command's arguments, without the program.
      variant: the row that was asked for, '' for the whole table.
      folder: what --workdir names, '' where it is not given.
      leads: whether this is process 0, which alone prints and writes reports.
      guard: `bigjax.watchdog.watchdog.Guard` of this process; None keeps no watch.
      joined: how this process takes part.
      platform: what --platform names.
      grace: seconds after a signal in which the state must be saved.
      stored: whether the runs of --workdir are read, so that their config.json is the config.
    """

    module: Any
    name: str
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    argv: Sequence[str] = ()
    variant: str = ''
    folder: str = ''
    leads: bool = True
    guard: Any = None
    joined: Start = dataclasses.field(default_factory=Start)
    platform: str = ''
    grace: float = 30.0
    stored: bool = False
    _runs: dict | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """The variants to work on: the one that was asked for, or the whole table; of stored runs, those that are there."""
        return tuple(self.runs) if self.stored else variants(self.module, self.variant, self.overrides.get('data', ''))

    @property
    def root(self):
        """The folder that --workdir names."""
        if not str(self.folder).strip():
            raise UserError('--workdir is missing; name a folder for the run, for example --workdir=/tmp/run',
                            code='cli/no-workdir')
        return storage.place(self.folder)

    @property
    def runs(self) -> dict:
        """{variant: (workdir, run.json, config.json)} of the runs in --workdir that --variant does not leave out.

        Raises:
          UserError: there is none, or it is another experiment's.
        """
        if self._runs is None:
            self._runs = self._find_runs()
        return self._runs

    def _find_runs(self) -> dict:
        there = storage.exists(self.root / 'run.json')
        names = [''] if there else [n for n in storage.children(self.root) if storage.exists(self.root / n / 'run.json')]
        found = {}
        for name in names:
            workdir = self.root / name if name else self.root
            run = read_run(workdir)
            found[run.get('variant') or ''] = (workdir, run)
            if run['experiment'].rsplit('.', 1)[-1] != self.name:
                raise UserError(f"--workdir={workdir}: got a run of {printable(run['experiment'])}, expected one of "
                                f'{self.name}', code='cli/other-experiment')
        if self.variant and found:
            if self.variant not in found:
                raise UserError(f"--variant={printable(self.variant)}: --workdir={self.root} holds "
                                f"{', '.join(map(repr, found))}", code='cli/other-variant')
            found = {self.variant: found[self.variant]}
        if not found:
            raise UserError(f'{self.root}: no checkpoint there, nor run.json; name the --workdir of a run',
                            code='checkpoint/none')
        return found

    def workdir(self, row: str):
        """The folder of one row: a sub-folder where there are several."""
        if self.stored:
            return self.runs[row][0]
        return self.root / row.replace(',', '_').replace('/', '_') if len(self.rows) > 1 else self.root

    @property
    def program(self) -> list[str]:
        """The script as Python's arguments."""
        spec = getattr(self.module, '__spec__', None)
        if spec is None and getattr(self.module, '__file__', None):
            return [self.module.__file__]
        return ['-m', spec.name if spec else f'experiments.{self.name}']

    def command(self, row: str) -> str:
        """The command that repeats one row."""
        rest = [a for a in without(self.argv, '--workdir', '--variant', '--jobs', *PROCESS) if a != 'train']
        return ' '.join(['python', *map(shlex.quote, self.program), *([f'--variant={row}'] if row else []),
                         f'--workdir={self.workdir(row)}', *map(shlex.quote, rest)])

    def paper(self, row: str):
        """The script's own config of one row."""
        return script_config(self.module, self.name, row)

    def config(self, row: str, stored: Mapping | None = None):
        """The resolved config of one row: the script's, under that of a stored run, under the command line's."""
        config = configs.complete(self.paper(row), base_config())
        if stored is None and self.stored:
            stored = self.runs[row][1]['config']
        if stored is not None:
            config = configs.restore(config, stored)
        optional = {key: entry.default for key, entry in OPTIONAL.items()} | models.optional(config)
        return configs.override(config, self.overrides, optional)

    def build(self, row: str, config: Mapping | None = None) -> Build:
        """The experiment of one row, assembled.

        Raises:
          UserError: what `build` refuses, and a schedule that was written for a longer run.
        """
        from bigjax.train.cautions import check_schedule  # this file imports no layer of training
        built = build(self.module, self.config(row) if config is None else config, self.paper(row))
        check_schedule(built.experiment, built.settings, built.differs)
        return built


def script_config(module, name: str, row: str):
    """The config that a script has for one row.

    Raises:
      UserError: it has no `get_config(variant)`, or that sets a key to a value of another type or returns no config.
    """
    get_config = getattr(module, 'get_config', None)
    check_takes(name, 'get_config', get_config, 'variant')
    try:
        config = get_config(row)
    except (TypeError, AttributeError) as error:
        if isinstance(error, TypeError) and 'override field' not in str(error):
            raise
        raise UserError(f'get_config({row!r}) of {name}: {error}', code='config/script') from None
    if not nested.is_section(config):
        raise UserError(f'{name}: got {type(config).__name__} of get_config({row!r}), expected a ConfigDict; fix: return one',
                        code='config/script')
    return config


def variants(module, variant: str, data: str = '') -> tuple[str, ...]:
    """The rows that a command works on: the one that it names, or the whole table of the experiment.

    A script whose rows are data sets gives the rows for data of the user's own as `OWN_ROWS`: its table would train that data
    once for each of the sets.

    Args:
      data: `config.data` of the command line.
    """
    own = getattr(module, 'OWN_ROWS', ()) if ':' in data and data.partition(':')[0] != 'fake' else ()
    return (variant,) if variant else tuple(own) or tuple(getattr(module, 'TABLE', ())) or ('',)


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


def say_overrides(job: Job, say: Callable[[str], None] = print) -> None:
    """Prints the keys in which the command line differs from the stored config of a run."""
    for row, (workdir, run) in job.runs.items():
        for key, (ours, stored) in nested.difference(job.config(row), configs.restore(job.paper(row), run['config'])).items():
            if key in job.overrides:
                say(f'{workdir}: config.{key} = {ours!r}, and the run has {stored!r}')


