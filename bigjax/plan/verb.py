"""The verb `plan`: compiles each row's train step for hardware that is not there."""
from bigjax.train.job import Flag, Job, Verb


def plan(job: Job, **options) -> int:
    """Prints bytes, FLOPs, messages and time of each row and mesh (`bigjax.plan.run`)."""
    from bigjax.plan import run
    return run.plan(job, run.Wanted(**options))


VERB = Verb(
    'plan', plan, 'compiles for hardware that is not there: memory, FLOPs, messages, time', needs_devices=False,
    joins_processes=False, flags=(
        Flag('topology', '', "the hardware, such as 'v5e-16', 'v5p:4x8x8', 'v5e:16x16*2', 'h100:64', 'cpu:8'"),
        Flag('mesh', '', "meshes to compare, separated by ';', instead of config.mesh"),
        Flag('hbm', None, 'GiB that a program may use on a chip, instead of the known ones', 'float', 0.0),
        Flag('out', '', 'also write the figures to this JSON file'),
        Flag('inside', '', "compile in this process and write the figures here, as plan's own processes do")))
