"""What an experiment can be told to do. Each verb takes a `bigjax.cli.Job` and returns its exit code."""
import contextlib
import os
import time

from bigjax import config as configs
from bigjax.checkpoint import manager
from bigjax.data import sources
from bigjax.errors import NonFinite, UserError
from bigjax.io import storage
from bigjax.io.text import clock, table
from bigjax.nn import cpu
from bigjax.runs.progress import Progress
from bigjax.runs.reader import read_run
from bigjax.runs.summary import paper, spread
from bigjax.runs.writer import Records, data_difference, judge, summarise
from bigjax.sharding import mesh as meshes
from bigjax.sharding import rules
from bigjax.train import flops, host_consistency, nonfinite, profile, stuck_params
from bigjax.train import loop as loops
from bigjax.train.compile_cache import Watch
from bigjax.train.evaluations import evaluate as evaluate_all
from bigjax.train.program import parameter_shapes
from bigjax.watchdog.phases import Clock
from bigjax.watchdog.watchdog import Guard, silence

DONE, NO = 0, 4


def train(job) -> int:
    """Trains every row, or goes on with it; reports, and prints measured beside expected."""
    from bigjax.report import html
    if job.flags.replay:
        return _replay(job)
    started = time.time()
    cpu.keep_memory()
    runs = {row: _train_row(job, row) for row in job.rows}
    missed = [row for run in runs.values() for row in run['expected'] if not row['ok']]
    answer = NO if job.flags.check and missed else DONE
    if not job.leads:
        return answer
    page = html.write(job.root) if len(job.rows) > 1 else job.root / html.PAGE
    print(_table(job, {row: (run['final'], run['expected']) for row, run in runs.items()}))
    print(f'{clock(time.time() - started)} in all · report: {page}')
    return answer


def _train_row(job, row: str) -> dict:
    """Trains one row and returns its finished run record."""
    from bigjax.report import html
    guard = job.guard or Guard()
    if row != job.rows[0]:  # the first one began with the process
        guard.clock = Clock()
    guard.unsaved, guard.last_words = False, silence
    workdir, config = job.workdir(row), job.config(row)
    if job.flags.profile and storage.remote(workdir):
        raise UserError('--profile: a trace is written to a folder of this machine; name one as --workdir of the run')
    progress = Progress(row, None if job.leads else open(os.devnull, 'w'))  # noqa: SIM115  as long as the process
    program, settings = job.program(row, config, watch=Watch(progress.say, job.flags.strict))
    traced = profile.parse(job.flags.profile, settings.steps)
    host_consistency.same_data(program.datas)
    records = Records(workdir, experiment=job.name, variant=row, config=configs.plain(config), command=job.command(row),
                      devices=program.devices(), parameters=program.parameters, seed=settings.seed,
                      population=settings.population, info=_facts(program), sinks=settings.sinks,
                      clock=guard.clock, data=sources.identity(program.experiment.data), total_steps=settings.steps)
    records.agree()
    if records.finished:
        progress.say(f'{workdir}: this run is done; name another --workdir to train again')
        if job.leads:
            html.write(workdir)  # it may have been killed while it did
        return records.run
    progress.say(f'config\n{configs.lines(config)}')
    progress.say(program.describe())
    guard.last_words = records.fail
    if job.flags.deterministic and not manager.steps(workdir / manager.FOLDER):
        with guard.clock.within('compile'):
            progress.say(stuck_params.check_deterministic(program))
    try:
        outcome = loops.Loop(program, workdir, records, progress, init_from=job.flags.init_from, work=flops.of(program),
                             profile=traced, guard=guard).run()
    except BaseException as error:
        records.fail(error)
        if isinstance(error, NonFinite) and job.leads:
            with contextlib.suppress(OSError, UserError):  # what broke is told whatever becomes of its picture
                html.write(workdir)
        raise
    guard.clock.enter('report')
    records.finish(outcome.status, outcome.step, outcome.final, program.experiment.expected, outcome.artifacts,
                   compiled=outcome.compiled)
    guard.last_words = silence  # whatever comes now, this run is done
    if job.leads:
        html.write(workdir)
    records.close()
    return records.run


def _facts(program) -> dict:
    """What there is to say of the data: what its set says, and a sample of each split, to know it again."""
    data = program.experiment.data
    splits = {'train': data.train, **data.evals}
    return {**data.info, 'sample': {name: sources.sample(split) for name, split in splits.items()}}


