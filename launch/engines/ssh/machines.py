"""The machines of a job that ssh reaches, and which process runs on which of them."""
import abc
from collections.abc import Sequence

from launch.engines.local import SHARE, VARIABLES
from launch.engines.ssh.remote_steps import Settings
from launch.engines.ssh.transport import Hosts
from launch.job import Job


class Machines(abc.ABC):
    """The machines of one job.

    A subclass overrides `hosts`; `variables` and `needs_port` if the cloud sets the meeting point; `planned` and `gone` if a
    cloud creates the machines, and can be queried about a silent one.

    Attributes:
      needs_port: whether the processes meet at a port that the first machine has free at each start.
    """

    needs_port = True

    def __init__(self, job: Job, settings: Settings):
        self.job, self.settings = job, settings

    @abc.abstractmethod
    def hosts(self) -> Hosts:
        """The machines as they are now; may query a cloud. Called again at each start and attach."""

    def planned(self) -> Hosts:
        """The machines as a plan shows them; makes no query."""
        return self.hosts()

    def gone(self, host: int) -> bool:
        """Whether a machine that does not answer is known to be gone, so that waiting for it is useless."""
        return False

    @property
    def shares(self) -> int:
        """The number of processes that run at once."""
        return len(self.planned()) * self.settings.per_host

    @property
    def workers(self) -> int:
        """The number of processes."""
        return self.job.array or self.shares

    def placed(self, hosts: Sequence) -> dict[int, int]:
        """{rank of a process: number of its machine}."""
        if self.job.array:
            return {process: process % len(hosts) for process in range(self.job.array)}
        each = self.settings.per_host
        return {process: process // each for process in range(len(hosts) * each)}

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """The extra environment of a process, without secrets. `coordinator` is '' for independent processes."""
        if self.job.array:
            return {SHARE: f'{process}/{self.workers}'}
        return dict(zip(VARIABLES, (coordinator, str(self.workers), str(process)), strict=True)) if coordinator else {}

    @property
    def meets(self) -> bool:
        """Whether there is a coordinator whose port is found at each start."""
        return self.needs_port and self.workers > 1 and not self.job.array

    def coordinator(self, hosts: Hosts, port: str) -> str:
        """The address of the meeting point; '' without a port."""
        if not port:
            return ''
        address = self.settings.coordinator or ('127.0.0.1' if len(hosts) == 1 else hosts.hostname(0))
        return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'
