"""A JobSet that runs: its pods' logs as they come, and how it ends, as the cluster tells."""
import dataclasses
import datetime
import json
import os
import pathlib
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from launch import outcome, steps
from launch.engines.jobset import jobset_manifest as manifest
from launch.lines import Lines, Sink, prefix, say
from launch.outcome import End
from launch.piped import Piped
from launch.steps import Failed, Run

POLL = 3.0  # seconds between two questions to the cluster
DRAIN = 10.0  # seconds for the last lines after the end
QUIET = 1.5  # seconds without a new line after which all that was written counts as passed on
COMPLAIN = 60.0  # seconds of silence of the cluster between two lines about it
SECONDARY = 0.9  # seconds by which a process that was killed counts as later: Kubernetes tells whole seconds, and of two that
# end within one, the one that chose its exit code is the cause


@dataclasses.dataclass(frozen=True)
class Pod:
    """One process, as the cluster sees it.

    Attributes:
      process: its number, over all slices.
      phase: Pending, Running, Succeeded, Failed, Unknown.
      started: it has written, or can write.
      code: its exit code, None while it has none.
      finished: when, in seconds since 1970.
      lost: its node is taken away, or gone.
      why: what it waits for.
    """

    process: int
    name: str
    uid: str
    node: str
    phase: str
    started: bool
    code: int | None
    finished: float
    lost: bool
    why: str


def pod(item: dict[str, Any], per_slice: int) -> Pod:
    """From what the cluster says of it."""
    meta, status, spec = item['metadata'], item.get('status', {}), item.get('spec', {})
    notes = {**meta.get('annotations', {}), **meta.get('labels', {})}
    process = (int(notes.get('jobset.sigs.k8s.io/job-index', 0)) * per_slice
               + int(notes.get('batch.kubernetes.io/job-completion-index', 0)))
    state = next((c.get('state', {}) for c in status.get('containerStatuses', []) if c['name'] == manifest.CONTAINER), {})
    ended, waiting = state.get('terminated'), state.get('waiting', {})
    conditions = {c['type']: c for c in status.get('conditions', [])}
    unscheduled = conditions.get('PodScheduled', {})
    words = waiting if waiting else unscheduled if unscheduled.get('status') == 'False' else {}
    return Pod(process, meta['name'], meta['uid'], spec.get('nodeName', ''), status.get('phase', 'Unknown'),
               bool(ended or 'running' in state), ended['exitCode'] if ended else None,
               _seconds(ended.get('finishedAt')) if ended else 0.0,
               conditions.get('DisruptionTarget', {}).get('status') == 'True' or status.get('phase') == 'Unknown',
               ': '.join(filter(None, (words.get('reason', ''), words.get('message', '')))))


def _seconds(text: str | None) -> float:
    """Of an RFC 3339 time since 1970."""
    return datetime.datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp() if text else 0.0


def condition(jobset: dict[str, Any]) -> dict[str, Any]:
    """The condition that ended it ('Completed', 'Failed'), {} while it goes on."""
    found = jobset.get('status', {}).get('conditions', [])
    return next((c for c in found if c['type'] in ('Completed', 'Failed') and c['status'] == 'True'), {})


def ask(kubectl: Callable[..., tuple[str, ...]], name: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The JobSet of that name (None: there is none) and its pods.

    Raises:
      Failed: the cluster does not answer, or says no.
    """
    run = Run(kubectl('get', 'jobsets.jobset.x-k8s.io,pods', f'--selector={manifest.LABEL}={name}', '--output=json',
                      '--request-timeout=20s'))
    text = steps.execute(run, seconds=40.0)
    try:
        items = json.loads(text)['items']
    except (ValueError, KeyError, TypeError):
        raise Failed(run, None, '', 'it answered no JSON') from None
    return (next((item for item in items if item['kind'] == 'JobSet'), None),
            [item for item in items if item['kind'] == 'Pod'])


class Follower:
    """The log of one pod: `kubectl logs -f`, taken up again at the last line where it was cut.

    Attributes:
      open: the connection is there.
      whole: it was made when the process had ended: no line comes after it.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], name: str, since: Sequence[str]):
        self._argv = kubectl('logs', '--follow', '--timestamps', f'--container={manifest.CONTAINER}', name)
        self._since, self._last, self._rest = tuple(since), b'', b''
        self.piped = Piped((*self._argv, *self._since))
        self.open, self.whole = True, False

    def again(self) -> None:
        """From where it was cut."""
        since = (f'--since-time={self._last.decode()}',) if self._last else self._since
        self.piped, self._rest, self.open = Piped((*self._argv, *since)), b'', True

    def feed(self, data: bytes, lines: Lines) -> bool:
        """Passes on what is new, and says whether anything was; each line has its time in front, and they are in order."""
        new = False
        whole, newline, self._rest = (self._rest + data).rpartition(b'\n')
        for line in whole.split(b'\n') if newline else ():
            when, _, text = line.partition(b' ')
            if when[:4].isdigit() and when.endswith(b'Z'):
                if self._last and _later(self._last) >= _later(when):
                    continue
                self._last = when
            else:
                text = line
            lines.feed(text + b'\n')
            new = True
        return new

    def cut(self, lines: Lines) -> None:
        """There is no more to come, from this connection."""
        if self._rest:
            self.feed(b'\n', lines)
        self.open = False


