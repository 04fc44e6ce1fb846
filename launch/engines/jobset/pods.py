"""A running JobSet: its pods' logs as they are written, its state, and its end as the cluster reports it."""
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
from launch.lines import Lines, Sink, log, log_file, prefix
from launch.outcome import End
from launch.piped import Piped
from launch.steps import Failed, Run

POLL_S = 3.0  # between two queries of the cluster
DRAIN_S = 10.0  # wait for the last lines after the end
IDLE_S = 1.5  # without a new line for so long, the output so far is complete
SILENCE_WARNING_S = 60.0  # between two warnings that the cluster does not answer
KILLED_LATER_S = 0.9  # added to the end of a killed process: Kubernetes reports whole seconds, and of two ends within one
# second the cause is the process that chose its exit code


@dataclasses.dataclass(frozen=True)
class Pod:
    """One process as the cluster reports it.

    Attributes:
      process: its rank over all slices.
      phase: Pending, Running, Succeeded, Failed, Unknown.
      started: whether its container runs or has ended.
      code: its exit code, None until it ends.
      finished: the time of its end in Unix seconds.
      lost: whether its node was taken away.
      why: the reason why it waits.
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
    """The `Pod` of a pod's JSON."""
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
    """The Unix seconds of an RFC 3339 time."""
    return datetime.datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp() if text else 0.0


def condition(jobset: dict[str, Any]) -> dict[str, Any]:
    """The condition that ended it ('Completed', 'Failed'), {} while it runs."""
    found = jobset.get('status', {}).get('conditions', [])
    return next((c for c in found if c['type'] in ('Completed', 'Failed') and c['status'] == 'True'), {})


def query(kubectl: Callable[..., tuple[str, ...]], name: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Returns the JobSet of that name (None if there is none) and its pods.

    Raises:
      Failed: the cluster does not answer, or refuses.
    """
    run = Run(kubectl('get', 'jobsets.jobset.x-k8s.io,pods', f'--selector={manifest.LABEL}={name}', '--output=json',
                      '--request-timeout=20s'))
    text = steps.execute(run, seconds=40.0)
    try:
        items = json.loads(text)['items']
    except (ValueError, KeyError, TypeError):
        raise Failed(run, None, '', 'expected JSON, got other output') from None
    return (next((item for item in items if item['kind'] == 'JobSet'), None),
            [item for item in items if item['kind'] == 'Pod'])


class Follower:
    """The log of one pod, from `kubectl logs -f`; after a cut it resumes at the last line.

    Attributes:
      open: whether the connection exists.
      whole: whether it was made after the process had ended, so that it delivers the last line.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], name: str, since: Sequence[str]):
        self._argv = kubectl('logs', '--follow', '--timestamps', f'--container={manifest.CONTAINER}', name)
        self._since, self._last, self._rest = tuple(since), b'', b''
        self.piped = Piped((*self._argv, *self._since))
        self.open, self.whole = True, False

    def resume(self) -> None:
        """Connects again from the last line on."""
        since = (f'--since-time={self._last.decode()}',) if self._last else self._since
        self.piped, self._rest, self.open = Piped((*self._argv, *since)), b'', True

    def feed(self, data: bytes, lines: Lines) -> bool:
        """Prints the new lines; returns whether there were any. Each line begins with its time, in increasing order."""
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

    def end(self, lines: Lines) -> None:
        """Handles the end of the connection."""
        if self._rest:
            self.feed(b'\n', lines)
        self.open = False


def _later(when: bytes) -> tuple[bytes, bytes]:
    """A sort key of times such as '2026-01-01T00:00:00Z' and '2026-01-01T00:00:00.5Z', which omit trailing zeros."""
    second, _, fraction = when.rstrip(b'Z').partition(b'.')
    return second, fraction.ljust(9, b'0')


