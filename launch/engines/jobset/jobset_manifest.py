"""The JobSet of a job (jobset.x-k8s.io/v1alpha2), and the same for xpk.

    end of a process                   the JobSet
    2, 3, 4                            fails
    75, or its node is taken away      restarts, up to --max_preemptions; without limit if --max_restarts is set, because a
                                       JobSet counts only one of the two
    anything else                      restarts, up to --max_restarts

The processes of an array restart independently: failures up to --max_restarts each, preemptions without limit.
"""
import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

from bigjax.errors import NO, NONFINITE, PREEMPTED, USER
from launch.engines.jobset.gke_types import Machines
from launch.job import Job
from launch.steps import Run

KIND = 'jobsets.jobset.x-k8s.io'
LABEL = 'bigjax/job'  # of every object that a job creates
RECORD = 'bigjax/record'  # an annotation: the job, as `Job.text` writes it
WORKER = 'w'  # the only replicatedJob; a pod's stable name is NAME-w-SLICE-INDEX.NAME
CONTAINER = 'main'
PORT = 55527  # of the coordinator; each pod has an address of its own
KEPT_S = 7 * 24 * 3600  # after its end, for which its logs stay readable
FINAL = [USER, NONFINITE, NO]  # a restart does not change these
DISRUPTED = {'type': 'DisruptionTarget', 'status': 'True'}
FINAL_MESSAGE = 'failed with exit code [234] matching'  # as the Job's controller words it


def jobset(job: Job, target, machines: Machines) -> dict[str, Any]:
    """The whole manifest; it contains only the names of the variables of --env.

    Args:
      target: `launch.engines.jobset.jobset.Target`.
    """
    labels = {LABEL: job.name}
    together = machines.hosts > 1  # a slice of several machines is one node pool, which belongs to one job at a time
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        'metadata': {
            'name': job.name,
            'labels': {**labels, **({'kueue.x-k8s.io/queue-name': target.queue} if target.queue else {})},
            'annotations': {
                RECORD: json.dumps(json.loads(job.text())),
                **({'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'} if together else {})}},
        'spec': {
            'ttlSecondsAfterFinished': KEPT_S,
            'network': {'enableDNSHostnames': True, 'subdomain': job.name},
            'failurePolicy': failure_policy(job),
            'replicatedJobs': [{
                'name': WORKER,
                'replicas': target.slices,
                'template': {
                    'metadata': {'labels': labels},
                    'spec': {**counts(job, target, machines),
                             'template': {'metadata': {'labels': labels}, 'spec': pod(job, target, machines)}}}}]}}


def processes(job: Job, target, machines: Machines) -> int:
    """The number of pods in one slice: one per machine, or per share of an array."""
    return job.array or (machines.hosts if machines.kind == 'tpu' else target.nodes)


def counts(job: Job, target, machines: Machines) -> dict[str, Any]:
    """The Job's number of pods, and its policy on their ends."""
    number = processes(job, target, machines)
    same = {'completions': number, 'parallelism': number, 'completionMode': 'Indexed'}
    if job.array:
        rules = [{'action': 'FailIndex', 'onExitCodes': exits(FINAL)}]
        if job.preemptions:
            rules += [{'action': 'Ignore', 'onExitCodes': exits([PREEMPTED])},
                      {'action': 'Ignore', 'onPodConditions': [DISRUPTED]}]
        return {**same, 'backoffLimitPerIndex': job.restarts, 'podFailurePolicy': {'rules': rules}}
    rules = [{'action': 'FailJob', 'onExitCodes': exits(FINAL)}] if job.restarts else []
    if job.preemptions:
        rules += [{'action': 'FailJob', 'onExitCodes': exits([PREEMPTED])},
                  {'action': 'FailJob', 'onPodConditions': [DISRUPTED]}]
    return {**same, 'backoffLimit': 0, **({'podFailurePolicy': {'rules': rules}} if rules else {})}


def exits(codes: list[int]) -> dict[str, Any]:
    """The condition that the process ended with one of these codes."""
    return {'containerName': CONTAINER, 'operator': 'In', 'values': codes}


def failure_policy(job: Job) -> dict[str, Any]:
    """The JobSet's policy on the end of a Job.

    A Job reports whether a rule of its podFailurePolicy was met, and which one only in its message. Without --max_restarts the
    first is enough, because all rules are about preemptions; with it the message is matched, which needs JobSet 0.10.
    """
    if job.array:
        return {'maxRestarts': 0}
    met = {'onJobFailureReasons': ['PodFailurePolicy']}
    if not job.restarts:
        again = [{'name': 'preempted', 'action': 'RestartJobSet', **met}] if job.preemptions else []
        return {'maxRestarts': job.preemptions, 'rules': [*again, {'name': 'failed', 'action': 'FailJobSet'}]}
    again = [{'name': 'preempted', 'action': 'RestartJobSetAndIgnoreMaxRestarts', **met}] if job.preemptions else []
    final = {'name': 'final', 'action': 'FailJobSet', **met, 'onJobFailureMessagePatterns': [FINAL_MESSAGE]}
    return {'maxRestarts': job.restarts, 'rules': [final, *again]}


