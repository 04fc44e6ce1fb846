"""A job: one command on one engine, under a name by which other commands and other machines find it."""
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

NAME = re.compile(r'[a-z]([a-z0-9-]{0,37}[a-z0-9])?')  # accepted by clouds, SLURM and Kubernetes, with room for suffixes


@dataclasses.dataclass(frozen=True)
class Job:
    """The request of a job; plain data without secrets.

    Attributes:
      name: lower-case letters, digits and hyphens.
      on: the value of --on, 'ssh:node1,node2'.
      command: the program and its arguments.
      env: names of variables whose values the processes inherit from this machine; the values are in no record.
      array: 0 for one group of processes that meet; N for N independent processes, each with BIGJAX_SHARE=i/N.
      restarts, preemptions: restarts allowed after a failure, after a preemption.
      grace: seconds between SIGTERM and SIGKILL.
      logs: the local folder that keeps the output of each process; '' for the job's own (`folder`), none for `local`.
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
        """The part of --on after the engine's name."""
        return self.on.partition(':')[2]

    @property
    def folder(self) -> pathlib.Path:
        """This machine's folder of the job: its record, plan and logs."""
        return home() / self.name

    @property
    def log_folder(self) -> pathlib.Path:
        """The local folder for the output of each process."""
        return pathlib.Path(self.logs).expanduser() if self.logs else self.folder / 'logs'

    @property
    def experiment(self) -> str:
        """The name of the experiment that the command runs, '' for another program."""
        found = [re.fullmatch(r'(?:.*/)?experiments[./](\w+?)(?:\.py)?', arg) for arg in self.command]
        return next((match[1] for match in found if match), '')

    @property
    def workdir(self) -> str:
        """The value of the command's --workdir, '' if it has none."""
        return flags_of(self.command).get('workdir', '')

    def values(self) -> dict[str, str]:
        """The values of the variables in `env`, by name.

        Raises:
          UserError: one is not set here.
        """
        if missing := [name for name in self.env if name not in os.environ]:
            raise UserError(f"--env={','.join(self.env)}: {missing[0]} is not set here; fix: export it, or leave it out",
                            code='launch/env-not-set')
        return {name: os.environ[name] for name in self.env}

    def text(self) -> str:
        """The job as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + '\n'


def flags_of(command: Sequence[str]) -> dict[str, str]:
    """{name: value} of the flags of a command, in each form that absl reads: --name=value, -name=value, --name value.

    A switch (--check) has the word that follows it, or ''.
    """
    found = {}
    for arg, following in zip(command, [*command[1:], ''], strict=True):
        if match := re.fullmatch(r'--?([a-z][\w.]*)(?:(=)(.*))?', arg, re.DOTALL):
            found[match[1]] = match[3] if match[2] else '' if re.match('--?[a-z]', following) else following
    return found


def without(command: Sequence[str], flag: str) -> list[str]:
    """The command without a flag that has a value, in all of these forms."""
    names = f'--{flag}', f'-{flag}'
    return [arg for before, arg in zip(['', *command], command, strict=False)
            if arg.partition('=')[0] not in names and before not in names]


def home() -> pathlib.Path:
    """The folder of all jobs: BIGJAX_JOBS, else below the user's state folder."""
    state = os.environ.get('XDG_STATE_HOME') or pathlib.Path.home() / '.local' / 'state'
    return pathlib.Path(os.environ.get('BIGJAX_JOBS') or pathlib.Path(state) / 'bigjax' / 'jobs').expanduser()


def new_name(command: Sequence[str]) -> str:
    """A name for a job without --name: the experiment's, and four random digits."""
    stem = Job('', '', tuple(command)).experiment or pathlib.Path(command[0]).stem
    stem = re.sub(r'[^a-z0-9]+', '-', stem.lower()).strip('-')[:30]
    return f"{stem if stem[:1].isalpha() else 'job'}-{secrets.token_hex(2)}"


def checked(name: str) -> str:
    """Returns the name.

    Raises:
      UserError: some engine does not accept it.
    """
    if not NAME.fullmatch(name):
        raise UserError(f'--name={name}: expected at most 39 lower-case letters, digits and hyphens, a letter first and no '
                        'hyphen last; fix: choose such a name', code='launch/bad-name')
    return name


def save(job: Job, *, new: bool) -> None:
    """Writes job.json atomically.

    Raises:
      UserError: `new` and the name is in use, or the folder cannot be written.
    """
    path = job.folder / 'job.json'
    try:
        if new and path.exists():
            raise UserError(f"--name={job.name}: in use on this machine ({load(job.name).on}); fix: attach to it, remove it "
                            f"with 'python -m launch down {job.name}', or choose another name", code='launch/name-in-use')
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f'{path.name}.{os.getpid()}')
        draft.write_text(job.text())
        draft.replace(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}); fix: set BIGJAX_JOBS to a writable folder',
                        code='launch/not-writable') from None


def load(name: str) -> Job:
    """The job of that name.

    Raises:
      UserError: this machine has no record of it, or the record is damaged.
    """
    path = home() / checked(name) / 'job.json'
    try:
        return parse(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"no job '{name}' on this machine ({home()}); fix: see 'python -m launch status'; for a job that "
                        'another machine started add --on=ENGINE…', code='launch/no-job') from None
    except (OSError, ValueError, TypeError, KeyError, UserError) as error:
        raise UserError(f'{path}: cannot be read ({error}); fix: delete that folder', code='launch/damaged-record') from None


def parse(record: Mapping[str, Any]) -> Job:
    """The job of a record that `Job.text` wrote."""
    fields = {field.name for field in dataclasses.fields(Job)}
    if not isinstance(record, Mapping):
        raise TypeError('not a job')
    kept = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in fields}
    checked(kept['name'])
    return Job(**kept)


def known() -> list[Job]:
    """All jobs of this machine, newest first, without damaged records."""
    found = []
    for path in home().glob('*/job.json'):
        try:
            found.append(load(path.parent.name))
        except UserError:
            continue
    return sorted(found, key=lambda job: job.created, reverse=True)


def now() -> str:
    """The local time in ISO 8601, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec='seconds')


def digest(*parts: str) -> str:
    """A hash of the parts, twelve hexadecimal digits."""
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:12]


def line(argv: Sequence[str]) -> str:
    """The command as shell text."""
    return shlex.join(argv)
