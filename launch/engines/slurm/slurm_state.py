"""What SLURM says of a job: squeue while it is there, then scontrol, then sacct where accounting is kept."""
import dataclasses
import re

from bigjax.errors import UserError
from launch.steps import Failed, Run, execute

SECONDS = 30.0  # for an answer
WAITS = ('PENDING', 'CONFIGURING', 'REQUEUED', 'REQUEUE_HOLD', 'REQUEUE_FED', 'SPECIAL_EXIT', 'RESV_DEL_HOLD')
FIELDS = '%i|%T|%r|%N|%M|%L'


@dataclasses.dataclass(frozen=True)
class State:
    """A job, or a task of an array, as squeue has it.

    Attributes:
      name: 'RUNNING'.
      reason: why it waits.
      nodes: as SLURM writes them, 'gpu[1-2]'.
      elapsed, left: of its time, '1:02:03'.
    """

    name: str
    reason: str = ''
    nodes: str = ''
    elapsed: str = ''
    left: str = ''

    def __str__(self) -> str:
        """'PENDING (Resources)', 'RUNNING on gpu[1-2]'."""
        return self.name + (f' on {self.nodes}' if self.nodes else f' ({self.reason})' if self.reason != 'None' else '')


@dataclasses.dataclass(frozen=True)
class Over:
    """A job that squeue has no more: its last state, exit code, the signal that ended it, how often SLURM started it again
    (None where nothing tells)."""

    name: str
    code: int
    signal: int
    restarts: int | None


def queued(number: str) -> dict[int, State] | None:
    """{task of the array, or 0: its state} of what is not over; None where SLURM does not answer."""
    try:
        text = execute(Run(('squeue', '--noheader', '--array', f'--jobs={number}', f'--format={FIELDS}')), seconds=SECONDS)
    except Failed as error:
        return {} if 'Invalid job id' in error.stderr else None
    found = {}
    for row in text.splitlines():
        key, *rest = row.strip().split('|')
        task = key.partition('_')[2]
        found[int(task) if task.isdigit() else 0] = State(*rest)
    return found


def over(number: str) -> dict[int, Over]:
    """{task, or 0: how it ended}; what nothing tells of is left out."""
    found = {}
    try:
        text = execute(Run(('scontrol', '--oneliner', 'show', 'job', number)), seconds=SECONDS)
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
    """The same, from the accounts; {} where none are kept."""
    try:
        text = execute(Run(('sacct', '--noheader', '--allocations', '--parsable2', f'--jobs={number}',
                            '--format=JobID,State,ExitCode')), seconds=SECONDS)
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
    """The jobs of that name, of this user, that are not over; the newest last.

    Raises:
      UserError: there is no squeue here.
      Failed: SLURM does not answer.
    """
    text = execute(Run(('squeue', '--noheader', '--me', f'--name={name}', '--format=%A')), seconds=SECONDS)
    return sorted(set(text.split()), key=int)


def folder(number: str) -> str:
    """Where a job of ours keeps its record, '' where it is none of ours."""
    text = execute(Run(('scontrol', '--oneliner', 'show', 'job', number)), seconds=SECONDS)
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
        """Whether a job may get it, now or later."""
        return not re.match(r'down|drain|drng|fail|maint|unk|.*\*', self.state)


def nodes(partition: str) -> list[Node]:
    """Of a partition."""
    text = execute(Run(('sinfo', '--noheader', '--Node', f'--partition={partition}', '--format=%N|%t|%c|%m|%G')),
                   seconds=SECONDS)
    found = []
    for row in text.splitlines():
        name, state, cpus, memory, gres = row.strip().split('|')
        gpus = sum(int(count) for count in re.findall(r'\bgpu(?::[\w.-]+)?:(\d+)', gres))
        found.append(Node(name, state, int(cpus.rstrip('+')), int(memory.rstrip('+')), gpus))
    return found


@dataclasses.dataclass(frozen=True)
class Partition:
    """Its name, whether it is the default, whether it is up, and its time limit in seconds (None: none)."""

    name: str
    default: bool
    up: bool
    limit: int | None


def partitions() -> list[Partition]:
    """Of the cluster."""
    text = execute(Run(('sinfo', '--noheader', '--format=%P|%a|%l')), seconds=SECONDS)
    found = {}
    for row in text.splitlines():
        name, up, limit = row.strip().split('|')
        found[name.rstrip('*')] = Partition(name.rstrip('*'), name.endswith('*'), up == 'up', seconds(limit))
    return list(found.values())


def seconds(text: str) -> int | None:
    """Of a time as SLURM writes it: MIN, MIN:SEC, H:M:S, D-H, D-H:M, D-H:M:S; None for 'infinite'.

    Raises:
      ValueError: it is none.
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
