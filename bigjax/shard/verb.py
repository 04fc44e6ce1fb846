"""The verb `shard`: prints where each parameter of each row is placed on config.mesh, which may be larger than this machine."""
from bigjax.errors import DONE
from bigjax.train.job import Job, Verb


def shard(job: Job) -> int:
    """Prints one table per row."""
    from bigjax.sharding import mesh as meshes
    from bigjax.sharding import rules
    from bigjax.train.program import initial_shapes
    for row in job.rows:
        built = job.build(row)
        mesh = meshes.abstract(built.settings.mesh)
        e = built.experiment
        placed = rules.layout(initial_shapes(e)[0], e.partition_rules, mesh, e.axes)
        print(f"{row + ': ' if row else ''}{rules.show(placed, mesh)}\n")
    return DONE


VERB = Verb('shard', shard, 'prints where each parameter is placed on config.mesh', needs_devices=False)
