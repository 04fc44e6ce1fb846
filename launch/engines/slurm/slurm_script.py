"""The script for sbatch: the resources it requests from SLURM, the command under srun, and the decision about its end.

SLURM itself restarts a job after the failure of a node; the rest is decided here, on the first node of the job, so that no
launcher has to be present. The script reads srun's messages about each task: the first bad end is the cause, and the other
tasks get SIGTERM (at once, or after JOINT_EXIT_S seconds for an exit that all reach together), and after the grace SIGKILL.
srun's own --kill-on-bad-exit would send SIGKILL at once, while the others save. Then

    0 2 3 4                             the job ends
    75, or a node that does not answer  `scontrol requeue`, while there are preemptions left
    anything else                       `scontrol requeue`, while there are restarts left
    any, after scancel, `launch kill` or another user's requeue: left to SLURM

The tasks get SIGTERM from SLURM itself: `notice` seconds before the time limit (--signal), at scancel, at a requeue. The script
gets those of the last two as well, and outlives them until srun has ended. Each attempt leaves a line in the file `ends` of the
job's folder (`read_ends` reads them); the output of srun and of the script is in logs/batch.log.
"""
import dataclasses
import math
import os
import pathlib
import re
import shlex

from launch.engines.slurm.slurm_target import Target
from launch.job import Job, line

JOINT_EXIT_S = 5  # time for the other tasks to reach an exit that all reach together
QUICK_FAILURE_S, MAX_QUICK_FAILURES = 10, 3  # this many failures in a row, each so soon after the start, end the retries
EXPORTED = ('HOME', 'USER', 'LOGNAME', 'SHELL', 'LANG', 'PATH', 'LD_LIBRARY_PATH', 'PYTHONPATH', 'VIRTUAL_ENV', 'CONDA_PREFIX',
            'BIGJAX_DATA')
"""The variables that the job inherits from its submission, besides --env: the code runs from a shared file system, so the
programs do as well."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The end of one start of the job.

    Attributes:
      code: the exit code of a shell (137: signal 9).
      seconds: its duration.
      then: 'over'; 'preempted', 'lost' (a node does not answer) or 'failed' if it was requeued for that reason; 'left' if
        SLURM decides.
      task: the process that is the cause.
      where: its node.
    """

    code: int
    seconds: int
    then: str
    task: int = 0
    where: str = ''


def read_ends(text: str) -> list[Attempt]:
    """The attempts recorded in the file `ends`, without an incomplete last line."""
    found = re.findall(r'^(\d+) (\d+) (over|preempted|lost|failed|left) (\d+) (\S*)\n', text, re.MULTILINE)
    return [Attempt(int(code), int(seconds), then, int(task), where) for code, seconds, then, task, where in found]


def requested(job: Job, target: Target) -> dict[str, str]:
    """The options of sbatch for the resources, {name: value}."""
    options = {
        'nodes': str(target.nodes), 'ntasks-per-node': str(target.tasks_per_node),
        'gres': f'gpu:{target.gpus}' if target.gpus_per_node else '', 'cpus-per-task': str(target.cpus or ''),
        'mem': target.memory, 'partition': target.partition, 'account': target.account, 'qos': target.qos,
        'constraint': target.constraint, 'time': target.time, 'signal': f'TERM@{target.notice}' if target.notice else '',
        'array': f'0-{job.array - 1}' if job.array else ''}
    return {name: value for name, value in options.items() if value}


