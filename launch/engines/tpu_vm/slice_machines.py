"""The machines of a slice of Cloud TPUs as ssh reaches them, once gcloud has copied this machine's key to them."""
import math
import pathlib
import threading
import time

from bigjax.errors import UserError
from launch.engines.ssh.machines import Machines
from launch.engines.ssh.remote_steps import Settings
from launch.engines.ssh.transport import Hosts, Unreachable
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.resources import ABSENT, DEAD, READY, Found, Resources, endpoints, short
from launch.engines.tpu_vm.tpu_types import Slice
from launch.job import Job, digest

PORT = 8482  # JAX's own coordinator port on TPU VMs
SSH_TIMEOUT_S = 300.0  # without an answer of its machines, after which a slice is created again
RETRY_S = 10.0  # between two queries about a machine that does not answer
KEYS_TIMEOUT_S = 600.0
# A killed process can leave its lock on the TPU behind; a lock that a process holds is not removed.
UNLOCK = ('if command -v lsof >/dev/null && [ -z "$(lsof -t /tmp/libtpu_lockfile /dev/accel* /dev/vfio/[0-9]* 2>/dev/null)" ]; '
          'then rm -f /tmp/libtpu_lockfile; fi')


class SliceMachines(Machines):
    """The machines of a slice, one process on each.

    Attributes:
      found: the resources as they were last seen; None: to be queried at the next use.
    """

    needs_port = False

    def __init__(self, job: Job, target, slice: Slice | None, resources: Resources):
        setup = f'{UNLOCK}; {target.setup}' if target.setup else UNLOCK
        super().__init__(job, Settings(path=target.path, setup=setup, wait=SSH_TIMEOUT_S))
        self.found: Found | None = None
        self._target, self._slice, self._resources = target, slice, resources
        self._gone_lock, self._gone_checked, self._gone = threading.Lock(), -math.inf, False

    def hosts(self) -> Hosts:
        """The machines of the slice.

        Raises:
          UserError: there is no slice, or it is not ready.
        """
        found = self.found = self.found or self._resources.look()
        if found.state != READY:
            self.found = None
            raise UserError(f'{self._resources.name}: no machines ({found}); {self.hint(found)}',
                            code='launch/no-machines')
        places = [(f'{short(node)}:{number}', inside if self._target.internal_ips else outside or inside)
                  for node in found.nodes for number, (inside, outside) in enumerate(endpoints(node))]
        return self._at(tuple(address for _, address in places), tuple(name for name, _ in places))

    def planned(self) -> Hosts:
        count = self._slice.workers if self._slice else 1
        names = tuple(f'{node}:{number}' for node in self._resources.nodes for number in range(count))
        return self._at(tuple(f"ADDRESS-OF-{name.replace(':', '-')}" for name in names), names)

    @property
    def workers(self) -> int:
        return len(self.hosts()) if self.found and self.found.state == READY else len(self.planned())

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """The meeting point within one slice, so that nothing depends on a metadata server that may not answer at once.

        Empty for several slices, whose numbers only the cloud's metadata has.
        """
        if self._target.slices > 1 or self.workers == 1:
            return {}
        first = endpoints(self.found.nodes[0])[0][0] if self.found else f'ADDRESS-OF-{self._resources.nodes[0]}-0'
        return {'BIGJAX_COORDINATOR': f'{first}:{PORT}', 'BIGJAX_PROCESSES': str(self.workers), 'BIGJAX_PROCESS': str(process)}

    def gone(self, host: int) -> bool:
        with self._gone_lock:  # one query serves all silent machines
            if time.monotonic() > self._gone_checked + RETRY_S:
                try:
                    self._gone = self._resources.look().state in (DEAD, ABSENT)
                except UserError:
                    self._gone = False
                self._gone_checked = time.monotonic()
            return self._gone

    def forget(self) -> None:
        """Drops what is known of the slice, which may be another one by now."""
        self.found, self._gone_checked = None, -math.inf

    def copy_key(self) -> None:
        """Copies the SSH key to the machines, once per slice; afterwards all of them answer.

        Raises:
          Unreachable: they do not answer yet.
        """
        if self._known.exists():
            return
        self.job.folder.mkdir(parents=True, exist_ok=True)
        for node, step in zip(self._resources.nodes, self.key_steps(), strict=True):
            try:
                gcloud.do(step, KEYS_TIMEOUT_S)
            except gcloud.Refused as error:
                if error.status or any(word in error.message for word in (
                        'not present in the SSH agent', 'gcloud auth', 'crashed', 'Permission denied')):
                    raise
                raise Unreachable(f'{node}: does not answer to ssh ({error.message})') from None
        for old in self.job.folder.glob('known_hosts.*'):
            old.unlink()
        self._known.touch()

    def key_steps(self) -> list[gcloud.Run]:
        """The commands that copy the SSH key."""
        return [gcloud.keys(node, self._target.user, self._resources.where, internal=self._target.internal_ips)
                for node in self._resources.nodes]

    def hint(self, found: Found) -> str:
        """The fix, or the explanation, for a slice that is not ready."""
        if self._target.node:
            zone = self._resources.where['zone']
            return (f"fix: start it with 'gcloud compute tpus tpu-vm start {self._target.node} --zone={zone}'"
                    if found.state == DEAD else 'fix: check node=, zone= and project=')
        if found.state == ABSENT:
            return (f'the job has ended, or was never started; its output, as far as a launcher followed it, is in '
                    f'{self.job.log_folder}')
        if found.state == DEAD:
            return f"fix: 'python -m launch attach {self.job.name}' creates it again and resumes the job"
        return 'it is not there yet'

    def _at(self, addresses: tuple[str, ...], names: tuple[str, ...]) -> Hosts:
        # The cloud reuses addresses for other machines, so every slice has a file of known hosts of its own.
        options = 'StrictHostKeyChecking=accept-new', f'UserKnownHostsFile={self._known}'
        return Hosts(addresses, user=self._target.user, identity=self._target.identity, options=options, names=names)

    @property
    def _known(self) -> pathlib.Path:
        """The file of this slice's known hosts; it exists once its machines accept our key."""
        made = [str((node.get('id'), node.get('createTime'))) for node in self.found.nodes] if self.found else []
        return self.job.folder / f'known_hosts.{digest(*made)}'
