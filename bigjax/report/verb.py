"""The verb `report`: writes the page of each run in --workdir anew."""
from bigjax.errors import DONE
from bigjax.train.job import Job, Verb


def report(job: Job) -> int:
    """Prints the paths of the pages."""
    from bigjax.report import html
    for row in job.rows:
        print(html.write(job.workdir(row)))
    if len(job.rows) > 1:
        print(html.write(job.root))
    return DONE


VERB = Verb('report', report, 'writes the page of the run in --workdir anew', needs_workdir=True, needs_devices=False,
            joins_processes=False)