def script(job: Job, target: Target, *, folder: pathlib.Path, logs: pathlib.Path) -> str:
    """The whole text; `folder` and `logs` are the job's folders, which all nodes share."""
    tasks = target.nodes * target.tasks_per_node
    devices = target.gpus_per_node if target.tasks == 'node' else 0  # that each process drives
    output = f"{_pattern(logs)}/batch{'.%a' if job.array else ''}.log"
    always = {'job-name': job.name, 'comment': f'bigjax:{folder}', 'output': output, 'open-mode': 'append',
              'export': ','.join(dict.fromkeys((*EXPORTED, *job.env))),
              ('requeue' if job.restarts or job.preemptions else 'no-requeue'): None}
    options = [f'#SBATCH --{name}' + ('' if value is None else f'={_quoted(value)}')
               for name, value in {**always, **requested(job, target)}.items()]
    options += [f'#SBATCH {_quoted(word)}' for word in shlex.split(target.extra)]
    srun = [f'--nodes={target.nodes}', f'--ntasks={tasks}', f'--ntasks-per-node={target.tasks_per_node}', '--export=ALL',
            '--kill-on-bad-exit=0', '--open-mode=append', *([f'--cpus-per-task={target.cpus}'] if target.cpus else [])]
    lines = [f'export PATH={shlex.quote(os.path.expanduser(target.path))}:"$PATH"'] if target.path else []
    lines += [f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(devices)))}"] if devices else []
    lines += [f'export BIGJAX_SHARE="$SLURM_ARRAY_TASK_ID/{job.array}"'] if job.array else []
    values = {
        'OPTIONS': '\n'.join(options), 'FOLDER': shlex.quote(str(folder)), 'LOGS': shlex.quote(str(logs)),
        'PATTERN': shlex.quote(_pattern(logs)), 'COMMAND': line(job.command), 'SRUN': line(srun), 'SETUP': target.setup or ':',
        'ENVIRONMENT': '\n'.join(lines), 'TASKS': tasks, 'COUNT': job.array or tasks, 'RESTARTS': job.restarts,
        'PREEMPTIONS': job.preemptions, 'GRACE': math.ceil(job.grace), 'COURTESY': JOINT_EXIT_S, 'QUICK': QUICK_FAILURE_S,
        'ROW': MAX_QUICK_FAILURES}
    return re.sub(r'@([A-Z]+)@', lambda match: str(values[match[1]]), TEMPLATE)


def _quoted(value: str) -> str:
    """A value as sbatch reads it in a script."""
    if re.fullmatch(r'[\w@%+=:,./\[\]|&*()-]+', value):
        return value
    escaped = value.replace('\\', '\\\\').replace('"', '\\"')
    return f'"{escaped}"'


def _pattern(path: pathlib.Path) -> str:
    """A path as SLURM reads names of output files."""
    return str(path).replace('%', '%%')


