"""The verb `bench`: times the compiled train step of each row."""
from bigjax.errors import DONE
from bigjax.train.job import Flag, Job, Verb


def bench(job: Job, *, out: str) -> int:
    """Prints milliseconds per step, and writes them to the file `out`."""
    from bigjax.bench import cases
    from bigjax.nn import cpu
    cpu.keep_memory()
    rows = [cases.measure(row or job.name, job.build(row).program(), pairs=5) for row in job.rows]
    if job.leads:
        cases.show(rows, out)
    return DONE


VERB = Verb('bench', bench, 'times the train step of each row; `python -m bigjax.bench` has cases beside peers', flags=(
    Flag('out', '', 'also write the figures to this JSON file'),))
