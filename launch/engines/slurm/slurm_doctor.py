"""The checks of a SLURM cluster for a job: its programs, the partition, the nodes, the time limit, the shared folder."""
import os
import pathlib
import re
import shutil

from bigjax.io.text import hint
from launch.engines.base import Check
from launch.engines.slurm import slurm_state
from launch.engines.slurm.slurm_target import Target
from launch.steps import Failed

INSTALL = 'apt install slurm-client, dnf install slurm'


def doctor(engine) -> list[Check]:
    """The checks for a `launch.engines.slurm.slurm.Engine`."""
    target, cpus = engine.target, max(1, engine.target.cpus) * engine.target.tasks_per_node
    missing = [name for name in ('sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo') if shutil.which(name) is None]
    checks = [Check('programs', not missing, f"no {', '.join(missing)}" if missing else 'sbatch, squeue, scancel, scontrol',
                    f'log in to the cluster, or install them ({INSTALL})')]
    try:
        partitions = {} if missing else {partition.name: partition for partition in slurm_state.partitions()}
    except Failed as error:
        return [*checks, Check('controller', False, str(error), 'contact the administrator of the cluster')]
    if missing:
        return checks
    checks.append(Check('controller', True, f"answers; partitions {', '.join(partitions)}"))
    wanted = (target.partition or next((name for name, p in partitions.items() if p.default), '')).split(',')[0]
    partition = partitions.get(wanted)
    if partition is None:
        found = f"no '{wanted}' in the cluster{hint(wanted, partitions)}" if wanted else 'the cluster has no default one'
        return [*checks, Check('partition', False, found, f"write partition=…, one of {', '.join(partitions)}")]
    checks.append(Check('partition', partition.up, f"{wanted} is {'up' if partition.up else 'down'}", 'choose another one'))
    up = [node for node in slurm_state.nodes(wanted) if node.up]
    able = [node for node in up if _fits(node, target, cpus)]
    needs = ', '.join(filter(None, (f'{target.gpus} GPUs' if target.gpus_per_node else '', f'cpus={cpus}',
                                    f'memory={target.memory}' if target.memory else '')))
    checks.append(Check('nodes', len(able) >= target.nodes,
                        f'{len(able)} of {len(up)} that are up have {needs}; {target.nodes} are requested',
                        f'request less, or see what there is: sinfo --Node --partition={wanted} --format="%N %t %c %m %G"'))
    if target.time and partition.limit is not None:
        limit = slurm_state.seconds(target.time)
        checks.append(Check('time', limit is not None and limit <= partition.limit,
                            f'{target.time} of at most {partition.limit / 3600:.1f} h', 'request less; the job is '
                            'requeued and resumes'))
    home = engine.folder.parent
    return [*checks, Check('folder', _writable(home), f'{home}: all nodes must share it, and {os.getcwd()}',
                           'set BIGJAX_JOBS to a writable folder')]


def _fits(node: slurm_state.Node, target: Target, cpus: int) -> bool:
    """Whether a node has the CPUs, memory and GPUs of one process group of the job."""
    number, unit = re.fullmatch(r'(\d*)([KMGT]?)', target.memory).groups()
    mebibytes = int(number or 0) * {'K': 1 / 1024, 'G': 1024, 'T': 1024**2}.get(unit, 1)
    return node.gpus >= target.gpus_per_node and node.cpus >= cpus and node.memory >= mebibytes


def _writable(path: pathlib.Path) -> bool:
    """Whether the folder can be written, or created."""
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)
