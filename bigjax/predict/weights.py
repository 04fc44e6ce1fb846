"""The trained model of a run, to be applied to other inputs: what `predict` and `sample` share."""
import sys
from typing import NamedTuple

import numpy as np

from bigjax import config as configs
from bigjax.data import recorded
from bigjax.errors import UserError
from bigjax.experiment import Experiment
from bigjax.io import nested
from bigjax.train.job import Job

ONE_DEVICE = 'data:1'
OTHER_MACHINE = ('mesh/devices', 'mesh/scattered-rows', 'config/batch-divisible')  # the mesh of the run needs other devices


class Trained(NamedTuple):
    """The reported weights of one member of a run, with the experiment and the applied model."""

    experiment: Experiment
    apply: object
    variables: object
    members: int


def load(job: Job, member: int, init_from: str = '') -> Trained:
    """The newest checkpoint of the run in --workdir, or the weights of `init_from`.

    The data of the run is not opened: what was decided from it is in run.json. Only where the record does not have it, or the
    command line names data, it is read.

    Raises:
      UserError: there is no checkpoint, --workdir holds several runs, or the classes are no longer those of the run.
    """
    from bigjax.checkpoint import manager
    if not job.stored:
        return _pretrained(job, init_from)
    if len(job.rows) > 1:
        raise UserError(f"--workdir={job.root}: got {len(job.rows)} runs, expected one; fix: --variant=ROW, one of "
                        f"{', '.join(job.rows)}", code='predict/several-runs')
    (row,) = job.rows
    workdir, run = job.runs[row]
    path = manager.newest(workdir)
    config = _of_member(job.config(row), member)
    described = configs.override(config, {'data': f'{recorded.KIND}:{member}:{workdir}'})
    try:
        if 'data' in job.overrides:
            raise UserError('', code='data/not-recorded')
        program = _program(job, row, described)
    except UserError as error:
        if error.code != 'data/not-recorded':
            raise
        program = _program(job, row, config)
    known, now = (run.get('info') or {}).get('classes'), program.experiment.data.info.get('classes')
    if known is not None and now is not None and list(known) != list(now):
        raise UserError(f'{workdir}: the data has the classes {list(now)[:8]}, and the run has {list(known)[:8]}; '
                        'fix: give it the data of the run', code='predict/other-classes')
    variables = program.member_variables(program.restore_weights(path), member)
    return Trained(program.experiment, program.apply, variables, program.members or 1)


def _pretrained(job: Job, init_from: str) -> Trained:
    """The experiment of the script, with the weights of `init_from`, or with those that it begins with.

    Raises:
      UserError: --variant is missing where the script has several rows, or the experiment begins with none.
    """
    import jax
    import jax.numpy as jnp

    from bigjax.tasks import bind
    from bigjax.train.program import initial_shapes
    if len(job.rows) > 1:
        raise UserError(f'predict: got no --workdir and {len(job.rows)} rows, expected one; fix: --variant=ROW, one of '
                        f"{', '.join(job.rows)}", code='predict/several-runs')
    if init_from:
        program = _program(job, job.rows[0], _openable(job, job.rows[0]))
        carry = program.load_weights(program.init(), init_from, lambda text: print(text, file=sys.stderr))
        return Trained(program.experiment, program.apply, program.member_variables(carry, 0), 1)
    experiment = job.build(job.rows[0]).experiment
    if experiment.init is None:
        raise UserError(f'predict: got no --workdir, and {job.name} begins without trained weights; fix: --workdir of a run, '
                        'or --init_from', code='cli/no-workdir')
    shapes, _ = initial_shapes(experiment)
    variables = experiment.init({'params': jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), shapes)})
    return Trained(experiment, bind(experiment.model), jax.tree.map(jnp.asarray, variables), 1)


def _openable(job: Job, row: str):
    """The config of a row, with made-up data where its data is not here and its interface takes nothing from that.

    Raises:
      UserError: its data is not here, and its interface needs it; as `Job.build`.
    """
    config = job.config(row)
    try:
        job.build(row, config)
        return config
    except UserError as error:
        if error.code != 'data/not-found' or 'data' in job.overrides:
            raise
        made_up = configs.override(config, {'data': 'fake'})
        interface = job.build(row, made_up).experiment.interface
        if interface is None or interface.needs_data:
            raise
    print(f'{config["data"]} is not here; its classes are those that are stated of it', file=sys.stderr)
    return made_up


def _of_member(config, member: int):
    """The config of one member, whose data and units are its own where members differ in their data.

    Raises:
      UserError: there is no such member.
    """
    over, known = config['population_over'], nested.leaves(config)
    count = len(list(filter(str.strip, over.split(';')))) if '=' in over else config['population']
    if not 0 <= member < count:
        raise UserError(f'--member={member}: the run has {count}, numbered from 0', code='predict/member')
    if '=' in over or over == 'seed' or over not in known:
        return config
    return configs.override(config, {over: str(known[over] + member)})


def _program(job: Job, row: str, config):
    """The program of one row, on the mesh of the run, or on one device where this machine does not have that mesh."""
    try:
        return job.build(row, config).program(one_data=True)
    except UserError as error:
        if error.code not in OTHER_MACHINE or 'mesh' in job.overrides:
            raise
    return job.build(row, configs.override(config, {'mesh': ONE_DEVICE})).program(one_data=True)
