"""The slice of a job at Google: made, waited for, looked at, deleted. Nothing here starts a program on it.

A slice of one's own is known again by two labels: the job's name, and digits that stand for the job. A thing of the same name
without them is never touched. Before the command that makes it runs, `slice.json` in the job's folder says where it may be, so
that 'launch down' finds it after kill -9, too.
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
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.gcloud import Refused
from launch.engines.tpu_vm.tpu_types import Slice
from launch.job import Job, digest
from launch.lines import say
from launch.steps import Run

JOB, DIGITS = 'bigjax-job', 'bigjax-id'
CREATIONS = 3  # in one start; a spot slice may be taken away before it is used
PAID = 1800.0  # seconds: from when it may cost money until it must be ready
DELETED = 900.0  # seconds until it must be gone
SILENCE = 900.0  # seconds that Google may not answer while one waits
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two looks
ABSENT, DEAD, WAITING, READY = 'absent', 'dead', 'waiting', 'ready'


@dataclasses.dataclass(frozen=True)
class Found:
    """What is there, as the API says it; `nodes` in their order, as far as they were looked at.

    Attributes:
      count: nodes that there should be.
    """

    queue: dict[str, Any] | None
    nodes: list[dict[str, Any]]
    queued: bool
    count: int

    @property
    def state(self) -> str:
        """ABSENT, DEAD (it comes to life no more), WAITING or READY."""
        queue, states = self.queue_state, [node.get('state', '') for node in self.nodes]
        if self.queue is None and not self.nodes:
            return ABSENT
        if queue in gcloud.QUEUE_DEAD or (self.queued and self.queue is None) or any(s in gcloud.NODE_DEAD for s in states):
            return DEAD
        ready = len(states) == self.count and all(state == gcloud.NODE_READY for state in states)
        return READY if ready and all(endpoints(node) for node in self.nodes) else WAITING

    @property
    def queue_state(self) -> str:
        """Of the queued resource; '' where there is none."""
        return (self.queue or {}).get('state', {}).get('state', '')

    @property
    def paid(self) -> bool:
        """Whether it may cost money as it is."""
        return bool(self.nodes) or self.queue_state == gcloud.QUEUE_READY

    @property
    def failure(self) -> str:
        """What the API says of a queued resource that has failed."""
        error = (self.queue or {}).get('state', {}).get('failedData', {}).get('error', {})
        return error.get('message', '')

    @property
    def things(self) -> list[tuple[str, bool, dict[str, Any]]]:
        """(name, whether it is a queued resource, labels) of each."""
        spec = ((self.queue or {}).get('tpu', {}).get('nodeSpec') or [{}])[0].get('node', {})
        queue = [(short(self.queue), True, spec.get('labels', {}))] if self.queue else []
        return queue + [(short(node), False, node.get('labels', {})) for node in self.nodes]

    def __str__(self) -> str:
        """'queued resource ACTIVE, TPU VM exp7 READY'."""
        words = [f'queued resource {self.queue_state}'] if self.queue else []
        for node in self.nodes:
            health = node.get('health', '')
            words.append(f"TPU VM {short(node)} {node.get('state', '?')}"
                         + (f' ({health})' if health not in ('', 'HEALTHY', 'HEALTH_UNSPECIFIED') else ''))
        return ', '.join(words) or 'nothing'


def kind(queue: bool) -> str:
    """What a thing is called."""
    return 'queued resource' if queue else 'TPU VM'


def short(thing: dict[str, Any]) -> str:
    """'exp7' of 'projects/p/locations/z/nodes/exp7'."""
    return thing.get('name', '').rpartition('/')[2]


def endpoints(node: dict[str, Any]) -> list[tuple[str, str]]:
    """(internal, external) address of each of its machines, by their number; of machines in several networks in the first."""
    networks = max(1, len(node.get('networkConfigs') or ()))
    return [(end.get('ipAddress', ''), end.get('accessConfig', {}).get('externalIp', ''))
            for end in (node.get('networkEndpoints') or [])[::networks]]


class Allocation:
    """The slice of a job, or its several slices.

    Args:
      where: its 'zone' and 'project'.
      queued: whether it is asked for with a queued resource.
      flags: more for the command that makes it, `gcloud.create`.
      wait: seconds until it must be there.
    """

    def __init__(self, job: Job, where: dict[str, str], slice: Slice, *, slices: int, queued: bool,
                 flags: dict[str, str | bool], wait: float):
        self._job, self._where, self._slice, self._slices, self._queued = job, where, slice, slices, queued
        self._flags, self._wait, self._unsure = flags, wait, False
        self._record = job.folder / 'slice.json'
        # A job that is known by its name alone (from another machine, before its machines answer) has no digits.
        self._labels = {JOB: job.name} | ({DIGITS: digest(job.name, job.created)} if job.created else {})

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes."""
        name = self._job.name
        return [name] if self._slices == 1 else [f'{name}-{number}' for number in range(self._slices)]

    def command(self) -> Run:
        """The one that makes it."""
        return gcloud.create(self._job.name, self._where, self._slice.type, self._slice.runtime, queued=self._queued,
                             slices=self._slices, flags=self._flags, labels=self._labels)

    def deletion(self) -> Run:
        """The one that deletes it."""
        return gcloud.delete(self._job.name, self._where, queued=self._queued)

    def look(self, *, whole: bool = False) -> Found:
        """What is there now; the nodes of a queued resource that is not active only where `whole` is asked for.

        Raises:
          Refused: Google does not tell.
        """
        queue = None
        if self._queued:
            there = gcloud.ask(gcloud.queue(self._job.name, self._where)) or []
            queue = next((entry for entry in there if short(entry) == self._job.name), None)
        nodes = []
        if whole or queue is None or Found(queue, [], True, 0).queue_state == gcloud.QUEUE_READY:
            names = self.nodes
            nodes = [node for node in gcloud.ask(gcloud.nodes(self._job.name, self._where)) or [] if short(node) in names]
            nodes.sort(key=lambda node: names.index(short(node)))
        return Found(queue, nodes, self._queued, self._slices)

    def mine(self, found: Found) -> list[tuple[str, bool]]:
        """(name, whether it is a queued resource) of what this job has made."""
        return [(name, queue) for name, queue, labels in found.things
                if all(labels.get(key) == value for key, value in self._labels.items())]

    def ensure(self) -> Found:
        """Makes it where it is not, makes it anew where it is dead, waits until it is ready.

        Raises:
          Refused: Google says no, or it was not there in time; it may still be there, and `delete` is to be called.
        """
        began, paid, shown, pause, creations = time.monotonic(), None, '', FIRST_PAUSE, 0
        found = self.look()
        while True:
            self._own(found)
            now, state = time.monotonic(), found.state
            if str(found) != shown and state != ABSENT:
                say(f'{self._job.name}: {found} after {clock(now - began)}')
                shown, pause = str(found), FIRST_PAUSE
            if state == READY:
                return found
            if state == ABSENT:
                if creations == CREATIONS:
                    raise Refused('', f'{self._job.name}: went away {CREATIONS} times before it could be used',
                                  'name another zone=, or ask without spot')
                self._create()
                creations, paid, pause = creations + 1, None, FIRST_PAUSE
            elif state == DEAD:
                failed = found.queue_state == 'FAILED' and creations
                self.delete(dead=True)
                if failed:
                    raise Refused(gcloud.QUOTA if 'uota' in found.failure else '',
                                  f"{found.failure or 'it has failed, and Google does not say why'} ({self._slice.type})",
                                  'name another zone= or type, or try it later')
            else:
                paid = (paid or now) if found.paid else None
                self._overdue(found, now - began, now - paid if paid else 0.0)
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
            found = self._patient_look()

    def _overdue(self, found: Found, waited: float, paid: float) -> None:
        """Raises Refused where one has waited long enough; `paid`: seconds since when it may cost money."""
        if waited > self._wait and not paid:
            raise Refused('', f'{self._job.name}: is not there after wait={clock(self._wait)} ({found})',
                          'wait longer, wait=48h, or name another zone= or type')
        if paid > PAID:
            raise Refused('', f'{self._job.name}: may cost money since {clock(paid)} and is not ready ({found})',
                          'try it again, or name another zone=')

    def _patient_look(self) -> Found:
        """The same as `look`; a place in the queue is not given up because Google does not answer for some minutes."""
        until, said = time.monotonic() + SILENCE, ''
        while True:
            try:
                return self.look()
            except Refused as error:
                if time.monotonic() > until:
                    raise
                if str(error) != said:
                    said = str(error)
                    say(f'{self._job.name}: {said}; asks again for {SILENCE / 60:.0f} minutes')
                time.sleep(10.0)

    def delete(self, *, dead: bool = False) -> list[str]:
        """Deletes what is the job's, and returns when it is gone; says what that was.

        Args:
          dead: only what is dead; another launcher of this job may have made it anew meanwhile.

        Raises:
          Refused: it cannot be deleted, or asked about.
        """
        began, asked, gone, pause, trouble = time.monotonic(), {}, {}, FIRST_PAUSE, None
        while True:
            now = time.monotonic()
            try:
                found = self.look()
                mine = [] if dead and found.state != DEAD else self.mine(found)
            except Refused as error:
                mine, trouble = None, error
            if mine == [] and dead:
                return []
            if mine == [] and not self._unsure:
                self._record.unlink(missing_ok=True)
                return [f'{kind(queue)} {name} deleted' for name, queue in gone]
            self._unsure = self._unsure and mine is None
            if now > began + (DELETED if mine else 60.0):
                raise Refused('', f"{self._job.name}: may still be there and cost money{f' ({trouble})' if trouble else ''}",
                              f"delete it with 'python -m launch down {self._job.name}', or by hand: {self.deletion()}")
            for name, queue in mine or []:
                gone[name, queue] = True
                goes_along = not queue and any(other for _, other in mine)
                if not goes_along and now >= asked.get(name, now):
                    say(f'{self._job.name}: deletes {kind(queue)} {name}')
                    asked[name] = now + 60.0
                    trouble = self._ask_for_deletion(name, queue)
            time.sleep(pause)
            pause = min(pause * 1.5, 15.0)

    def _ask_for_deletion(self, name: str, queue: bool) -> Refused | None:
        """What Google says against it; it may be in a state that it cannot leave yet, or be gone."""
        try:
            gcloud.do(gcloud.delete(name, self._where, queued=queue))
        except Refused as error:
            return error
        return None

    def exists(self) -> list[str]:
        """What is there of the job, in words; '?…' where Google does not tell."""
        try:
            found = self.look(whole=True)
        except UserError as error:
            return [f"? whether {self._job.name} is still in {self._where['zone']} cannot be found out: {error}"]
        return [f"{kind(queue)} {name} in {self._where['zone']}" for name, queue in self.mine(found)]

    @contextlib.contextmanager
    def or_nothing(self, keep: bool) -> Iterator[None]:
        """Whatever ends what is done inside before its time, Ctrl-C, SIGTERM or an error: it is deleted first; with `keep`
        only where it is not ready."""
        with gcloud.signals(_interrupt, only=signal.SIG_DFL):
            try:
                yield
            except BaseException as error:
                with gcloud.signals(lambda *_: say('is deleting what costs money; wait')):
                    self._clear(error, keep)
                raise

    def _clear(self, error: BaseException, keep: bool) -> None:
        if not self._record.exists():
            return  # nothing was asked for
        word = 'stopped' if isinstance(error, KeyboardInterrupt) else f'{error or type(error).__name__}'
        try:
            if keep and (found := self.look()).state == READY:
                say(f'{self._job.name}: {word}; is kept, and costs money ({found})')
                return
            say(f'{self._job.name}: {word}; looks for what was made')
            for done in self.delete():
                say(f'{self._job.name}: {done}')
        except UserError as trouble:
            say(str(trouble))

    def _create(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps({**self._where, 'name': self._job.name, 'queued': self._queued}) + '\n')
        step = self.command()
        times = f'{self._slices} x ' if self._slices > 1 else ''
        say(f"{self._job.name}: asks for {times}{self._slice.type} in {self._where['zone']}")
        self._unsure = True  # until the command has ended by itself
        code, out, errors = gcloud.execute(step, gcloud.LONGEST_CREATE, lambda: bool(self.mine(self.look())))
        self._unsure = code == 124
        if code:
            error = gcloud.refused(step, code, errors or out)
            if error.status != gcloud.TAKEN:
                raise error
            found = self.look()
            self._own(found, error.said)
            if not self.mine(found):
                raise error
            # Another launcher of this job was faster.

    def _own(self, found: Found, said: str = '') -> None:
        """Raises Refused where a thing of this name is not the job's."""
        mine = self.mine(found)
        if others := [name for name, queue, _ in found.things if (name, queue) not in mine]:
            raise Refused(gcloud.TAKEN, said or f"{others[0]}: in use in {self._where['zone']} ({found}), and not by this job",
                          'choose another --name, use it as it is with node=, or delete it')


def load(job: Job) -> dict[str, str]:
    """Where a slice of the job may be, as it was written before it was made; {} where none was."""
    try:
        return json.loads((job.folder / 'slice.json').read_text())
    except (OSError, ValueError):
        return {}


def seconds(text: str, where: str) -> float:
    """'24h' -> 86400.

    Raises:
      UserError: it is no duration.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smhd])', text.strip())
    if not match:
        raise UserError(f'{where}={text}: not a duration; write for example {where}=90m, 24h or 2d', code='launch/bad-value')
    return float(match[1]) * {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[match[2]]


def clock(seconds: float) -> str:
    """'1:02:03'."""
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}' if minutes >= 60 else f'{minutes}:{seconds:02}'


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt
