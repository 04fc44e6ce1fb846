"""A running JobSet: its state and its end as the cluster reports them, and its pods' logs as they are written."""
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from launch import outcome, steps
from launch.engines.jobset import jobset_manifest as manifest
from launch.engines.jobset.pod_logs import PodLogs
from launch.engines.jobset.pods import Pod, condition, pod, query
from launch.lines import log
from launch.outcome import End
from launch.steps import Failed, Run

POLL_S = 3.0  # between two queries of the cluster
DRAIN_S = 10.0  # wait for the last lines after the end
SILENCE_WARNING_S = 60.0  # between two warnings that the cluster does not answer
KILLED_LATER_S = 0.9  # added to the end of a killed process: Kubernetes reports whole seconds, and of two ends within one
# second the cause is the process that chose its exit code


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
        self._kubectl, self._name, self._workers, self._per_slice = kubectl, name, workers, per_slice
        self._logs = PodLogs(kubectl, workers, logs, whole)
        self._final: dict[str, Any] | None = None
        self._next_query, self._drain_until, self._last_answer = 0.0, 0.0, time.monotonic()
        self._shown, self._restarts, self._queried = '', None, False

    @property
    def idle(self) -> bool:
        """Whether all output so far has been printed."""
        return self._queried and self._logs.idle

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns all ends together once the JobSet has ended."""
        self._logs.only = self.only
        self._logs.read(seconds)
        now = time.monotonic()
        if self.running and self._final is None and now >= self._next_query:
            self._look()
            self._next_query = time.monotonic() + POLL_S
        if self._final is not None and self.running and (now > self._drain_until or not self._logs.open):
            self.running = False
            return ends(self._name, self._logs.latest(), self._final)
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
        return self._logs.tail(process)

    def close(self) -> None:
        """Stops following the logs."""
        self._logs.close()

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
            self._logs.follow(pod(item, self._per_slice), bool(item['metadata'].get('deletionTimestamp')))
        self._queried = True
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

    def _show(self, jobset: dict[str, Any]) -> None:
        """Prints restarts, and the reasons why pods wait."""
        restarts = jobset.get('status', {}).get('restarts', 0)
        if self._restarts is not None and restarts > self._restarts:
            reasons = [c.get('message', '') for c in jobset['status'].get('conditions', []) if c['type'] == 'RestartingJobSet']
            log(f"{self._name}: the JobSet restarts, restart {restarts}{': ' if reasons else ''}{''.join(reasons)}")
        self._restarts = restarts
        pods = self._logs.latest()
        waiting = [found for found in pods if not found.started]
        text = ''
        if jobset['spec'].get('suspend'):
            text = 'waits in its queue'
        elif waiting or len(pods) < self._workers:
            first = min(waiting, key=lambda found: found.process) if waiting else None
            text = (f'{len(pods) - len(waiting)} of {self._workers} processes have started'
                    + (f'; {first.name} waits: {first.why}' if first and first.why else ''))
        if text and text != self._shown:
            log(f'{self._name}: {text}')
        self._shown = text


def ends(name: str, pods: Sequence[Pod], final: dict[str, Any]) -> list[End]:
    """The end of the last pod of each rank; one stand-in if the JobSet failed and no process did."""
    now, since = time.monotonic(), time.monotonic() - time.time()
    found = []
    for seen in pods:
        code = _code(seen, final['type'])
        when = min(now, seen.finished + since) if seen.finished else now
        found.append(End(seen.process, code, when + (KILLED_LATER_S if code < 0 else 0.0), seen.node or seen.name))
    if final['type'] == 'Failed' and all(end.code == outcome.DONE for end in found):
        log(f"{name}: {final.get('reason', '')}: {final.get('message', '')}")
        found = [End(0, outcome.FAILED, now), *found[1:]]
    if final['type'] == 'Deleted' and not found:
        found = [End(0, -signal.SIGTERM, now)]
    return found


def _code(seen: Pod, final: str) -> int:
    """Its exit code; -9 if it was killed; LOST if its node is gone, which is not a failure of the program."""
    if final == 'Completed':
        return outcome.DONE
    if seen.code is None:
        return outcome.LOST if seen.lost else -signal.SIGTERM
    if seen.lost and seen.code != outcome.DONE:
        return outcome.LOST
    return outcome.from_shell(seen.code)