TEMPLATE = r'''#!/bin/bash
@OPTIONS@
#
# Starts the command on all nodes; after its end requeues the job (preemption, failure) or lets it end.

folder=@FOLDER@
logs=@LOGS@
tasks=@TASKS@
command=(@COMMAND@)
share=${SLURM_ARRAY_TASK_ID:-}
me=${share:+${SLURM_ARRAY_JOB_ID}_}${share:-$SLURM_JOB_ID}  # the number alone may mean the whole array
ends=$folder/ends${share:+.$share}

log() { printf 'launch: %s\n' "$*"; }

# CODE NEXT: records this attempt. NEXT is over, preempted, lost or failed (requeued for that reason), or left (to SLURM).
record() {
    printf '%s %s %s %s %s\n' "$1" "$SECONDS" "$2" "$task" "$where" >> "$ends"
}

# CODE: prints the decision about an end.
decide() {
    local state
    case $1 in 0) echo over; return;; esac
    state=$(squeue --noheader --jobs="$me" --format=%T 2>/dev/null)
    if [[ ${state:-RUNNING} != RUNNING || ( -z $state && -n $terminated ) ]]; then  # cancelled or requeued by another user
        echo left
    elif [[ -e $folder/stop ]]; then
        echo over
    elif [[ $1 == [234] ]]; then
        echo over
    elif [[ $1 == 75 ]]; then
        ((${SLURM_RESTART_COUNT:-0} - failures < @PREEMPTIONS@)) && echo "${lost:-preempted}" || echo over
    elif ((SECONDS < @QUICK@ && quick + 1 >= @ROW@)); then
        echo over
    else
        ((failures < @RESTARTS@)) && echo failed || echo over
    fi
}

# CODE: never returns.
finish() {
    local next
    [[ -z $lost || $1 == [234] ]] || set -- 75  # the other tasks failed because the node is lost
    next=$(decide "$1")
    record "$1" "$next"
    if [[ $next == preempted || $next == lost || $next == failed ]]; then
        log "$next: requeued"
        scontrol requeue "$me" && exit "$1"
        log 'SLURM does not requeue it, or has done so already'
        record "$1" left
    fi
    exit "$1"
}

task=${share:-0} where=${SLURMD_NODENAME:-$(hostname)} terminated= lost= failures=0 quick=0
trap 'terminated=yes' TERM  # the tasks get their own SIGTERM; this shell has to outlive them
if [[ -e $ends ]]; then
    while read -r _ seconds next _; do
        case $next in
            failed) ((failures += 1)); ((quick = seconds < @QUICK@ ? quick + 1 : 0));;
            *) quick=0;;
        esac
    done < "$ends"
fi
mkdir -p "$logs"
if [[ -e $folder/stop ]]; then
    log 'stopped: not restarted'
    record 75 over
    exit 75
fi
if ((${SLURM_RESTART_COUNT:-0} - failures > @PREEMPTIONS@)); then
    log '--max_preemptions is used up'
    record 75 over
    exit 75
fi

for ((i = 0; i < tasks; i++)); do
    printf -- '--- %s job %s, start %s, process %s of %s: %s\n' "$(date +%FT%T%z)" "$SLURM_JOB_ID" \
        "${SLURM_RESTART_COUNT:-0}" "${share:-$i}" @COUNT@ "$(printf '%q ' "${command[@]}")" >> "$logs/${share:-$i}.log"
done
log "start ${SLURM_RESTART_COUNT:-0} on ${SLURM_JOB_NODELIST:-}"
export PYTHONUNBUFFERED=${PYTHONUNBUFFERED-1}
@ENVIRONMENT@
{
@SETUP@
} || { log "setup ended with exit code $?"; finish 1; }

messages=$(mktemp -u) && mkfifo "$messages" || finish 1
srun @SRUN@ --output=@PATTERN@/"${share:-%t}.log" "${command[@]}" > "$messages" 2>&1 < /dev/null &
srun=$!
exec 3< "$messages"
rm -f "$messages"

# 'srun: error: node2: tasks 1,3: Exited with exit code 3': the first such line is the cause
pattern='^srun: error: ([^ :]+): tasks? ([0-9]+)[0-9,-]*: (.*)$'
code= due= signalled= part=
while true; do
    IFS= read -r -t 1 line <&3
    status=$?
    ((status == 0 || status > 128)) || break
    part+=$line
    if ((status == 0)); then
        printf '%s\n' "$part"
        if [[ -z $code && $part =~ $pattern ]]; then
            where=${BASH_REMATCH[1]} task=${share:-${BASH_REMATCH[2]}}
            case ${BASH_REMATCH[3]} in
                'Exited with exit code '*) code=${part##* };;
                Killed*|'Out Of Memory'*) code=137;;
                Terminated*) code=143;;
                Aborted*) code=134;;
                'Segmentation fault'*) code=139;;
                *) code=1;;
            esac
            case $code in 3|4|75) ((due = SECONDS + @COURTESY@));; *) due=$SECONDS;; esac
        fi
        case $part in *'Node failure'*|*'Timed out waiting for job step'*) lost=lost;; esac
        part=
    fi
    if [[ -n $due ]] && ((tasks > 1 && SECONDS >= due)); then  # the other tasks
        if [[ -z $signalled ]]; then
            scancel --quiet --signal=TERM "$me"
            signalled=yes
            ((due = SECONDS + @GRACE@))
        else
            kill -TERM "$srun" 2>/dev/null  # which kills them
            due=
        fi
    fi
done
wait "$srun"
result=$?
while kill -0 "$srun" 2>/dev/null; do  # a signal has ended the wait
    wait "$srun"
    result=$?
done
finish "${code:-$result}"
'''
