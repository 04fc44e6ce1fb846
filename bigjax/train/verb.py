"""The verb `train`: trains every row, or resumes it; writes the report, and prints measured beside expected."""
import contextlib
import os
import sys

from bigjax.errors import DONE, NO, NonFinite, UserError
from bigjax.io.stopwatch import Stopwatch
from bigjax.io.text import clock
from bigjax.train.job import CHECK, INIT_FROM, Flag, Job, Verb


def train(job: Job, *, init_from: str, replay: str, profile: str, strict: bool, deterministic: bool, check: bool,
          jobs: int) -> int:
    """Trains the rows one after the other, or side by side; returns the exit code."""
    from bigjax.io import storage
    from bigjax.nn import cpu
    from bigjax.report import html
    from bigjax.runs.reader import read_run
    from bigjax.runs.summary import differences, judged_table
    from bigjax.train import side_by_side
    if replay:
        from bigjax.train.replay import explain
        return explain(job, replay)
    if len(job.rows) > 1 and storage.exists(job.root / 'run.json'):
        raise UserError(f'--workdir={job.root}: got the workdir of a single row, expected a new folder for the table of '
                        f'{len(job.rows)} rows; fix: --variant=ROW resumes that run, another --workdir trains the table',
                        code='workdir/single-row')
    watch = Stopwatch()
    cpu.keep_memory()
    if (jobs := side_by_side.wanted(job, jobs)) > 1:
        try:
            side_by_side.train(job, jobs)
        except side_by_side.Ended as error:
            code, text = error.args
            print(text, file=sys.stderr, flush=True)
            return code
        runs = {row: read_run(job.workdir(row)) for row in job.rows}
    else:
        runs = {row: _train_row(job, row, init_from, profile, strict, deterministic) for row in job.rows}
    missed = [row for run in runs.values() for row in run['expected'] if not row['ok']]
    answer = NO if check and missed else DONE
    if not job.leads:
        return answer
    page = html.write(job.root) if len(job.rows) > 1 else job.root / html.PAGE
    print(judged_table(job.name, {row: (run['final'], run['expected'], differences(run)) for row, run in runs.items()}))
    print(f'{clock(watch.seconds())} in all · report: {page}')
    return answer


def _train_row(job: Job, row: str, init_from: str, profile_steps: str, strict: bool, deterministic: bool) -> dict:
    """Trains one row and returns its finished run record."""
    from bigjax.checkpoint import manager
    from bigjax.data import sources, tokenizers
    from bigjax.io import nested, storage
    from bigjax.report import html
    from bigjax.runs.progress import Progress
    from bigjax.runs.workdir import check_shared
    from bigjax.runs.writer import Records
    from bigjax.train import flops, host_consistency, profile, stuck_params
    from bigjax.train import loop as loops
    from bigjax.train.compile_cache import Watch
    from bigjax.watchdog.exits import silence
    from bigjax.watchdog.phases import Clock
    from bigjax.watchdog.watchdog import Guard
    guard = job.guard or Guard()
    if row != job.rows[0]:  # the first row began with the process
        guard.clock = Clock()
    guard.unsaved, guard.last_words = False, silence
    workdir, config = job.workdir(row), job.config(row)
    if profile_steps and storage.remote(workdir):
        raise UserError('--profile: a trace is written to a folder of this machine; name one as --workdir of the run',
                        code='cli/profile')
    progress = Progress(row, None if job.leads else open(os.devnull, 'w'))  # noqa: SIM115  open as long as the process
    built = job.build(row, config)
    program, settings = built.program(watch=Watch(progress.say, strict)), built.settings
    traced = profile.parse(profile_steps, settings.steps)
    host_consistency.check(program.datas)
    manager.check_writable(program.abstract)  # otherwise the run ends at its first checkpoint
    if init_from and not manager.steps(workdir / manager.FOLDER):
        program.check_weights(init_from)
    records = Records(workdir, experiment=job.name, variant=row, config=nested.plain(config), command=job.command(row),
                      devices=program.devices(), parameters=program.parameters, seed=settings.seed,
                      population=settings.population, info=_facts(program, built.differs), sinks=settings.sinks,
                      clock=guard.clock, data=sources.identity(program.experiment.data), total_steps=settings.steps)
    check_shared(workdir, records.finished)
    if program.experiment.tokenizer is not None and job.leads:
        tokenizers.keep(program.experiment.tokenizer, workdir)
    if records.finished:
        progress.say(f'{workdir}: this run is done; name another --workdir to train again')
        if job.leads:
            html.write(workdir)  # the process may have been killed while it wrote the report
        return records.run
    progress.say(f'config\n{nested.lines(config)}')
    if found := program.experiment.data.info.get('found'):
        progress.say('\n'.join(['data', *found]))
    progress.say(program.describe())
    guard.last_words = records.fail
    if deterministic and not manager.steps(workdir / manager.FOLDER):
        with guard.clock.within('compile'):
            progress.say(stuck_params.check_deterministic(program))
    try:
        outcome = loops.Loop(program, workdir, records, progress, init_from=init_from, work=flops.step_cost(program),
                             profile=traced, guard=guard).run()
    except BaseException as error:
        records.fail(error)
        if isinstance(error, NonFinite) and job.leads:
            with contextlib.suppress(OSError, UserError):  # the cause is printed even if its report cannot be written
                html.write(workdir)
        raise
    guard.clock.enter('report')
    records.finish(outcome.status, outcome.step, outcome.final, program.experiment.expected, outcome.artifacts,
                   compiled=outcome.compiled)
    guard.last_words = silence  # the run is done, whatever fails from here on
    if job.leads:
        html.write(workdir)
    records.close()
    return records.run


def _facts(program, differs) -> dict:
    """Facts of the data, a sample of each split to recognise it again, and the keys in which the setup is not the paper's."""
    from bigjax.data import sources
    data = program.experiment.data
    splits = {'train': data.train, **data.evals}
    # What was decided from the data of a member, such as its units, is needed to apply that member to other inputs
    members = [{key: value for key, value in other.info.items() if value != data.info.get(key) and key != 'found'}
               for other in program.datas[1:]]
    members = {'members': members} if any(members) else {}
    other = {'differs': {key: list(map(repr, pair)) for key, pair in differs.items()}} if differs else {}
    return {**data.info, **members, 'sample': {name: sources.sample(split) for name, split in splits.items()}, **other}


VERB = Verb(
    'train', train, 'trains every row of the table, or resumes it (the default)', watched=True, flags=(
        INIT_FROM,
        Flag('replay', '', 'the nonfinite/ folder of a run that exited 3: repeat the step and name what broke'),
        Flag('profile', '', 'A:B: trace the steps after A until B, and print the operations that took the time'),
        Flag('strict', False, 'warnings that a careful run should not have are errors: a step compiled twice, a parameter that '
             'does not move', 'switch'),
        Flag('deterministic', False, 'choose algorithms that repeat bit for bit, and prove it by doing the first steps twice',
             'switch'),
        Flag('jobs', 0, 'rows that train at a time, each in a process of its own; 0: one per core on a CPU, else 1', 'int', 0),
        CHECK))
