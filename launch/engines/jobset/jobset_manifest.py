"""The JobSet of a job (jobset.x-k8s.io/v1alpha2), and the same for xpk.

    what happens to a process          the JobSet
    2, 3, 4                            fails
    75, or its node is taken away      is started again, up to --max_preemptions; without end where --max_restarts is set, as
                                       a JobSet counts only one of the two
    anything else                      is started again, up to --max_restarts

Of an array each process is started again by itself: failures up to --max_restarts each, preemptions without end.
"""
import json
import math
import shlex
from typing import Any

from launch.engines.jobset.gke_types import Machines
from launch.job import Job

LABEL = 'bigjax/job'  # of everything that a job makes
RECORD = 'bigjax/record'  # an annotation: the job, as `Job.text` writes it
WORKER = 'w'  # the only replicatedJob; a pod's stable name is NAME-w-SLICE-INDEX.NAME
CONTAINER = 'main'
PORT = 55527  # of the coordinator, where the processes have addresses of their own
KEPT = 7 * 24 * 3600  # seconds after its end in which its logs can still be read
FINAL = [2, 3, 4]  # exit codes after which starting again does not help
PREEMPTED = 75
DISRUPTED = {'type': 'DisruptionTarget', 'status': 'True'}
FINAL_MESSAGE = 'failed with exit code [234] matching'  # as the Job's controller words it


def jobset(job: Job, target, machines: Machines) -> dict[str, Any]:
    """The whole manifest; of the variables of --env it has the names alone.

    Args:
      target: `launch.engines.jobset.jobset.Target`.
    """
    labels = {LABEL: job.name}
    together = machines.hosts > 1  # a slice of several machines is one node pool, which is another job's or this one's
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
            'ttlSecondsAfterFinished': KEPT,
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
    """Pods of one slice: one for each machine, or share of an array."""
    return job.array or (machines.hosts if machines.kind == 'tpu' else target.nodes)


def counts(job: Job, target, machines: Machines) -> dict[str, Any]:
    """How many pods a Job has, and what their ends mean for it."""
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
    """The process has ended with one of these."""
    return {'containerName': CONTAINER, 'operator': 'In', 'values': codes}


def failure_policy(job: Job) -> dict[str, Any]:
    """What the end of a Job means for the JobSet.

    A Job says only whether a rule of its podFailurePolicy was met, and in words which. Without --max_restarts that is enough:
    its rules are about preemptions. With it the words are read, which JobSet 0.10 can.
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
    """One process and its machine."""
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
    # Slices reach each other through the network of the data centre, which is faster without that of the pods between.
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
        'volumes': [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]}  # the usual 64 MiB are too little for input workers


def environment(job: Job, target, machines: Machines) -> list[dict[str, Any]]:
    """How the processes find each other.

    On TPUs of several machines GKE tells them; their number is said too, so that slices which have not heard of each other
    wait for the others and say so, instead of training each for itself. Elsewhere process 0 is known by its name, and each
    process reads its own number from JOB_COMPLETION_INDEX.
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
    """The program as the first process of its container, which hears SIGTERM itself; $ stands for itself."""
    words = ['sh', '-c', f'set -e\n{target.setup}\nexec "$@"', 'sh', *job.command] if target.setup else list(job.command)
    return [word.replace('$', '$$') for word in words]


def secret(job: Job) -> str:
    """The name of what keeps the values of --env in the cluster."""
    return f'{job.name}-env'


def xpk(job: Job, target, machines: Machines) -> dict[str, str]:
    """{name: text}: the command line of xpk that asks for the same, and the names of --env."""
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
    return {'xpk.sh': f'# xpk reports its use until told: xpk config set send-telemetry false\n{shlex.join(words)}\n', **names}
