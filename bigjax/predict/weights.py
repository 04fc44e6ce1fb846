"""The trained model of a run, to be applied to other inputs: what `predict` and `sample` share."""
from typing import NamedTuple

from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.train.job import Job


class Trained(NamedTuple):
    """The reported weights of one member of a run, with the experiment and the applied model."""

    experiment: Experiment
    apply: object
    variables: object
    members: int


def load(job: Job, member: int) -> Trained:
    """The newest checkpoint of the run in --workdir.

    Raises:
      UserError: there is no checkpoint, --workdir holds several runs, or the classes are no longer those of the run.
    """
    from bigjax.checkpoint import manager
    if len(job.rows) > 1:
        raise UserError(f"--workdir={job.root}: got {len(job.rows)} runs, expected one; fix: --variant=ROW, one of "
                        f"{', '.join(job.rows)}", code='predict/several-runs')
    (row,) = job.rows
    workdir, run = job.runs[row]
    path = manager.newest(workdir)
    program = job.build(row).program()
    recorded, now = (run.get('info') or {}).get('classes'), program.experiment.data.info.get('classes')
    if recorded is not None and now is not None and list(recorded) != list(now):
        raise UserError(f'{workdir}: the data has the classes {list(now)[:8]}, and the run has {list(recorded)[:8]}; '
                        'fix: give it the data of the run', code='predict/other-classes')
    if not 0 <= member < (program.members or 1):
        raise UserError(f'--member={member}: the run has {program.members or 1}, numbered from 0', code='predict/member')
    variables = program.member_variables(program.restore_weights(path), member)
    return Trained(program.experiment, program.apply, variables, program.members or 1)
