"""The launcher's verbs, the same for every engine: run, attach, logs, status, kill, down, doctor, render."""
import datetime
import pathlib
import shutil
import sys
from collections.abc import Sequence

from bigjax.errors import UserError
from bigjax.io.text import table
from launch import job as jobs
from launch import outcome
from launch.engines import base as engines
from launch.lines import log
from launch.steps import show
from launch.supervise import Limits, Result, Supervisor

EXAMPLE = 'python -m launch run --on=local:2 -- python -m experiments.mnist1d --workdir=/tmp/m1d'


def run(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Starts the command on an engine and supervises it until it ends."""
    if names:
        raise UserError(f"'{names[0]}': the command to run comes after --; fix: write for example {EXAMPLE}",
                        code='launch/usage')
    if not command:
        raise UserError(f'no command after --; fix: write for example {EXAMPLE}', code='launch/no-command')
    return start(new_job(options, command), detach=options.detach, dry_run=options.dry_run)


def new_job(options, command: Sequence[str], array: int = 0) -> jobs.Job:
    """The job that the flags describe."""
    name = jobs.checked(options.name) if options.name else jobs.new_name(command)
    return jobs.Job(name=name, on=options.on, command=tuple(command), env=tuple(options.env), array=array,
                    restarts=options.max_restarts, preemptions=options.max_preemptions, grace=options.grace, logs=options.logs,
                    created=jobs.now())


def start(job: jobs.Job, *, detach: bool = False, dry_run: bool = False) -> int:
    """Starts a job and supervises it until it ends; returns the exit code. A dry run prints the summary and the plan."""
    engine = engines.engine(job)
    if detach and not engine.detached:
        raise UserError(f'--detach: {job.kind} runs with its launcher; fix: start the launcher itself in the background',
                        code='launch/not-detached')
    if dry_run:
        print('\n'.join(f'# {row}' for row in (*summary(engine), *(f'warning: {text}' for text in engines.warnings(engine)))))
        print(show(engine.plan()))
        return outcome.DONE
    engine.check()
    if not job.experiment:
        log(f'note: {jobs.line(job.command)} is not an experiment (python -m experiments.NAME); its exit codes are read as if '
            'it were one')
    for text in engines.warnings(engine):
        log(f'warning: {text}')
    if engine.detached:
        jobs.save(job, new=True)
        (job.folder / 'plan.txt').write_text(show(engine.plan()) + '\n')
        log(f'{job.name}: the commands of this run are listed in {job.folder}/plan.txt')
    if not detach:
        return _supervise(engine)
    engine.start().close()
    log(f"{job.name} runs on {engine.name}; 'python -m launch attach {job.name}' follows it"
        + ('' if engine.restarts else ' and restarts it after a preemption'))
    return outcome.DONE


def summary(engine: engines.Engine) -> list[str]:
    """The five lines that begin a dry run: what runs, where, as how many processes, with which code, and what it costs."""
    job = engine.job
    what = f'{job.experiment} ({jobs.line(job.command)})' if job.experiment else jobs.line(job.command)
    count = engine.workers
    alone = 'share the runs of a sweep' if job.array else 'meet as one program' if count > 1 else 'runs alone'
    limits = f'--max_restarts={job.restarts}, --max_preemptions={job.preemptions}'
    return [f'what       {what}', f'where      {engine.name}' + (f', as job {job.name}' if engine.detached else ''),
            f"processes  {count}, which {alone}; restarted by {'the engine' if engine.restarts else 'this launcher'}: {limits}",
            f'code       {engine.code}', f'cost       {engine.cost}']


def attach(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Follows a running job from its last lines on, and supervises it until it ends."""
    engine = engines.engine(_job(options, names))
    return _supervise(engine, engine.attach())


def logs(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Prints the output of a job so far; with --follow, until it ends."""
    engine = engines.engine(_job(options, names))
    group = engine.attach(whole=True)
    if options.worker >= engine.workers:
        raise UserError(f'--worker={options.worker}: {engine.name} has workers 0 to {engine.workers - 1}',
                        code='launch/no-worker')
    if options.worker >= 0:
        group.only = options.worker
    try:
        while group.running and (options.follow or not group.idle):
            group.wait(0.2)
    finally:
        group.close()
    return outcome.DONE


def status(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Prints a job's state; without a name, a table of all jobs in this machine's records."""
    if names or options.name:
        print('\n'.join(engines.engine(_job(options, names)).status()))
        return outcome.DONE
    known = jobs.known()
    print(table(('job', 'created', 'on', 'command'), [(job.name, job.created, job.on, jobs.line(job.command)) for job in known])
          if known else f'no jobs ({jobs.home()})')
    return outcome.DONE


def kill(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Sends SIGTERM, on which an experiment saves its state, and SIGKILL after --grace; the job is not restarted."""
    job = _job(options, names)
    engine = engines.engine(job)
    group = engine.attach()
    try:
        group.stop()
        gone = engines.stop(group, options.grace)
    finally:
        group.close()
    if gone:
        _finish(engine)
    log(f'{job.name}: stopped' if gone else f'{job.name}: still runs after SIGKILL; see python -m launch status {job.name}')
    return outcome.DONE if gone else outcome.FAILED


def down(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Removes what a job has created elsewhere, and this machine's record of it."""
    job = _job(options, names)
    engine = engines.engine(job)
    for thing in engine.exists():
        log(f'{job.name}: found {thing}')
    if not options.yes and sys.stdin.isatty() and input(f'remove all of {job.name} on {job.on}? [y/N] ').lower() != 'y':
        return outcome.NO
    for done in engine.down():
        log(f'{job.name}: {done}')
    shutil.rmtree(job.folder, ignore_errors=True)
    return outcome.DONE


def doctor(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Checks whether a job could start on an engine, without starting one; exit 4 where a check fails."""
    job = _job(options, names) if names else jobs.Job(options.name or 'doctor', options.on, tuple(command) or ('python',))
    checks = engines.doctor(engines.engine(job))
    for check in checks:
        fix = f'; fix: {check.fix}' if check.fix and not check.ok else ''
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.what}: {check.found}{fix}")
    return outcome.DONE if all(check.ok for check in checks) else outcome.NO


def render(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Writes the files that the engine submits (a script, a manifest), to be edited and submitted by hand."""
    if not command:
        raise UserError(f"no command after --; fix: write for example {EXAMPLE.replace('run', 'render')}",
                        code='launch/no-command')
    engine = engines.engine(new_job(options, command))
    files = engine.files() or {'commands.sh': show(engine.plan()) + '\n'}
    if not options.to:
        print('\n'.join(files.values()), end='')
    for name, text in files.items() if options.to else ():
        path = pathlib.Path(options.to) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        log(f'wrote {path}')
    return outcome.DONE


def last_line(engine: engines.Engine, result: Result) -> str:
    """The closing line: what ran where, its duration, restarts, end, workdir and logs, and what still costs money."""
    count = lambda n, one, many: f'{n} {one if n == 1 else many}'
    job = engine.job
    ended = outcome.CLASSES[result.code] + (f' ({result.cause})' if result.cause else '')
    kept = job.logs or (f'{job.folder}/logs' if engine.detached else '')
    what = job.experiment or pathlib.Path(job.command[0]).name
    parts = [f'{what} on {engine.name}', *([job.name] if engine.detached else []),
             count(engine.workers, 'process', 'processes'), str(datetime.timedelta(seconds=round(result.seconds))),
             f"{count(result.restarts, 'restart', 'restarts')}, {count(result.preemptions, 'preemption', 'preemptions')}",
             ended,
             f'workdir {job.workdir}' if job.workdir else 'no --workdir', f'logs {kept}' if kept else 'no --logs']
    if engine.detached:
        left = engine.exists()
        parts.append(f"still exists: {', '.join(left)}" if left else 'nothing is left that costs money')
    return ' · '.join(parts)


def _supervise(engine: engines.Engine, running: engines.Group | None = None) -> int:
    job = engine.job
    limits = Limits(job.restarts, job.preemptions, job.grace, alone=bool(job.array))
    try:
        result = Supervisor(engine, limits, log).run(running)
    except Exception:
        if engine.detached:
            log(f"{job.name}: it may still run; 'python -m launch attach {job.name}' follows it, 'python -m launch down "
                f"{job.name}' removes it")
        raise
    if result.code == outcome.DETACHED:
        log(f"{job.name} keeps running without this launcher; 'python -m launch attach {job.name}' follows it again (from "
            f"another machine with --on='{job.on}'), 'python -m launch kill {job.name}' stops it")
        return result.code
    _finish(engine)
    log(last_line(engine, result))
    return result.code


def _finish(engine: engines.Engine) -> None:
    try:
        for done in engine.finish():
            log(f'{engine.job.name}: {done}')
    except UserError as error:  # the job's own end is what counts
        log(str(error))


def _job(options, names: Sequence[str]) -> jobs.Job:
    """The named job: from this machine's records, or with --on from the engine that runs it."""
    name = names[0] if names else options.name
    if not name:
        raise UserError("no job named; fix: name one of those that 'python -m launch status' lists", code='launch/no-name')
    if options.on:
        return engines.find(jobs.checked(name), options.on)
    return jobs.load(name)


VERBS = {verb.__name__: verb for verb in (run, status, logs, attach, kill, down, doctor, render)}
