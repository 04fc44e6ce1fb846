"""The checks of a cluster for a JobSet: it answers, has JobSet, grants the rights, and has the queue and the nodes."""
import json
import shlex

from launch import steps
from launch.engines import base
from launch.engines.base import Check
from launch.engines.jobset.jobset_manifest import KIND
from launch.steps import Failed, Run

INSTALL = 'install kubectl (with gcloud: gcloud components install kubectl gke-gcloud-auth-plugin)'
CRD = 'https://github.com/kubernetes-sigs/jobset'


def doctor(engine) -> list[Check]:
    """The checks for a `launch.engines.jobset.jobset.Engine`, each by one kubectl command."""
    checks, target = [base.installed('kubectl', INSTALL)], engine.target
    if not checks[0].ok:
        return checks
    query = lambda *words: _query(engine.kubectl(*words, '--request-timeout=10s'))
    answers, words = query('version', '--output=json')
    checks.append(Check(f'cluster ({shlex.join(engine.kubectl())})', answers,
                        json.loads(words)['serverVersion'].get('gitVersion', '') if answers else words,
                        'add context=… (kubectl config get-contexts), and log in: gcloud auth login'))
    if not answers:
        return checks
    checks.append(_crd(*query('get', 'crd', KIND, '--output=json'), patterns=bool(engine.job.restarts)))
    for verb, what in (('create', KIND), ('create', 'secrets'), ('delete', KIND), ('get', 'pods/log')):
        good, words = query('auth', 'can-i', verb, what)
        checks.append(Check(f'right to {verb} {what}', good, words or 'no', 'get a role from the owner of the namespace'))
    for kind, name in (('localqueues.kueue.x-k8s.io', target.queue), ('priorityclasses', target.priority),
                       ('serviceaccounts', target.service_account)):
        if name:
            good, words = query('get', kind, name, '--output=name')
            checks.append(Check(kind.partition('.')[0], good, words, 'choose another name, or have it created'))
    if target.type:
        machines = engine.types
        needed = (machines.hosts if machines.kind == 'tpu' else target.nodes) * target.slices
        labels = ','.join(f'{key}={value}' for key, value in machines.labels.items())
        good, words = query('get', 'nodes', *((f'--selector={labels}',) if labels else ()), '--output=name')
        count = len(words.split()) if good else 0
        checks.append(Check(f'nodes for {machines.name}', good and count >= needed,
                            f'{count} of {needed} ({labels or "any"})' if good else words,
                            'create a node pool of it; an autoscaled pool has no nodes before a job needs them'))
    return checks


def _query(argv: tuple[str, ...]) -> tuple[bool, str]:
    """(Whether a command succeeded, its output)."""
    try:
        return True, steps.execute(Run(argv), seconds=30.0).strip()
    except Failed as error:
        return False, str(error)


def _crd(good: bool, words: str, patterns: bool) -> Check:
    """Whether the cluster has JobSet, with its patterns of messages if they are needed."""
    if not good:
        return Check('JobSet', False, words, f'have its controller installed: {CRD}')
    versions = {version['name'] for version in json.loads(words)['spec']['versions'] if version.get('served')}
    return Check('JobSet', 'v1alpha2' in versions and (not patterns or 'onJobFailureMessagePatterns' in words),
                 ', '.join(sorted(versions)),
                 'update its controller: --max_restarts needs JobSet 0.10 or later; or leave --max_restarts out')