def pod(job: Job, target, machines: Machines) -> dict[str, Any]:
    """The pod of one process."""
    labels = dict(machines.labels)
    for item in target.selector:
        key, _, value = item.partition('=')
        labels[key] = value
    tolerations = [] if machines.kind == 'cpu' else [{'key': machines.resource, 'operator': 'Exists'}]
    if target.spot:
        labels['cloud.google.com/gke-spot'] = 'true'
        tolerations.append({'key': 'cloud.google.com/gke-spot', 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'})
    amount = {machines.resource: machines.count}
    container = {
        'name': CONTAINER,
        'image': target.image,
        'command': command(job, target),
        **({'workingDir': target.path} if target.path else {}),
        'env': environment(job, target, machines),
        **({'envFrom': [{'secretRef': {'name': secret(job)}}]} if job.env else {}),
        'resources': {'requests': amount} if machines.kind == 'cpu' else {'limits': amount},
        'volumeMounts': [{'name': 'shm', 'mountPath': '/dev/shm'}]}
    # Slices communicate over the data centre's network, which is faster without the pod network in between.
    host = {'hostNetwork': True, 'dnsPolicy': 'ClusterFirstWithHostNet'} if target.slices > 1 else {}
    return {
        'restartPolicy': 'Never',
        'terminationGracePeriodSeconds': math.ceil(job.grace),
        **host,
        **({'serviceAccountName': target.service_account} if target.service_account else {}),
        **({'priorityClassName': target.priority} if target.priority else {}),
        **({'nodeSelector': labels} if labels else {}),
        **({'tolerations': tolerations} if tolerations else {}),
        'containers': [container],
        'volumes': [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]}  # input workers need more than the default 64 MiB


def environment(job: Job, target, machines: Machines) -> list[dict[str, Any]]:
    """The environment by which the processes find each other.

    For TPUs of several machines GKE sets the addresses. Their number is set here as well: without it, slices that have not
    found each other would each train alone instead of waiting for the others. Elsewhere the coordinator is the DNS name of
    process 0, and each process reads its rank from JOB_COMPLETION_INDEX.
    """
    number = processes(job, target, machines)
    found = {'PYTHONUNBUFFERED': '1'}
    if job.array:
        index = {'fieldRef': {'fieldPath': "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        share = [{'name': 'BIGJAX_INDEX', 'valueFrom': index}, {'name': 'BIGJAX_SHARE', 'value': f'$(BIGJAX_INDEX)/{number}'}]
    else:
        share = []
    if job.array or number * target.slices == 1:
        found |= {'BIGJAX_PROCESSES': '1', 'BIGJAX_PROCESS': '0'}
    else:
        found |= {'BIGJAX_PROCESSES': str(number * target.slices)}
        if machines.kind != 'tpu':
            found |= {'BIGJAX_COORDINATOR': f'{job.name}-{WORKER}-0-0.{job.name}:{PORT}'}
    return [{'name': name, 'value': value} for name, value in found.items()] + share


def command(job: Job, target) -> list[str]:
    """The command as the first process of its container, which receives SIGTERM; $ is escaped from Kubernetes' expansion."""
    words = ['sh', '-c', f'set -e\n{target.setup}\nexec "$@"', 'sh', *job.command] if target.setup else list(job.command)
    return [word.replace('$', '$$') for word in words]


def secret(job: Job) -> str:
    """The name of the Secret with the values of --env."""
    return f'{job.name}-env'


def secret_step(job: Job, kubectl: Sequence[str]) -> Run:
    """The step that creates the Secret; its values pass through stdin alone, of the shell and of kubectl.

    Args:
      kubectl: the argument vector in front of a command.
    """
    kubectl = shlex.join(kubectl)
    rows = ''.join(f"  {key}: '$(printf %s \"${key}\" | base64 | tr -d '\\n')'\n" for key in job.env)
    script = (f"uid=$({kubectl} get {KIND} {job.name} --output='jsonpath={{.metadata.uid}}') || exit 1\n"
              f'{kubectl} create --filename=- <<END\n'
              f'apiVersion: v1\nkind: Secret\nmetadata:\n  name: {secret(job)}\n  labels:\n    {LABEL}: {job.name}\n'
              f'  ownerReferences:\n  - apiVersion: jobset.x-k8s.io/v1alpha2\n    kind: JobSet\n    name: {job.name}\n'
              f'    uid: $uid\ndata:\n{rows}END\n')
    return Run(('sh', '-s'), script, job.env, 'the values of --env, deleted with the JobSet')


def xpk(job: Job, target, machines: Machines) -> dict[str, str]:
    """{name: text}: the equivalent command line of xpk, and the names of --env."""
    kind = f'--tpu-type={machines.xpk}' if machines.kind == 'tpu' else f'--device-type={machines.xpk}'
    line = shlex.join(job.command)
    words = ['xpk', 'workload', 'create', f'--cluster={target.cluster}', f'--project={target.project}', f'--zone={target.zone}',
             f'--workload={job.name}', kind, f'--num-slices={target.slices}', f'--num-nodes={target.nodes}',
             f'--docker-image={target.image}', f"--command={target.setup + ' && ' if target.setup else ''}{line}",
             f'--max-restarts={job.restarts or job.preemptions}', f'--restart-on-exit-codes={PREEMPTED}',
             f'--termination-grace-period-seconds={math.ceil(job.grace)}', '--no-use-parallel-containers']
    words += [f'--priority={target.priority}'] if target.priority else []
    words += ['--env-file=xpk.env'] if job.env else []
    names = {'xpk.env': ''.join(f'{name}\n' for name in job.env)} if job.env else {}
    return {'xpk.sh': f'# to switch off usage reports: xpk config set send-telemetry false\n{shlex.join(words)}\n', **names}