def _table(job, rows: dict) -> str:
    """Measured beside expected, {row: (final, judged)}, for the terminal; without anything expected, what was measured."""
    lines = []
    for name, (final, judged) in rows.items():
        for e in judged:
            lines.append([name or job.name, e['metric'], spread(e['measured'], e['spread']), paper(e),
                          'within tolerance' if e['ok'] else 'MISSED', e['source']])
        if not judged:
            lines += [[name or job.name, metric, spread(s['mean'], s['std']), '–', '', ''] for metric, s in final.items()]
    return table(['', 'metric', 'measured', 'paper', '', 'source'], lines)


def evaluate(job) -> int:
    """Judges the newest checkpoint of each row's workdir by every evaluator."""
    rows, missed = {}, False
    for row in job.rows:
        workdir = job.workdir(row)
        path = manager.newest(workdir)
        program, _ = job.program(row, job.config(row))
        host_consistency.same_data(program.datas)
        if changed := data_difference(read_run(workdir), sources.identity(program.experiment.data)):
            print(f'warning: the data is not what the run was trained with: {changed}')
        carry = program.restore_weights(path)
        metrics, _ = evaluate_all(program, carry)
        final = {name: summarise(members) for name, members in metrics.items()}
        judged = judge(final, program.experiment.expected)
        rows[row] = (final, judged)
        missed |= any(not e['ok'] for e in judged)
        if job.leads:
            print('\n'.join(f'{row + " " if row else ""}{name} {spread(s["mean"], s["std"])}' for name, s in final.items()))
    if job.leads and any(judged for _, judged in rows.values()):
        print(_table(job, {row: r for row, r in rows.items() if r[1]}))
    return NO if job.flags.check and missed else DONE


def _replay(job) -> int:
    """Repeats the step that was not applied, and names what is not finite."""
    folder = storage.place(job.flags.replay)
    info, batch = nonfinite.read(folder)
    row = info['variant']
    config = _alone(job, row, job.stored_config(row, info['config']), info['member'])
    program, settings = job.program(row, config)
    state = manager.load(folder / 'state', program.abstract['state'])
    data, task = program.experiment.data, program.experiment.task
    what = nonfinite.explain(state, batch, apply=program.apply, loss=task.loss, preprocess=data.preprocess,
                          augment=data.augment, accumulate=settings.accumulate, parts=info['parts'],
                          reduce_dtype=settings.reduce_dtype, tx=program.tx)
    print(f"step {info['step']}: the first thing that is not finite is {what}")
    return DONE


def _alone(job, row: str, config, member: int):
    """The config of one member of a population, or of a run, to be looked at on one device."""
    config.mesh = 'data:1'
    if (config.population, config.population_over) == (1, 'seed'):
        return config
    _, settings = job.experiment(row, config)
    over = settings.population_over
    if not 0 <= member < settings.population:
        raise UserError(f'--replay={job.flags.replay}: info.json speaks of member {member} of {settings.population}; name the '
                        f'{nonfinite.FOLDER}/ folder of a run that exited 3')
    if settings.members:
        own = {key: repr(value) for key, value in settings.members[member].items() if key != 'seed'}
    else:
        own = {} if over == 'seed' else {over: str(configs.leaves(config)[over] + member)}
    return configs.override(config, {**own, 'population': '1', 'population_over': 'seed'})


def bench(job) -> int:
    """Times the compiled train step of each row; `python -m bigjax.bench` compares the common cases with a peer."""
    from bigjax.bench import cases as benches
    if job.flags.against:
        raise UserError('--against: the peer has the cases of `python -m bigjax.bench --against=torch`, not this experiment')
    cpu.keep_memory()
    rows = [benches.measure(row or job.name, job.program(row, job.config(row))[0], pairs=5) for row in job.rows]
    if job.leads:
        benches.show(rows, job.flags.out)
    return DONE


def plan(job) -> int:
    """Compiles each row's train step for hardware that is not there: bytes, FLOPs, messages, time (`bigjax.plan`)."""
    from bigjax.plan import run
    return run.plan(job)


def doctor(job) -> int:
    """Looks at the machine, the data and the workdir for what would stop a run (`bigjax.doctor`)."""
    from bigjax.doctor import verb as doctor
    return doctor.doctor(job)


def shard(job) -> int:
    """Prints where each parameter of each row goes on config.mesh, which may be larger than this machine."""
    for row in job.rows:
        experiment, settings = job.experiment(row, job.config(row))
        mesh = meshes.abstract(settings.mesh)
        placed = rules.layout(parameter_shapes(experiment), experiment.partition_rules, mesh)
        print(f"{row + ': ' if row else ''}{rules.show(placed, mesh)}\n")
    return DONE
