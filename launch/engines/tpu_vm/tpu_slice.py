"""The life of a job's slice at Google: creation, waiting, inspection, deletion. Nothing here starts a program on it.

A job recognizes its slice by two labels, its name and a hash of the job; a resource of the same name without them is never
touched. `slice.json` in the job's folder records the slice's zone and project before the command that creates it, so that
'launch down' finds it even after kill -9.
"""
import contextlib
import dataclasses
import json
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

from bigjax.errors import UserError
from bigjax.io.text import clock
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.gcloud import Refused
from launch.engines.tpu_vm.tpu_types import Slice
from launch.job import Job, digest
from launch.lines import log
from launch.steps import Run

JOB, DIGITS = 'bigjax-job', 'bigjax-id'
CREATIONS = 3  # in one start: a spot slice may be taken away before it is used
READY_TIMEOUT_S = 1800.0  # from the time when it may cost money until it must be ready
DELETE_TIMEOUT_S = 900.0
SILENCE_S = 900.0  # without an answer from Google, after which a wait is given up
MIN_PAUSE_S, MAX_PAUSE_S = 2.0, 60.0  # between two queries
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


class Allocation:
    """The slice of a job, or its several slices.

    Args:
      where: its 'zone' and 'project'.
      queued: whether it is requested by a queued resource.
      flags: more flags for `gcloud.create`.
      wait: the longest time to wait for it, in seconds.
    """

    def __init__(self, job: Job, where: dict[str, str], slice: Slice, *, slices: int, queued: bool,
                 flags: dict[str, str | bool], wait: float):
        self._job, self._where, self._slice, self._slices, self._queued = job, where, slice, slices, queued
        self._flags, self._wait, self._unsure = flags, wait, False
        self._record = job.folder / 'slice.json'
        # A job found by its name alone (from another machine, before its own machines answer) has no hash.
        self._labels = {JOB: job.name} | ({DIGITS: digest(job.name, job.created)} if job.created else {})

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        name = self._job.name
        return [name] if self._slices == 1 else [f'{name}-{number}' for number in range(self._slices)]

    def command(self) -> Run:
        """The command that creates the slice."""
        return gcloud.create(self._job.name, self._where, self._slice.type, self._slice.runtime, queued=self._queued,
                             slices=self._slices, flags=self._flags, labels=self._labels)

    def deletion(self) -> Run:
        """The command that deletes it."""
        return gcloud.delete(self._job.name, self._where, queued=self._queued)

    def look(self, *, whole: bool = False) -> Found:
        """The resources that exist now; with `whole` also the nodes of a queued resource that is not active.

        Raises:
          Refused: the query failed.
        """
        queue = None
        if self._queued:
            listed = gcloud.query(gcloud.queue(self._job.name, self._where)) or []
            queue = next((entry for entry in listed if short(entry) == self._job.name), None)
        nodes = []
        if whole or queue is None or Found(queue, [], True, 0).queue_state == gcloud.QUEUE_READY:
            names = self.nodes
            nodes = [node for node in gcloud.query(gcloud.nodes(self._job.name, self._where)) or [] if short(node) in names]
            nodes.sort(key=lambda node: names.index(short(node)))
        return Found(queue, nodes, self._queued, self._slices)

    def owned(self, found: Found) -> list[tuple[str, bool]]:
        """(name, whether it is a queued resource) of each resource that this job created."""
        return [(name, queue) for name, queue, labels in found.resources
                if all(labels.get(key) == value for key, value in self._labels.items())]

    def ensure(self) -> Found:
        """Creates the slice if it is absent or dead, and waits until it is ready.

        Raises:
          Refused: Google refuses, or it was not ready in time; it may exist, so the caller has to call `delete`.
        """
        began, paid, shown, pause, creations = time.monotonic(), None, '', MIN_PAUSE_S, 0
        found = self.look()
        while True:
            self._require_own(found)
            now, state = time.monotonic(), found.state
            if str(found) != shown and state != ABSENT:
                log(f'{self._job.name}: {found} after {clock(now - began)}')
                shown, pause = str(found), MIN_PAUSE_S
            if state == READY:
                return found
            if state == ABSENT:
                if creations == CREATIONS:
                    raise Refused('', f'{self._job.name}: taken away {CREATIONS} times before it could be used',
                                  'name another zone=, or leave out spot')
                self._create()
                creations, paid, pause = creations + 1, None, MIN_PAUSE_S
            elif state == DEAD:
                failed = found.queue_state == 'FAILED' and creations
                self.delete(dead=True)
                if failed:
                    raise Refused(gcloud.QUOTA if 'uota' in found.failure else '',
                                  f"{found.failure or 'failed without a reason from Google'} ({self._slice.type})",
                                  'name another zone= or type, or try again later')
            else:
                paid = (paid or now) if found.paid else None
                self._overdue(found, now - began, now - paid if paid else 0.0)
                time.sleep(pause)
                pause = min(pause * 1.5, MAX_PAUSE_S)
            found = self._look_with_retries()

    def _overdue(self, found: Found, waited: float, paid: float) -> None:
        """Raises Refused after the longest wait; `paid` is the time for which it may have cost money."""
        if waited > self._wait and not paid:
            raise Refused('', f'{self._job.name}: not ready after wait={clock(self._wait)} ({found})',
                          'wait longer, wait=48h, or name another zone= or type')
        if paid > READY_TIMEOUT_S:
            raise Refused('', f'{self._job.name}: may cost money since {clock(paid)} and is not ready ({found})',
                          'try again, or name another zone=')

    def _look_with_retries(self) -> Found:
        """Calls `look`, with retries for `SILENCE_S`: some minutes without an answer must not cost the place in the queue."""
        until, reported = time.monotonic() + SILENCE_S, ''
        while True:
            try:
                return self.look()
            except Refused as error:
                if time.monotonic() > until:
                    raise
                if str(error) != reported:
                    reported = str(error)
                    log(f'{self._job.name}: {reported}; retries for {SILENCE_S / 60:.0f} minutes')
                time.sleep(10.0)

    def delete(self, *, dead: bool = False) -> list[str]:
        """Deletes the job's resources and waits until they are gone; returns a line for each.

        Args:
          dead: delete only a dead slice; another launcher of this job may have created a new one meanwhile.

        Raises:
          Refused: it cannot be deleted, or the query failed.
        """
        began, ask_at, gone, pause, trouble = time.monotonic(), {}, {}, MIN_PAUSE_S, None
        while True:
            now = time.monotonic()
            try:
                found = self.look()
                owned = [] if dead and found.state != DEAD else self.owned(found)
            except Refused as error:
                owned, trouble = None, error
            if owned == [] and dead:
                return []
            if owned == [] and not self._unsure:
                self._record.unlink(missing_ok=True)
                return [f'{kind(queue)} {name} deleted' for name, queue in gone]
            self._unsure = self._unsure and owned is None
            if now > began + (DELETE_TIMEOUT_S if owned else 60.0):
                raise Refused('', f"{self._job.name}: may still exist and cost money{f' ({trouble})' if trouble else ''}",
                              f"delete it with 'python -m launch down {self._job.name}', or by hand: {self.deletion()}")
            for name, queue in owned or []:
                gone[name, queue] = True
                with_its_queue = not queue and any(other for _, other in owned)
                if not with_its_queue and now >= ask_at.get(name, now):
                    log(f'{self._job.name}: deletes {kind(queue)} {name}')
                    ask_at[name] = now + 60.0
                    trouble = self._request_deletion(name, queue)
            time.sleep(pause)
            pause = min(pause * 1.5, 15.0)

    def _request_deletion(self, name: str, queue: bool) -> Refused | None:
        """Google's refusal, if any: the resource may be in a state that it cannot leave yet, or be gone."""
        try:
            gcloud.do(gcloud.delete(name, self._where, queued=queue))
        except Refused as error:
            return error
        return None

    def exists(self) -> list[str]:
        """The job's resources in words; '?…' if the query failed."""
        try:
            found = self.look(whole=True)
        except UserError as error:
            return [f"? whether {self._job.name} is still in {self._where['zone']} is unknown: {error}"]
        return [f"{kind(queue)} {name} in {self._where['zone']}" for name, queue in self.owned(found)]

    @contextlib.contextmanager
    def or_nothing(self, keep: bool) -> Iterator[None]:
        """Context in which Ctrl-C, SIGTERM or an error first deletes the slice; with `keep` only if it is not ready."""
        with gcloud.signals(_interrupt, only=signal.SIG_DFL):
            try:
                yield
            except BaseException as error:
                with gcloud.signals(lambda *_: log('still deleting what costs money; please wait')):
                    self._clear(error, keep)
                raise

    def _clear(self, error: BaseException, keep: bool) -> None:
        if not self._record.exists():
            return  # nothing was requested
        word = 'interrupted' if isinstance(error, KeyboardInterrupt) else f'{error or type(error).__name__}'
        try:
            if keep and (found := self.look()).state == READY:
                log(f'{self._job.name}: {word}; kept, and costs money ({found})')
                return
            log(f'{self._job.name}: {word}; looks for resources to delete')
            for done in self.delete():
                log(f'{self._job.name}: {done}')
        except UserError as trouble:
            log(str(trouble))

    def _create(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps({**self._where, 'name': self._job.name, 'queued': self._queued}) + '\n')
        step = self.command()
        times = f'{self._slices} x ' if self._slices > 1 else ''
        log(f"{self._job.name}: requests {times}{self._slice.type} in {self._where['zone']}")
        self._unsure = True  # whether it exists, until the command has ended by itself
        code, out, errors = gcloud.execute(step, gcloud.CREATE_TIMEOUT_S, lambda: bool(self.owned(self.look())))
        self._unsure = code == 124
        if code:
            error = gcloud.refused(step, code, errors or out)
            if error.status != gcloud.TAKEN:
                raise error
            found = self.look()
            self._require_own(found, error.message)
            if not self.owned(found):
                raise error
            # Another launcher of this job was faster.

    def _require_own(self, found: Found, message: str = '') -> None:
        """Raises Refused if a resource of this name is not the job's."""
        owned = self.owned(found)
        if others := [name for name, queue, _ in found.resources if (name, queue) not in owned]:
            message = message or f"{others[0]}: in use in {self._where['zone']} ({found}), and not by this job"
            raise Refused(gcloud.TAKEN, message, 'choose another --name, use it as it is with node=, or delete it')


def load(job: Job) -> dict[str, str]:
    """The zone and project of the job's slice, recorded before its creation; {} if none was created."""
    try:
        return json.loads((job.folder / 'slice.json').read_text())
    except (OSError, ValueError):
        return {}


def seconds(text: str, where: str) -> float:
    """The seconds of a duration: '24h' -> 86400.

    Raises:
      UserError: the text is not a duration.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smhd])', text.strip())
    if not match:
        raise UserError(f'{where}={text}: not a duration; fix: write for example {where}=90m, 24h or 2d',
                        code='launch/bad-value')
    return float(match[1]) * {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[match[2]]



def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt
