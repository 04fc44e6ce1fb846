"""Several processes: how many there are, which rank this one has, and the coordinator, from flags and environment.

    python -m experiments.NAME --workdir=DIR                                            a laptop, or one host with 8 GPUs
    srun python -m experiments.NAME …       mpirun python -m experiments.NAME …         SLURM, Open MPI
    python -m experiments.NAME … --coordinator=HOST:PORT --processes=4 --process=0      by hand, once for each process

First match wins, part by part:
  1. the flags; the variables BIGJAX_COORDINATOR, BIGJAX_PROCESSES, BIGJAX_PROCESS; for the coordinator also
     JAX_COORDINATOR_ADDRESS;
  2. Open MPI, SLURM, GKE with TPUs, a TPU VM, a Kubernetes Job or JobSet, in JAX's own order;
  3. one process with all devices of the machine.
"""
import dataclasses
import importlib.util
import os
import re
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping

from bigjax.distributed.accelerators import accelerators
from bigjax.distributed.peers import PeerLinks
from bigjax.distributed.rendezvous import process_name, rendezvous
from bigjax.errors import UserError

ALONE = 'one process'
WITHOUT_SRUN = 'start it with srun'
FIRST_PORT, PORTS = 61440, 4096  # where JAX, too, puts the coordinator of a job
TPU_PORT, KUBERNETES_PORT = 8482, 55527
BY_HAND = '--coordinator=HOST:PORT --processes=N --process=I'


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the command line; None and '' where one is not given."""

    coordinator: str = ''
    processes: int | None = None
    process: int | None = None


@dataclasses.dataclass(frozen=True)
class Start:
    """The part of this process in the job.

    Attributes:
      coordinator: 'host:port' of process 0; '' for one process.
      processes, process: how many, and which one of 0 … processes - 1 this is.
      local_devices: the GPUs of this process among those it sees; None for all.
      reason: the launcher that decided, for messages.
      hosts: the number of machines, None where it is not known.
      late_names: names of machines may appear only after this process has started.
      peers: the links to the other processes, after the rendezvous.
    """

    coordinator: str = ''
    processes: int = 1
    process: int = 0
    local_devices: tuple[int, ...] | None = None
    reason: str = ALONE
    hosts: int | None = 1
    late_names: bool = False
    peers: PeerLinks | None = None

    @property
    def name(self) -> str:
        """The name of this process in messages."""
        return process_name({'process': self.process, 'host': socket.gethostname(), 'pid': os.getpid()})


def decide(environ: Mapping[str, str], flags: Flags = Flags(), *, metadata: Callable[[str], str] | None = None,
           fqdn: Callable[[], str] = lambda: '') -> Start:
    """The only place that depends on the launchers; a pure function of its arguments.

    Args:
      environ: the environment's variables.
      flags: the flags of the command line.
      metadata: on a TPU VM, the value of an attribute of the machine ('' where it has none); None elsewhere.
      fqdn: this machine's full name, needed in Kubernetes only.

    Raises:
      UserError: the values are not enough, or contradict each other.
    """
    given = {'coordinator': flags.coordinator or environ.get('BIGJAX_COORDINATOR') or environ.get('JAX_COORDINATOR_ADDRESS'),
             'processes': _first(flags.processes, _number(environ, 'BIGJAX_PROCESSES')),
             'process': _first(flags.process, _number(environ, 'BIGJAX_PROCESS'))}
    given = {key: value for key, value in given.items() if value not in (None, '')}
    if given.get('processes') == 1:  # a run of its own, whatever its place among others is
        given.setdefault('process', 0)
    if {'processes', 'process'} <= set(given):
        found = Start(reason='flags', hosts=None)
    else:
        found = (_open_mpi(environ) or _slurm(environ) or _gke(environ) or _tpu_vm(environ, metadata)
                 or _kubernetes(environ, fqdn, given.get('processes')) or Start())
    if found.reason == ALONE and given:
        missing = [f'--{key}' for key in ('coordinator', 'processes', 'process') if key not in given]
        raise UserError(f"--{next(iter(given))} is given and {' and '.join(missing)} not; fix: start several processes by "
                        f'hand with {BY_HAND}', code='distributed/incomplete')
    return _complete(dataclasses.replace(found, **given), environ)


def _complete(start: Start, environ) -> Start:
    """The start, checked."""
    if start.processes < 1 or not 0 <= start.process < start.processes:
        raise UserError(f'--process={start.process}: with --processes={start.processes} there are 0 … {start.processes - 1} '
                        f'({start.reason})', code='distributed/rank')
    if start.processes == 1:
        return dataclasses.replace(start, coordinator='', hosts=1)
    if not start.coordinator:
        raise UserError(f'--coordinator is missing ({start.reason} does not name it); fix: add --coordinator=HOST:PORT with '
                        'the host of process 0 and a free port on it', code='distributed/incomplete')
    split(start.coordinator)
    if ids := environ.get('JAX_LOCAL_DEVICE_IDS'):
        start = dataclasses.replace(start, local_devices=tuple(map(int, ids.split(','))))
    return start


def split(coordinator: str) -> tuple[str, int]:
    """'host:port' -> (host, port); an IPv6 address is in brackets.

    Raises:
      UserError: it is not that.
    """
    host, colon, port = coordinator.rpartition(':')
    if not (colon and host.strip('[]') and port.isdigit() and 0 < int(port) < 65536) or (':' in host and host[0] != '['):
        raise UserError(f'--coordinator: got {coordinator}, expected HOST:PORT, such as node1:{FIRST_PORT}',
                        code='distributed/coordinator')
    return host.strip('[]'), int(port)


def _first(*values):
    return next((v for v in values if v is not None), None)


def _number(environ, name: str, default: int | None = None) -> int | None:
    """An integer variable."""
    text = environ.get(name)
    if text is None or text == '':
        return default
    try:
        return int(text)
    except ValueError:
        raise UserError(f'the variable {name}: got {text}, expected a number; fix: unset it, or give {BY_HAND}',
                        code='distributed/variable') from None


def _port(environ, job: int) -> int:
    """A port that is the same for all processes of a job and rarely that of another job."""
    return _number(environ, 'JAX_COORDINATOR_PORT', FIRST_PORT + job % PORTS)


def _gpus(environ, local: int, tasks: int, bound: bool) -> tuple[int, ...] | None:
    """The GPUs of task `local` of the `tasks` on this machine; None for all that it sees.

    Where the scheduler has bound GPUs to tasks, each sees only its own, numbered from 0; where it has not, each sees all.
    """
    visible = environ.get('CUDA_VISIBLE_DEVICES') or environ.get('ROCR_VISIBLE_DEVICES')
    count = len(visible.split(',')) if visible else tasks
    if tasks == 1 or bound or count < tasks:
        return None
    each = count // tasks
    return tuple(range(local * each, (local + 1) * each))


def _open_mpi(environ) -> Start | None:
    """Open MPI 4 has the address of mpirun in the environment; 5 has not, and needs --coordinator on several machines."""
    size = _number(environ, 'OMPI_COMM_WORLD_SIZE')
    if size is None:
        return None
    local, tasks = _number(environ, 'OMPI_COMM_WORLD_LOCAL_RANK', 0), _number(environ, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1)
    uri, name = environ.get('OMPI_MCA_orte_hnp_uri', ''), environ.get('PMIX_NAMESPACE', '')
    job = int(uri.split('.')[0]) >> 12 if uri.split('.')[0].isdigit() else zlib.crc32(name.encode())
    found = re.search(r'tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]]', uri)
    host = '127.0.0.1' if tasks == size else next(filter(None, found.groups())) if found else ''
    return Start(_join(host, _port(environ, job)), size, _number(environ, 'OMPI_COMM_WORLD_RANK', 0),
                 _gpus(environ, local, tasks, False), 'Open MPI', -(-size // max(1, tasks)))


def _slurm(environ) -> Start | None:
    """Every task of a step that srun started; a batch script without srun is one process."""
    if 'SLURM_JOB_ID' not in environ:
        return None
    nodes = environ.get('SLURM_STEP_NODELIST')
    if not nodes or 'SLURM_PROCID' not in environ:
        tasks = _number(environ, 'SLURM_NTASKS', 1)
        return Start(reason=f'SLURM gives {tasks} tasks and this is one process; {WITHOUT_SRUN}' if tasks > 1 else ALONE)
    size = _number(environ, 'SLURM_STEP_NUM_TASKS') or _number(environ, 'SLURM_NTASKS', 1)
    hosts = _number(environ, 'SLURM_STEP_NUM_NODES') or _number(environ, 'SLURM_NNODES', 1)
    per_node = tasks_per_node(environ.get('SLURM_STEP_TASKS_PER_NODE') or environ.get('SLURM_TASKS_PER_NODE') or str(size))
    tasks = per_node[min(_number(environ, 'SLURM_NODEID', 0), len(per_node) - 1)]
    bind = environ.get('SLURM_GPU_BIND', '')
    bound = ('SLURM_GPUS_PER_TASK' in environ or 'gpu' in environ.get('SLURM_TRES_PER_TASK', '')
             or (bind != '' and 'none' not in bind))
    host = '127.0.0.1' if hosts == 1 else first_node(nodes)
    return Start(_join(host, _port(environ, _number(environ, 'SLURM_JOB_ID'))), size, _number(environ, 'SLURM_PROCID'),
                 _gpus(environ, _number(environ, 'SLURM_LOCALID', 0), tasks, bound), 'SLURM', hosts)


def tasks_per_node(text: str) -> list[int]:
    """'8(x2),4' -> [8, 8, 4], as SLURM writes it."""
    found = []
    for part in text.split(','):
        count, _, times = part.partition('(x')
        found += [int(count)] * int(times.rstrip(')') or 1)
    return found


def first_node(nodes: str) -> str:
    """'gpu[007-012,20]-ib,login1' -> 'gpu007-ib', as SLURM writes it."""
    first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)[0]
    return re.sub(r'\[([^,\-\]]+)[^\]]*\]', r'\1', first)


def _tpu(environ, workers: list[str], worker: int, reason: str, late_names: bool) -> Start:
    """Worker `worker` of a slice, or of several slices joined by MEGASCALE."""
    slices = _number(environ, 'MEGASCALE_NUM_SLICES', 1)
    first = (environ.get('MEGASCALE_COORDINATOR_ADDRESS') or workers[0]).split(':')[0]
    size = len(workers) * slices
    return Start(_join(first, _number(environ, 'JAX_COORDINATOR_PORT', TPU_PORT)), size,
                 worker + _number(environ, 'MEGASCALE_SLICE_ID', 0) * len(workers), None, reason, size, late_names)


def _gke(environ) -> Start | None:
    """A pod with TPUs: GKE writes the workers of its slice into the environment, of a Job as of a JobSet."""
    names = environ.get('TPU_PROCESS_ADDRESSES') or environ.get('TPU_WORKER_HOSTNAMES')
    if not names:
        return None
    workers = [name.split(':')[0] for name in names.split(',')]
    return _tpu(environ, workers, _number(environ, 'TPU_WORKER_ID', 0), 'GKE with TPUs', True)


def _tpu_vm(environ, metadata) -> Start | None:
    """A machine of a TPU slice: its metadata server lists the others."""
    if metadata is None:
        return None
    number, endpoints = metadata('agent-worker-number'), metadata('worker-network-endpoints')
    if not number or not endpoints:
        return None
    settings = dict(re.findall(r"^\s*(MEGASCALE_\w+)\s*:\s*'?([^'\n]*)'?\s*$", metadata('tpu-env') or '', re.MULTILINE))
    workers = [endpoint.split(':')[-1] for endpoint in endpoints.split(',')]  # 'ip', or 'name:id:ip'
    return _tpu({**settings, **environ}, workers, int(number), 'TPU VM', False)


def _kubernetes(environ, fqdn, processes: int | None) -> Start | None:
    """A pod of an Indexed Job or JobSet: its number is in the environment, the number of pods is not."""
    index = _number(environ, 'JOB_COMPLETION_INDEX')
    if index is None or 'KUBERNETES_SERVICE_HOST' not in environ:
        return None
    if processes is None:
        raise UserError('the number of pods of this Indexed Job is not in its environment; fix: set BIGJAX_PROCESSES there '
                        'to the parallelism of the Job, or to 1 where every pod is a run of its own',
                        code='distributed/incomplete')
    host, dot, domain = fqdn().partition('.')
    first = re.sub(r'-\d+$', '-0', host) + dot + domain if dot else ''
    return Start(_join(first, _number(environ, 'JAX_COORDINATOR_PORT', KUBERNETES_PORT)), processes, index, None,
                 'Kubernetes' if dot else 'Kubernetes, in a Job without spec.subdomain,', processes, True)


def _join(host: str, port: int) -> str:
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}' if host else ''


def print_now(text: str) -> None:
    """Prints a line unbuffered: in a file or a pipe it keeps its place among the lines of stderr."""
    print(text, flush=True)


def start(flags: Flags = Flags(), *, command: str = '', seconds: float = 300.0, heartbeat: float = 30.0,
          log: Callable[[str], None] = print_now) -> Start:
    """Joins this process to the others, before JAX has touched a device. Alone, it does nothing.

    Args:
      flags: the flags of the command line.
      command: the command, which must be the same for all processes.
      seconds: how long to wait for the others.
      heartbeat: a process, or its machine, that is silent for so many seconds counts as dead.
      log: receives a line on who has arrived.

    Raises:
      UserError: the coordinator cannot be right, or a process did not arrive.
    """
    import jax
    decided = decide(os.environ, flags, metadata=tpu_metadata if on_tpu_vm() else None,
                     fqdn=socket.getfqdn)
    if decided.processes == 1:
        if decided.reason.endswith(WITHOUT_SRUN):
            log(f'note: {decided.reason}')
        return decided
    if jax.distributed.is_initialized():
        return decided
    bind, peers = rendezvous(decided, split(decided.coordinator), command=command, seconds=seconds, log=log,
                             heartbeat=heartbeat)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    # The watchdog's agreement replaces JAX's preemption service, whose own handler of SIGTERM would hide signals from Python
    # until the watchdog starts; Orbax, which polls the service by steps, treats a disabled one as no preemption.
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize(
        decided.coordinator, decided.processes, decided.process, decided.local_devices, cluster_detection_method='deactivate',
        initialization_timeout=60, coordinator_bind_address=bind, heartbeat_timeout_seconds=max(1, round(heartbeat)))
    return dataclasses.replace(decided, peers=peers)


def on_tpu_vm() -> bool:
    """Whether this machine has TPUs and JAX's library for them, so that a metadata server may list the other hosts."""
    return 'tpu' in accelerators() and importlib.util.find_spec('libtpu') is not None


def tpu_metadata(attribute: str, tries: int = 3) -> str:
    """An attribute of the Google Cloud machine that this is; '' where it has none, or the server does not answer."""
    place = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    url = f'http://{place}/computeMetadata/v1/instance/attributes/{attribute}'
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(tries):
        try:
            request = urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})
            with opener.open(request, timeout=3) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ''
        except OSError:
            pass
        time.sleep(0.5 * (attempt + 1))
    return ''
