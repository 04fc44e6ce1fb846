"""The values of --on=slurm:…, and the check that SLURM accepts them."""
import dataclasses
import re
import shlex

from bigjax.errors import UserError
from bigjax.io.text import printable
from launch.engines.slurm import slurm_state
from launch.target import text

WORD = re.compile(r'[^\s\'"\\;#]*')


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of --on=slurm:…"""

    nodes: int = text('machines', 1)
    gpus: str = text('GPUs per node: 8, or a100:8', '')
    tasks: str = text("'node': one process per node, which drives all of its GPUs; 'gpu': one process per GPU", 'node')
    partition: str = text("SLURM's partition; by default the cluster's", '')
    account: str = text('the account to charge', '')
    qos: str = text('quality of service', '')
    constraint: str = text("features of the nodes: 'a100|h100'", '')
    time: str = text('time limit: 24:00:00, 2-00 (days-hours), or minutes', '')
    cpus: int = text("CPUs per process; by default the cluster's, often 1", 0)
    memory: str = text('memory per node: 64G', '')
    notice: int = text('seconds before the time limit at which the processes get SIGTERM, save, and are requeued', 120)
    setup: str = text("a line of shell before the start, on the first node: setup='module load cuda'", '')
    path: str = text('prepended to PATH', '')
    extra: str = text("more options of sbatch: extra='--exclusive --nodelist=a,b'", '')
    folder: str = text("the job's own folder, shared by all nodes (default: $BIGJAX_JOBS/NAME, or in the home folder)", '')

    @property
    def gpus_per_node(self) -> int:
        """Their number; 0 if none are requested."""
        return int(self.gpus.rpartition(':')[2]) if re.fullmatch(r'([\w.-]+:)?\d+', self.gpus) else 0

    @property
    def tasks_per_node(self) -> int:
        """Processes on each node."""
        return self.gpus_per_node if self.tasks == 'gpu' else 1


def check(target: Target, on: str, array: int) -> None:
    """Raises UserError for a value of --on that SLURM would not accept."""
    words = {'partition': target.partition, 'account': target.account, 'qos': target.qos, 'constraint': target.constraint}
    wrong = [(target.nodes < 1, f'got nodes={target.nodes}, expected 1 or more'),
             (target.gpus and not re.fullmatch(r'([\w.-]+:)?\d+', target.gpus),
              f'got gpus={target.gpus}, expected a number per node or TYPE:NUMBER; fix: write for example gpus=8'),
             (target.tasks not in ('node', 'gpu'), f"got tasks={target.tasks}, expected 'node' or 'gpu'"),
             (target.tasks == 'gpu' and target.gpus_per_node < 1, 'tasks=gpu needs the GPUs per node; fix: add gpus=…'),
             (not re.fullmatch(r'(\d+[KMGT]?)?', target.memory),
              f'got memory={target.memory}; fix: write for example memory=64G'),
             (target.cpus < 0, f'got cpus={target.cpus}, expected 0 or more'),
             (target.notice < 0, f'got notice={target.notice}, expected 0 or more'),
             ('\n' in target.path, 'path has a line break')]
    wrong += [(not WORD.fullmatch(value), f'{key}={value!r} has a character that SLURM does not accept')
              for key, value in words.items()]
    try:
        limit = slurm_state.seconds(target.time) if target.time else None
    except ValueError:
        limit = None
        wrong += [(True, f'time={target.time} is not a time of SLURM; fix: write for example time=24:00:00, time=2-00, or '
                   'minutes')]
    wrong += [(limit is not None and target.notice >= limit,
               f'notice={target.notice} s is not below time={target.time}; fix: write a shorter notice')]
    try:
        extra = shlex.split(target.extra)
    except ValueError as error:
        extra = []
        wrong += [(True, f'extra={target.extra}: {error}')]
    wrong += [(not word.startswith('-') or not word.isprintable(),
               f"extra: '{word}' is not an option of sbatch; fix: write each as --name=value") for word in extra]
    if array:
        wrong += [(target.nodes > 1 or target.tasks == 'gpu', 'each share of a sweep has one node and one process; fix: '
                   'leave out nodes and tasks')]
    if found := next((message for bad, message in wrong if bad), ''):
        raise UserError(f'--on={printable(on)}: {found}', code='launch/bad-value')
