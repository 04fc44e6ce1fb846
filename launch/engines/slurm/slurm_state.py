"""The state of a job in SLURM: from squeue while it lasts, then from scontrol, then from sacct if accounts are kept."""
import dataclasses
import re

from bigjax.errors import UserError
from launch.steps import Failed, Run, execute

TIMEOUT_S = 30.0  # of one command
WAITS = ('PENDING', 'CONFIGURING', 'REQUEUED', 'REQUEUE_HOLD', 'REQUEUE_FED', 'SPECIAL_EXIT', 'RESV_DEL_HOLD')
FIELDS = '%i|%T|%r|%N|%M|%L'


@dataclasses.dataclass(frozen=True)
class State:
    """A job, or a task of an array, as squeue reports it.

    Attributes:
      name: the state, 'RUNNING'.
      reason: why it is pending.
      nodes: SLURM's list of nodes, 'gpu[1-2]'.
      elapsed, left: elapsed and remaining time, '1:02:03'.
    """

    name: str
    reason: str = ''
    nodes: str = ''
    elapsed: str = ''
    left: str = ''

    def __str__(self) -> str:
        """The state in words: 'PENDING (Resources)', 'RUNNING on gpu[1-2]'."""
        return self.name + (f' on {self.nodes}' if self.nodes else f' ({self.reason})' if self.reason != 'None' else '')


@dataclasses.dataclass(frozen=True)
class Over:
    """A job that is over: its last state, exit code, the signal that ended it, and SLURM's restarts (None if unknown)."""

    name: str
    code: int
    signal: int
    restarts: int | None


def queued(number: str) -> dict[int, State] | None:
    """{task of the array, or 0: its state} of the tasks that are not over; None if SLURM does not answer."""
    try:
        text = execute(Run(('squeue', '--noheader', '--array', f'--jobs={number}', f'--format={FIELDS}')), seconds=TIMEOUT_S)
    except Failed as error:
        return {} if 'Invalid job id' in error.stderr else None
    found = {}
    for row in text.splitlines():
        key, *rest = row.strip().split('|')
        task = key.partition('_')[2]
        found[int(task) if task.isdigit() else 0] = State(*rest)
    return found


def over(number: str) -> dict[int, Over]:
    """{task, or 0: its end}, without tasks of which SLURM has no record."""
    found = {}
    try:
        text = execute(Run(('scontrol', '--oneliner', 'show', 'job', number)), seconds=TIMEOUT_S)
    except (Failed, UserError):
        text = ''
    for row in text.splitlines():
        fields = dict(re.findall(r'(\w+)=(\S*)', row))
        task = fields.get('ArrayTaskId', '0')
        if 'JobState' in fields and task.isdigit():
            code, _, signal = fields.get('ExitCode', '0:0').partition(':')
            found[int(task)] = Over(fields['JobState'], int(code), int(signal or 0), int(fields.get('Restarts', 0)))
    return found or _accounted(number)


def _accounted(number: str) -> dict[int, Over]:
    """The same from the accounts; {} if none are kept."""
    try:
        text = execute(Run(('sacct', '--noheader', '--allocations', '--parsable2', f'--jobs={number}',
                            '--format=JobID,State,ExitCode')), seconds=TIMEOUT_S)
    except (Failed, UserError):
        return {}
    found = {}
    for row in text.splitlines():
        key, state, code = row.split('|')[:3]
        task = key.partition('_')[2] or '0'
        if task.isdigit():
            exit_code, _, signal = code.partition(':')
            found[int(task)] = Over(state.split()[0], int(exit_code), int(signal or 0), None)
    return found


def numbers(name: str) -> list[str]:
    """This user's pending and running jobs of that name, newest last.

    Raises:
      UserError: squeue is not installed.
      Failed: SLURM does not answer.
    """
    text = execute(Run(('squeue', '--noheader', '--me', f'--name={name}', '--format=%A')), seconds=TIMEOUT_S)
    return sorted(set(text.split()), key=int)


def folder(number: str) -> str:
    """The folder of a job's record, '' if no launcher submitted it."""
    text = execute(Run(('scontrol', '--oneliner', 'show', 'job', number)), seconds=TIMEOUT_S)
    found = re.search(r' Comment=bigjax:(.*?)(?= \w+=| *$)', text, re.MULTILINE)
    return found[1].strip() if found else ''


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a partition: its name, state ('idle', 'down*'), CPUs, memory in MiB, GPUs."""

    name: str
    state: str
    cpus: int
    memory: int
    gpus: int

    @property
    def up(self) -> bool:
        """Whether a job may be placed on it, now or later."""
        return not re.match(r'down|drain|drng|fail|maint|unk|.*\*', self.state)


def nodes(partition: str) -> list[Node]:
    """The nodes of a partition."""
    text = execute(Run(('sinfo', '--noheader', '--Node', f'--partition={partition}', '--format=%N|%t|%c|%m|%G')),
                   seconds=TIMEOUT_S)
    found = []
    for row in text.splitlines():
        name, state, cpus, memory, gres = row.strip().split('|')
        gpus = sum(int(count) for count in re.findall(r'\bgpu(?::[\w.-]+)?:(\d+)', gres))
        found.append(Node(name, state, int(cpus.rstrip('+')), int(memory.rstrip('+')), gpus))
    return found


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition: its name, whether it is the default, whether it is up, its time limit in seconds (None: unlimited)."""

    name: str
    default: bool
    up: bool
    limit: int | None


def partitions() -> list[Partition]:
    """The partitions of the cluster."""
    text = execute(Run(('sinfo', '--noheader', '--format=%P|%a|%l')), seconds=TIMEOUT_S)
    found = {}
    for row in text.splitlines():
        name, up, limit = row.strip().split('|')
        found[name.rstrip('*')] = Partition(name.rstrip('*'), name.endswith('*'), up == 'up', seconds(limit))
    return list(found.values())


def seconds(text: str) -> int | None:
    """The seconds of a time in SLURM's form: MIN, MIN:SEC, H:M:S, D-H, D-H:M, D-H:M:S; None for 'infinite'.

    Raises:
      ValueError: the text has another form.
    """
    if text.lower() in ('infinite', 'unlimited', 'n/a'):
        return None
    if not re.fullmatch(r'(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})', text):
        raise ValueError(text)
    days, dash, rest = text.rpartition('-')
    parts = [int(part) for part in rest.split(':')]
    if dash or len(parts) == 3:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    else:
        hours, minutes, secs = 0, *(*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
