"""The verb `eval`: judges the newest checkpoint of each run in --workdir, or the weights of --init_from, by every evaluator."""
from bigjax.errors import DONE, NO, UserError
from bigjax.train.job import CHECK, INIT_FROM, Job, Verb, say_overrides


def evaluate(job: Job, *, check: bool, init_from: str) -> int:
    """Prints every metric, and measured beside expected; returns the exit code."""
    from bigjax.checkpoint import manager
    from bigjax.data import sources
    from bigjax.runs.reader import read_run
    from bigjax.runs.summary import judge, judged_table, spread, summarise
    from bigjax.runs.workdir import data_difference
    from bigjax.train import evaluations, host_consistency
    rows, missed = {}, False
    if job.leads and job.stored:
        say_overrides(job)
    if not job.stored and len(job.rows) > 1:
        raise UserError(f'eval: got no --workdir and {len(job.rows)} rows, expected one; fix: --variant=ROW, one of '
                        f"{', '.join(job.rows)}", code='eval/several-rows')
    for row in job.rows:
        path = manager.newest(job.workdir(row)) if job.stored else ''
        built = job.build(row)
        program = built.program()
        host_consistency.check(program.datas)
        if job.stored:
            if changed := data_difference(read_run(job.workdir(row)), sources.identity(program.experiment.data)):
                print(f'warning: the data is not what the run was trained with: {changed}')
            carry = program.restore_weights(path)
        else:
            carry = program.load_weights(program.init(), init_from) if init_from else program.init()
        metrics, _ = evaluations.evaluate(program, carry)
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


VERB = Verb('eval', evaluate, 'judges the newest checkpoint of the run in --workdir', needs_workdir=True, takes_pretrained=True,
            flags=(CHECK, INIT_FROM))
