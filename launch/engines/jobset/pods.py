"""A JobSet and its pods as the cluster reports them."""
import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any

from launch import steps
from launch.engines.jobset import jobset_manifest as manifest
from launch.steps import Failed, Run


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


def state(jobset: dict[str, Any]) -> str:
    """A JobSet in words: 'running, 2 restarts'."""
    ended = condition(jobset)
    name = ended.get('type') or ('queued' if jobset['spec'].get('suspend') else 'running')
    return (f"{name}, {jobset.get('status', {}).get('restarts', 0)} restarts"
            + (f": {ended['message']}" if ended.get('message') else ''))


def table(items: Sequence[dict[str, Any]], per_slice: int) -> list[str]:
    """One line per pod: its process, name, phase, exit code, node, and why it waits."""
    rows = []
    for seen in sorted((pod(item, per_slice) for item in items), key=lambda seen: (seen.process, seen.name)):
        code = '' if seen.code is None else f' exit code {seen.code}'
        rows.append(f'{seen.process:4} {seen.name} {seen.phase}{code} {seen.node or "no node"} {seen.why}'.rstrip())
    return rows


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
