"""The resources at Google that a job's slice consists of: how they are named and labelled, and what exists of them now.

A job recognizes its slice by two labels, its name and a hash of the job; a resource of the same name without them is never
touched.
"""
import dataclasses
from typing import Any

from bigjax.errors import UserError
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.gcloud import Refused
from launch.engines.tpu_vm.tpu_types import Slice
from launch.job import Job, digest
from launch.steps import Run

JOB, DIGITS = 'bigjax-job', 'bigjax-id'
ABSENT, DEAD, WAITING, READY = 'absent', 'dead', 'waiting', 'ready'


@dataclasses.dataclass(frozen=True)
class Found:
    """The resources that exist, as the API reports them.

    Attributes:
      queue: the queued resource, None if there is none.
      nodes: the nodes in their order; [] if they were not queried.
      queued: whether there should be a queued resource.
      count: the number of nodes that there should be.
    """

    queue: dict[str, Any] | None
    nodes: list[dict[str, Any]]
    queued: bool
    count: int

    @property
    def state(self) -> str:
        """ABSENT, DEAD (it will never be ready), WAITING or READY."""
        queue, states = self.queue_state, [node.get('state', '') for node in self.nodes]
        if self.queue is None and not self.nodes:
            return ABSENT
        if queue in gcloud.QUEUE_DEAD or (self.queued and self.queue is None) or any(s in gcloud.NODE_DEAD for s in states):
            return DEAD
        ready = len(states) == self.count and all(state == gcloud.NODE_READY for state in states)
        return READY if ready and all(endpoints(node) for node in self.nodes) else WAITING

    @property
    def queue_state(self) -> str:
        """The state of the queued resource; '' if there is none."""
        return (self.queue or {}).get('state', {}).get('state', '')

    @property
    def paid(self) -> bool:
        """Whether it may cost money in this state."""
        return bool(self.nodes) or self.queue_state == gcloud.QUEUE_READY

    @property
    def failure(self) -> str:
        """The API's message about a queued resource that has failed."""
        error = (self.queue or {}).get('state', {}).get('failedData', {}).get('error', {})
        return error.get('message', '')

    @property
    def resources(self) -> list[tuple[str, bool, dict[str, Any]]]:
        """(name, whether it is a queued resource, labels) of each resource."""
        spec = ((self.queue or {}).get('tpu', {}).get('nodeSpec') or [{}])[0].get('node', {})
        queue = [(short(self.queue), True, spec.get('labels', {}))] if self.queue else []
        return queue + [(short(node), False, node.get('labels', {})) for node in self.nodes]

    def __str__(self) -> str:
        """The states in words: 'queued resource ACTIVE, TPU VM exp7 READY'."""
        words = [f'queued resource {self.queue_state}'] if self.queue else []
        for node in self.nodes:
            health = node.get('health', '')
            words.append(f"TPU VM {short(node)} {node.get('state', '?')}"
                         + (f' ({health})' if health not in ('', 'HEALTHY', 'HEALTH_UNSPECIFIED') else ''))
        return ', '.join(words) or 'nothing'


def kind(queue: bool) -> str:
    """The kind of a resource in words."""
    return 'queued resource' if queue else 'TPU VM'


def short(thing: dict[str, Any]) -> str:
    """The last part of a resource's name: 'exp7' of 'projects/p/locations/z/nodes/exp7'."""
    return thing.get('name', '').rpartition('/')[2]


def endpoints(node: dict[str, Any]) -> list[tuple[str, str]]:
    """(internal, external) address of each machine of a node, in the first of its networks."""
    networks = max(1, len(node.get('networkConfigs') or ()))
    return [(end.get('ipAddress', ''), end.get('accessConfig', {}).get('externalIp', ''))
            for end in (node.get('networkEndpoints') or [])[::networks]]


class Resources:
    """The slice of a job, or its several slices, as resources at Google.

    Args:
      where: its 'zone' and 'project'.
      queued: whether it is requested by a queued resource.
      flags: more flags for `gcloud.create`.

    Attributes:
      name: the job's.
      text: the slice in words: '2 x v5litepod-16 in us-west4-a'.
    """

    def __init__(self, job: Job, where: dict[str, str], slice: Slice, *, slices: int, queued: bool,
                 flags: dict[str, str | bool]):
        self.name, self.where, self.queued = job.name, where, queued
        self.type = slice.type if slice else ''
        self.text = f"{f'{slices} x ' if slices > 1 else ''}{self.type} in {where['zone']}"
        self._slice, self._slices, self._flags = slice, slices, flags
        # A job found by its name alone (from another machine, before its own machines answer) has no hash.
        self._labels = {JOB: job.name} | ({DIGITS: digest(job.name, job.created)} if job.created else {})

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        name = self.name
        return [name] if self._slices == 1 else [f'{name}-{number}' for number in range(self._slices)]

    def command(self) -> Run:
        """The command that creates the slice."""
        return gcloud.create(self.name, self.where, self._slice.type, self._slice.runtime, queued=self.queued,
                             slices=self._slices, flags=self._flags, labels=self._labels)

    def deletion(self) -> Run:
        """The command that deletes it."""
        return gcloud.delete(self.name, self.where, queued=self.queued)

    def look(self, *, whole: bool = False) -> Found:
        """The resources that exist now; with `whole` also the nodes of a queued resource that is not active.

        Raises:
          Refused: the query failed.
        """
        queue = None
        if self.queued:
            listed = gcloud.query(gcloud.queue(self.name, self.where)) or []
            queue = next((entry for entry in listed if short(entry) == self.name), None)
        nodes = []
        if whole or queue is None or Found(queue, [], True, 0).queue_state == gcloud.QUEUE_READY:
            names = self.nodes
            nodes = [node for node in gcloud.query(gcloud.nodes(self.name, self.where)) or [] if short(node) in names]
            nodes.sort(key=lambda node: names.index(short(node)))
        return Found(queue, nodes, self.queued, self._slices)

    def owned(self, found: Found) -> list[tuple[str, bool]]:
        """(name, whether it is a queued resource) of each resource that this job created."""
        return [(name, queue) for name, queue, labels in found.resources
                if all(labels.get(key) == value for key, value in self._labels.items())]

    def exists(self) -> list[str]:
        """The job's resources in words; '?…' if the query failed."""
        try:
            found = self.look(whole=True)
        except UserError as error:
            return [f"? whether {self.name} is still in {self.where['zone']} is unknown: {error}"]
        return [f"{kind(queue)} {name} in {self.where['zone']}" for name, queue in self.owned(found)]

    def require_own(self, found: Found, message: str = '') -> None:
        """Raises Refused if a resource of this name is not the job's."""
        owned = self.owned(found)
        if others := [name for name, queue, _ in found.resources if (name, queue) not in owned]:
            message = message or f"{others[0]}: in use in {self.where['zone']} ({found}), and not by this job"
            raise Refused(gcloud.TAKEN, message, 'choose another --name, use it as it is with node=, or delete it')
