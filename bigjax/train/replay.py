"""`--replay=DIR/nonfinite`: repeats the step that was not applied, and names the first value that is not finite."""
import dataclasses

from bigjax.checkpoint import manager
from bigjax.errors import DONE, UserError
from bigjax.io import nested, storage
from bigjax.train import nonfinite
from bigjax.train.job import Job


def explain(job: Job, folder: str) -> int:
    """Prints what was not finite; returns the exit code."""
    place = storage.place(folder)
    info, batch = nonfinite.read(place)
    row = info['variant']
    built = job.build(row, _member_alone(job, row, info['config'], info['member'], folder))
    program, settings = built.program(), built.settings
    state = manager.load(place / 'state', program.abstract['state'])
    data, task = program.experiment.data, program.experiment.task
    what = nonfinite.explain(state, batch, apply=program.apply, loss=task.loss, preprocess=data.preprocess,
                             augment=data.augment, accumulate=settings.accumulate, parts=info['parts'],
                             reduce_dtype=settings.reduce_dtype, frozen=program.frozen, tx=program.tx)
    print(f"step {info['step']}: the first thing that is not finite is {what}")
    return DONE


def _member_alone(job: Job, row: str, stored, member: int, folder: str):
    """The config of one member of a population, or of a plain run, on one device; `stored` is that of the run."""
    def resolved(**own: str):
        return dataclasses.replace(job, overrides={**job.overrides, 'mesh': 'data:1', **own}).config(row, stored=stored)

    config = resolved()
    if (config.population, config.population_over) == (1, 'seed'):
        return config
    settings = job.build(row, config).settings
    over = settings.population_over
    if not 0 <= member < settings.population:
        raise UserError(f'--replay={folder}: info.json speaks of member {member} of {settings.population}; name the '
                        f'{nonfinite.FOLDER}/ folder of a run that exited 3', code='nonfinite/member')
    if settings.members:
        own = {key: repr(value) for key, value in settings.members[member].items() if key != 'seed'}
    else:
        own = {} if over == 'seed' else {over: str(nested.leaves(config)[over] + member)}
    return resolved(**{**own, 'population': '1', 'population_over': 'seed'})
