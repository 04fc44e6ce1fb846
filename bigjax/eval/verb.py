"""The verb `eval`: judges the newest checkpoint of each run in --workdir by every evaluator."""
from bigjax.errors import DONE, NO
from bigjax.train.job import CHECK, Job, Verb, say_overrides


def evaluate(job: Job, *, check: bool) -> int:
    """Prints every metric, and measured beside expected; returns the exit code."""
    from bigjax.checkpoint import manager
    from bigjax.data import sources
    from bigjax.runs.reader import read_run
    from bigjax.runs.summary import judge, judged_table, spread, summarise
    from bigjax.runs.workdir import data_difference
    from bigjax.train import evaluations, host_consistency
    rows, missed = {}, False
    if job.leads:
        say_overrides(job)
    for row in job.rows:
        path = manager.newest(job.workdir(row))
        built = job.build(row)
        program = built.program()
        host_consistency.check(program.datas)
        if changed := data_difference(read_run(job.workdir(row)), sources.identity(program.experiment.data)):
            print(f'warning: the data is not what the run was trained with: {changed}')
        metrics, _ = evaluations.evaluate(program, program.restore_weights(path))
        final = {name: summarise(members) for name, members in metrics.items()}
        judged = judge(final, program.experiment.expected)
        rows[row] = (final, judged, {key: list(map(repr, pair)) for key, pair in built.differs.items()})
        missed |= any(not e['ok'] for e in judged)
        if job.leads:
            named = f'{row} ' if len(job.rows) > 1 else ''
            print('\n'.join(f'{named}{name} {spread(s["mean"], s["std"])}' for name, s in final.items()))
    if job.leads and any(judged for _, judged, _ in rows.values()):
        print(judged_table(job.name, {row: r for row, r in rows.items() if r[1]}))
    return NO if check and missed else DONE


VERB = Verb('eval', evaluate, 'judges the newest checkpoint of the run in --workdir', needs_workdir=True, flags=(CHECK,))
