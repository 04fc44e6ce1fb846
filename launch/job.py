"""A job: one command on one engine, under a name that other commands and other machines know it by."""
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError

NAME = re.compile(r'[a-z]([a-z0-9-]{0,37}[a-z0-9])?')  # what clouds, SLURM and Kubernetes all accept, with room for suffixes


@dataclasses.dataclass(frozen=True)
class Job:
    """What was asked for; all of it is data, none of it secret.

    Attributes:
      name: lower-case letters, digits and hyphens.
      on: as --on writes it, 'ssh:node1,node2'.
      command: the arguments of the program.
      env: names of variables whose values the processes get from here; the values are in no record.
      array: 0 for one group of processes that meet; N for N processes that do not, each told its BIGJAX_SHARE=i/N.
      restarts, preemptions: how often it is started again after a failure, after a preemption.
      grace: seconds between SIGTERM and SIGKILL.
      logs: the folder that keeps the output of each process here; '' for the job's own (`folder`), none for `local`.
      created: local time, ISO 8601.
    """

    name: str
    on: str
    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    array: int = 0
    restarts: int = 0
    preemptions: int = 100
    grace: float = 30.0
    logs: str = ''
    created: str = ''

    @property
    def kind(self) -> str:
        """The engine's name."""
        return self.on.partition(':')[0]

    @property
    def target(self) -> str:
        """What --on says after the engine's name."""
        return self.on.partition(':')[2]

    @property
    def folder(self) -> pathlib.Path:
        """Where this machine keeps what it knows of the job."""
        return home() / self.name

    @property
    def experiment(self) -> str:
        """The name of the experiment that the command runs, '' where it runs none."""
        found = [re.fullmatch(r'(?:.*/)?experiments[./](\w+?)(?:\.py)?', arg) for arg in self.command]
        return next((match[1] for match in found if match), '')

    @property
    def workdir(self) -> str:
        """What --workdir of the command names, '' where it names none."""
        for arg, following in zip(self.command, [*self.command[1:], ''], strict=True):
            flag, equals, value = arg.partition('=')
            if flag in ('--workdir', '-workdir'):
                return value if equals else following
        return ''

    def values(self) -> dict[str, str]:
        """The variables of `env` with their values.

        Raises:
          UserError: one is not set here.
        """
        if missing := [name for name in self.env if name not in os.environ]:
            raise UserError(f"--env={','.join(self.env)}: {missing[0]} is not set here; export it, or leave it out",
                            code='launch/env-not-set')
        return {name: os.environ[name] for name in self.env}

    def text(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + '\n'


def home() -> pathlib.Path:
    """The folder of all jobs: BIGJAX_JOBS, else below the user's state folder."""
    state = os.environ.get('XDG_STATE_HOME') or pathlib.Path.home() / '.local' / 'state'
    return pathlib.Path(os.environ.get('BIGJAX_JOBS') or pathlib.Path(state) / 'bigjax' / 'jobs').expanduser()


def new_name(command: Sequence[str]) -> str:
    """A name for a job that was given none: the experiment's, and four random digits."""
    stem = Job('', '', tuple(command)).experiment or pathlib.Path(command[0]).stem
    stem = re.sub(r'[^a-z0-9]+', '-', stem.lower()).strip('-')[:30]
    return f"{stem if stem[:1].isalpha() else 'job'}-{secrets.token_hex(2)}"


def checked(name: str) -> str:
    """The name.

    Raises:
      UserError: not every engine would take it.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name={name}: a name has lower-case letters, digits and hyphens, begins with a letter, ends with "
                        'none, and has at most 39; choose another', code='launch/bad-name')
    return name


def save(job: Job, *, new: bool) -> None:
    """Writes job.json, whole or not at all.

    Raises:
      UserError: `new` and there is a job of this name, or the folder cannot be written.
    """
    path = job.folder / 'job.json'
    try:
        if new and path.exists():
            raise UserError(f"--name={job.name}: in use on this machine ({load(job.name).on}); attach to it, remove it with "
                            f"'python -m launch down {job.name}', or choose another name", code='launch/name-in-use')
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f'{path.name}.{os.getpid()}')
        draft.write_text(job.text())
        draft.replace(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}); set BIGJAX_JOBS to a folder that can',
                        code='launch/not-writable') from None


def load(name: str) -> Job:
    """The job of that name.

    Raises:
      UserError: this machine does not know it, or its record is damaged.
    """
    path = home() / checked(name) / 'job.json'
    try:
        return parse(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"no job '{name}' is known on this machine ({home()}); 'python -m launch status' lists them; one that "
                        'another machine started is found with --on=ENGINE…', code='launch/no-job') from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path}: cannot be read ({error}); delete that folder', code='launch/damaged-record') from None


def parse(record: Mapping[str, Any]) -> Job:
    """The job of a record, as `Job.text` writes it."""
    fields = {field.name for field in dataclasses.fields(Job)}
    if not isinstance(record, Mapping):
        raise TypeError('not a job')
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in fields}
    checked(kept['name'])
    return Job(**kept)


def known() -> list[Job]:
    """All jobs of this machine, the newest first; damaged records are left out."""
    found = []
    for path in home().glob('*/job.json'):
        try:
            found.append(load(path.parent.name))
        except UserError:
            continue
    return sorted(found, key=lambda job: job.created, reverse=True)


def now() -> str:
    """Local time, ISO 8601, in seconds."""
    return datetime.datetime.now().astimezone().isoformat(timespec='seconds')


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for the parts."""
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]


def line(argv: Sequence[str]) -> str:
    """As a shell would take it."""
    return shlex.join(argv)