class Group:
    """The processes of a JobSet.

    Args:
      kubectl: makes the argument vector of a kubectl command.
      name: the JobSet's name.
      workers, per_slice: the number of processes, in all and per slice.
      logs: the local folder that keeps the output of each.
      whole: print the logs from the beginning, else from their last lines on.
    """

    def __init__(self, kubectl: Callable[..., tuple[str, ...]], name: str, workers: int, per_slice: int, logs: pathlib.Path, *,
                 whole: bool = True):
        self.running, self.stopped, self.only = True, False, None
        self._kubectl, self._name, self._per_slice, self._whole = kubectl, name, per_slice, whole
        self._files = [log_file(logs / f'{process}.log', fresh=whole) for process in range(workers)]
        out = Sink(1, 'stdout')
        self._lines = [Lines(prefix(process, workers, os.isatty(1)), {out: True, **({file: False} if file else {})})
                       for process, file in enumerate(self._files)]
        self._selector = selectors.DefaultSelector()
        self._followers: dict[str, tuple[Pod, Follower]] = {}
        self._pods: dict[int, Pod] = {}
        self._final: dict[str, Any] | None = None
        self._next_query, self._drain_until, self._last_answer, self._last_output = 0.0, 0.0, time.monotonic(), time.monotonic()
        self._shown, self._restarts, self._queried = '', None, False

    @property
    def idle(self) -> bool:
        """Whether all output so far has been printed."""
        return self._queried and time.monotonic() - self._last_output > IDLE_S

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns all ends together once the JobSet has ended."""
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else time.sleep(min(seconds, 0.2)) or ():
            self._read(*key.data)
        now = time.monotonic()
        if self.running and self._final is None and now >= self._next_query:
            self._look()
            self._next_query = time.monotonic() + POLL_S
        followed = any(follower.open for _, follower in self._followers.values())
        if self._final is not None and self.running and (now > self._drain_until or not followed):
            self.running = False
            return self._ends()
        return []

    def signal(self, number: int) -> None:
        """Deletes the JobSet at SIGTERM, and with it its pods, each after its grace; at SIGKILL its pods at once."""
        if not self.running or self._final is not None:
            return
        argv = (self._kubectl('delete', 'jobsets.jobset.x-k8s.io', self._name, '--cascade=foreground', '--wait=false',
                              '--ignore-not-found') if number == signal.SIGTERM else
                self._kubectl('delete', 'pods', f'--selector={manifest.LABEL}={self._name}', '--grace-period=0', '--force',
                              '--wait=false', '--ignore-not-found'))
        try:
            steps.execute(Run(argv), seconds=60.0)
        except Failed as error:
            log(f'{self._name}: {error}')
        self._next_query = 0.0

    def stop(self) -> None:
        """Needs no mark: other launchers see that the JobSet is deleted."""
        self.stopped = True

    def tail(self, process: int) -> list[str]:
        """The last lines of one process."""
        return self._lines[process].last() if process < len(self._lines) else []

    def close(self) -> None:
        """Stops following the logs."""
        for _, follower in self._followers.values():
            if follower.open:
                self._drop(follower)
        self._selector.close()
        for file in filter(None, self._files):
            file.close()

    def _read(self, process: int, follower: Follower) -> None:
        data = follower.piped.read()
        lines = self._lines[process] if self.only in (None, process) else Lines(b'', {})
        if data:
            if follower.feed(data, lines):
                self._last_output = time.monotonic()
        elif data == b'':
            follower.end(lines)
            self._drop(follower)
            seen = self._pods.get(process)
            if seen and seen.code is not None and not follower.whole and self._followers.get(seen.uid, (0, 0))[1] is follower:
                follower.resume()
                self._attach(seen, follower)

    def _drop(self, follower: Follower) -> None:
        self._selector.unregister(follower.piped)
        follower.piped.close()
        follower.open = False

    def _look(self) -> None:
        """Queries the cluster; prints what has changed."""
        try:
            jobset, items = query(self._kubectl, self._name)
        except Failed as error:
            if time.monotonic() - self._last_answer > SILENCE_WARNING_S:
                self._last_answer = time.monotonic()
                log(f'{self._name}: no answer from the cluster, retrying: {error}')
            return
        self._last_answer = time.monotonic()
        for item in items:
            self._see(pod(item, self._per_slice), bool(item['metadata'].get('deletionTimestamp')))
        if not self._queried:
            self._queried, self._last_output = True, time.monotonic()
        if jobset is None or jobset['metadata'].get('deletionTimestamp'):
            self.stopped = True
            if jobset is None and not items:
                self._finish({'type': 'Deleted', 'message': 'the JobSet was deleted'})
            return
        self._show(jobset)
        if ended := condition(jobset):
            self._finish(ended)

    def _finish(self, ended: dict[str, Any]) -> None:
        self._final, self._drain_until = ended, time.monotonic() + DRAIN_S

    def _see(self, seen: Pod, leaving: bool) -> None:
        """Keeps the latest pod of each process, and follows its log."""
        known = self._pods.get(seen.process)
        if known is None or known.uid == seen.uid or not leaving:
            self._pods[seen.process] = seen
        if seen.uid not in self._followers:
            if seen.started and seen.process < len(self._lines):
                since = () if self._whole or known is not None else ('--tail=10',)
                self._last_output = time.monotonic()
                self._attach(seen, Follower(self._kubectl, seen.name, since))
            return
        _, follower = self._followers[seen.uid]
        if not follower.open and not follower.whole and not leaving:  # cut, or read to its end before the pod's end was seen
            follower.resume()
            self._attach(seen, follower)

    def _attach(self, seen: Pod, follower: Follower) -> None:
        self._followers[seen.uid] = seen, follower
        follower.whole = seen.code is not None
        self._selector.register(follower.piped, selectors.EVENT_READ, (seen.process, follower))

    def _show(self, jobset: dict[str, Any]) -> None:
        """Prints restarts, and the reasons why pods wait."""
        restarts = jobset.get('status', {}).get('restarts', 0)
        if self._restarts is not None and restarts > self._restarts:
            reasons = [c.get('message', '') for c in jobset['status'].get('conditions', []) if c['type'] == 'RestartingJobSet']
            log(f"{self._name}: the JobSet restarts, restart {restarts}{': ' if reasons else ''}{''.join(reasons)}")
        self._restarts = restarts
        waiting = [found for found in self._pods.values() if not found.started]
        text = ''
        if jobset['spec'].get('suspend'):
            text = 'waits in its queue'
        elif waiting or len(self._pods) < len(self._lines):
            first = min(waiting, key=lambda found: found.process) if waiting else None
            text = (f'{len(self._pods) - len(waiting)} of {len(self._lines)} processes have started'
                    + (f'; {first.name} waits: {first.why}' if first and first.why else ''))
        if text and text != self._shown:
            log(f'{self._name}: {text}')
        self._shown = text

    def _ends(self) -> list[End]:
        """The end of the last pod of each rank; one stand-in if the JobSet failed and no process did."""
        now, since = time.monotonic(), time.monotonic() - time.time()
        ends = []
        for process, seen in sorted(self._pods.items()):
            code = _code(seen, self._final['type'])
            when = min(now, seen.finished + since) if seen.finished else now
            ends.append(End(process, code, when + (KILLED_LATER_S if code < 0 else 0.0), seen.node or seen.name))
        if self._final['type'] == 'Failed' and all(end.code == outcome.DONE for end in ends):
            log(f"{self._name}: {self._final.get('reason', '')}: {self._final.get('message', '')}")
            ends = [End(0, outcome.FAILED, now), *ends[1:]]
        if self._final['type'] == 'Deleted' and not ends:
            ends = [End(0, -signal.SIGTERM, now)]
        return ends


def _code(seen: Pod, final: str) -> int:
    """Its exit code; -9 if it was killed; LOST if its node is gone, which is not a failure of the program."""
    if final == 'Completed':
        return outcome.DONE
    if seen.code is None:
        return outcome.LOST if seen.lost else -signal.SIGTERM
    if seen.lost and seen.code != outcome.DONE:
        return outcome.LOST
    return outcome.from_shell(seen.code)