def _later(when: bytes) -> tuple[bytes, bytes]:
    """Orders '2026-01-01T00:00:00Z' and '2026-01-01T00:00:00.5Z'; trailing zeros are left out of the fraction."""
    second, _, fraction = when.rstrip(b'Z').partition(b'.')
    return second, fraction.ljust(9, b'0')


class Group:
    """The processes of a JobSet.

    Args:
      kubectl: makes the argument vector of a kubectl command.
      name: of the JobSet.
      workers, per_slice: how many processes there are, in all and in a slice.
      logs: the folder that keeps the output of each here.
      whole: their logs from the beginning, else the last lines and what follows.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], name: str, workers: int, per_slice: int, logs: pathlib.Path, *,
                 whole: bool = True):
        self.running, self.stopped, self.only = True, False, None
        self._kubectl, self._name, self._per_slice, self._whole = kubectl, name, per_slice, whole
        self._lines, self._files = self._open(workers, logs, fresh=whole)
        self._selector = selectors.DefaultSelector()
        self._followers: dict[str, tuple[Pod, Follower]] = {}
        self._pods: dict[int, Pod] = {}
        self._final: dict[str, Any] | None = None
        self._next, self._over, self._answered, self._moved = 0.0, 0.0, time.monotonic(), time.monotonic()
        self._told, self._restarts, self._asked = '', None, False

    @property
    def idle(self) -> bool:
        """All that was written until now has been passed on."""
        return self._asked and time.monotonic() - self._moved > QUIET

    def wait(self, seconds: float) -> list[End]:
        """Passes output on for at most so long; all ends together, when the JobSet itself has ended."""
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else time.sleep(min(seconds, 0.2)) or ():
            self._read(*key.data)
        now = time.monotonic()
        if self.running and self._final is None and now >= self._next:
            self._look()
            self._next = time.monotonic() + POLL
        if self._final is not None and self.running and (now > self._over or not any(f.open for _, f in
                                                                                     self._followers.values())):
            self.running = False
            return self._ends()
        return []

    def signal(self, number: int) -> None:
        """SIGTERM: the JobSet is deleted, and with it its pods, each after its grace. SIGKILL: its pods at once."""
        if not self.running or self._final is not None:
            return
        argv = (self._kubectl('delete', 'jobsets.jobset.x-k8s.io', self._name, '--cascade=foreground', '--wait=false',
                              '--ignore-not-found') if number == signal.SIGTERM else
                self._kubectl('delete', 'pods', f'--selector={manifest.LABEL}={self._name}', '--grace-period=0', '--force',
                              '--wait=false', '--ignore-not-found'))
        try:
            steps.execute(Run(argv), seconds=60.0)
        except Failed as error:
            say(f'{self._name}: {error}')
        self._next = 0.0

    def stop(self) -> None:
        """The JobSet that is deleted is the word that others see."""
        self.stopped = True

    def tail(self, process: int) -> list[str]:
        """Its last lines."""
        return [line.decode(errors='replace') for line in self._lines[process].tail] if process < len(self._lines) else []

    def close(self) -> None:
        """Follows its logs no longer."""
        for _, follower in self._followers.values():
            if follower.open:
                self._leave(follower)
        self._selector.close()
        for fd in self._files:
            os.close(fd)
        self._files = []

    def _open(self, workers: int, logs: pathlib.Path, fresh: bool) -> tuple[list[Lines], list[int]]:
        """Where the output of each process goes; that it cannot be kept stops nobody."""
        out, files, lines = Sink(1, 'stdout'), [], []
        for process in range(workers):
            sinks = {out: True}
            try:
                logs.mkdir(parents=True, exist_ok=True)
                how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND)
                files.append(os.open(logs / f'{process}.log', how, 0o666))
                sinks[Sink(files[-1], f'{logs}/{process}.log')] = False
            except OSError as error:
                if not process:
                    say(f'{logs}: no logs are kept ({error.strerror})')
            lines.append(Lines(prefix(process, workers, os.isatty(1)), sinks))
        return lines, files

    def _read(self, process: int, follower: Follower) -> None:
        data = follower.piped.read()
        lines = self._lines[process] if self.only in (None, process) else Lines(b'', {})
        if data:
            if follower.feed(data, lines):
                self._moved = time.monotonic()
        elif data == b'':
            follower.cut(lines)
            self._leave(follower)
            seen = self._pods.get(process)
            if seen and seen.code is not None and not follower.whole and self._followers.get(seen.uid, (0, 0))[1] is follower:
                follower.again()
                self._attach(seen, follower)

    def _leave(self, follower: Follower) -> None:
        self._selector.unregister(follower.piped)
        follower.piped.close()
        follower.open = False

    def _look(self) -> None:
        """Asks the cluster; what it says is new is said."""
        try:
            jobset, items = ask(self._kubectl, self._name)
        except Failed as error:
            if time.monotonic() - self._answered > COMPLAIN:
                self._answered = time.monotonic()
                say(f'{self._name}: the cluster does not answer, and is asked again: {error}')
            return
        self._answered = time.monotonic()
        for item in items:
            self._see(pod(item, self._per_slice), bool(item['metadata'].get('deletionTimestamp')))
        if not self._asked:
            self._asked, self._moved = True, time.monotonic()
        if jobset is None or jobset['metadata'].get('deletionTimestamp'):
            self.stopped = True
            if jobset is None and not items:
                self._finish({'type': 'Deleted', 'message': 'the JobSet was deleted'})
            return
        self._tell(jobset)
        if ended := condition(jobset):
            self._finish(ended)

    def _finish(self, ended: dict[str, Any]) -> None:
        self._final, self._over = ended, time.monotonic() + DRAIN

    def _see(self, seen: Pod, leaving: bool) -> None:
        """Keeps the latest pod of each process, and follows its log."""
        known = self._pods.get(seen.process)
        if known is None or known.uid == seen.uid or not leaving:
            self._pods[seen.process] = seen
        if seen.uid not in self._followers:
            if seen.started and seen.process < len(self._lines):
                since = () if self._whole or known is not None else ('--tail=10',)
                self._moved = time.monotonic()
                self._attach(seen, Follower(self._kubectl, seen.name, since))
            return
        _, follower = self._followers[seen.uid]
        if not follower.open and not follower.whole and not leaving:  # cut, or read to its end before that was known
            follower.again()
            self._attach(seen, follower)

    def _attach(self, seen: Pod, follower: Follower) -> None:
        self._followers[seen.uid] = seen, follower
        follower.whole = seen.code is not None
        self._selector.register(follower.piped, selectors.EVENT_READ, (seen.process, follower))

    def _tell(self, jobset: dict[str, Any]) -> None:
        """Restarts, and what pods wait for."""
        restarts = jobset.get('status', {}).get('restarts', 0)
        if self._restarts is not None and restarts > self._restarts:
            reasons = [c.get('message', '') for c in jobset['status'].get('conditions', []) if c['type'] == 'RestartingJobSet']
            say(f"{self._name}: the JobSet starts again, restart {restarts}{': ' if reasons else ''}{''.join(reasons)}")
        self._restarts = restarts
        waiting = [found for found in self._pods.values() if not found.started]
        text = ''
        if jobset['spec'].get('suspend'):
            text = 'waits in its queue'
        elif waiting or len(self._pods) < len(self._lines):
            first = min(waiting, key=lambda found: found.process) if waiting else None
            text = (f'{len(self._pods) - len(waiting)} of {len(self._lines)} processes have started'
                    + (f'; {first.name} waits: {first.why}' if first and first.why else ''))
        if text and text != self._told:
            say(f'{self._name}: {text}')
        self._told = text

    def _ends(self) -> list[End]:
        """Of each process, the last one that had its number; with a stand-in where the JobSet failed and no process did."""
        now, since = time.monotonic(), time.monotonic() - time.time()
        ends = []
        for process, seen in sorted(self._pods.items()):
            code = _code(seen, self._final['type'])
            when = min(now, seen.finished + since) if seen.finished else now
            ends.append(End(process, code, when + (SECONDARY if code < 0 else 0.0), seen.node or seen.name))
        if self._final['type'] == 'Failed' and all(end.code == outcome.DONE for end in ends):
            say(f"{self._name}: {self._final.get('reason', '')}: {self._final.get('message', '')}")
            ends = [End(0, outcome.FAILED, now), *ends[1:]]
        if self._final['type'] == 'Deleted' and not ends:
            ends = [End(0, -signal.SIGTERM, now)]
        return ends


def _code(seen: Pod, final: str) -> int:
    """Its exit code; -9 where it was killed; LOST where its node is gone, which is no failure of it."""
    if final == 'Completed':
        return outcome.DONE
    if seen.code is None:
        return outcome.LOST if seen.lost else -signal.SIGTERM
    if seen.lost and seen.code != outcome.DONE:
        return outcome.LOST
    return 128 - seen.code if 128 < seen.code < 160 else seen.code
