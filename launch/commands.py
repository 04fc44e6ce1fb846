"""What the launcher's verbs do, the same for every engine."""
import datetime
import pathlib
import shutil
import sys
from collections.abc import Sequence

from bigjax.errors import UserError
from launch import job as jobs
from launch import outcome
from launch.engines import base as engines
from launch.lines import say
from launch.steps import show
from launch.supervise import Limits, Result, Supervisor

EXAMPLE = 'python -m launch run --on=local:2 -- python -m experiments.mnist1d --workdir=/tmp/m1d'


def run(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Starts the command on an engine, and sees to it until it is done."""
    if names:
        raise UserError(f"'{names[0]}': the command to run stands after --; write for example {EXAMPLE}", code='launch/usage')
    if not command:
        raise UserError(f'no command after --; write for example {EXAMPLE}', code='launch/no-command')
    return start(new_job(options, command), detach=options.detach, dry_run=options.dry_run)


def new_job(options, command: Sequence[str], array: int = 0) -> jobs.Job:
    """What the flags ask for."""
    name = jobs.checked(options.name) if options.name else jobs.new_name(command)
    return jobs.Job(name=name, on=options.on, command=tuple(command), env=tuple(options.env), array=array,
                    restarts=options.max_restarts, preemptions=options.max_preemptions, grace=options.grace, logs=options.logs,
                    created=jobs.now())


def start(job: jobs.Job, *, detach: bool = False, dry_run: bool = False) -> int:
    """Starts a job, and sees to it until it is done; returns the exit code."""
    engine = engines.engine(job)
    if detach and not engine.detached:
        raise UserError(f'--detach: {job.kind} runs with its launcher; start the launcher itself in the background',
                        code='launch/not-detached')
    if dry_run:
        print(show(engine.plan()))
        return outcome.DONE
    engine.check()
    if not job.experiment:
        say(f'note: {jobs.line(job.command)} is no experiment (python -m experiments.NAME); its exit codes are read as if it '
            'were')
    if engine.detached:
        jobs.save(job, new=True)
        (job.folder / 'plan.txt').write_text(show(engine.plan()) + '\n')
        say(f'{job.name}: what is done is in {job.folder}/plan.txt')
    if not detach:
        return _see_to(engine)
    engine.start().close()
    say(f"{job.name} runs on {engine.name}; 'python -m launch attach {job.name}' follows it"
        + ('' if engine.restarts else ', and starts it again after a preemption'))
    return outcome.DONE


def attach(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Follows a job that runs, from its last lines on, and sees to it until it is done."""
    engine = engines.engine(_job(options, names))
    return _see_to(engine, engine.attach())


def logs(options, names: Sequence[str], command: Sequence[str]) -> int:
    """What a job has written until now; with --follow, also what it will."""
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
    """A job's state; without a name, all jobs that this machine knows."""
    if names or options.name:
        print('\n'.join(engines.engine(_job(options, names)).status()))
        return outcome.DONE
    known = jobs.known()
    for job in known:
        print(f'{job.name:24} {job.created:26} {job.on}  {jobs.line(job.command)}')
    if not known:
        print(f'no jobs ({jobs.home()})')
    return outcome.DONE


def kill(options, names: Sequence[str], command: Sequence[str]) -> int:
    """SIGTERM, so that an experiment saves its state, and SIGKILL after --grace; nothing is started again."""
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
    say(f'{job.name}: stopped' if gone else f'{job.name}: does not end; look at it with python -m launch status {job.name}')
    return outcome.DONE if gone else outcome.FAILED


def down(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Removes what a job has made elsewhere, and what this machine knows of it."""
    job = _job(options, names)
    engine = engines.engine(job)
    for thing in engine.exists():
        say(f'{job.name}: there is {thing}')
    if not options.yes and sys.stdin.isatty() and input(f'remove all of {job.name} on {job.on}? [y/N] ').lower() != 'y':
        return outcome.NO
    for done in engine.down():
        say(f'{job.name}: {done}')
    shutil.rmtree(job.folder, ignore_errors=True)
    return outcome.DONE


def doctor(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Whether a job could start on an engine, without starting one."""
    job = _job(options, names) if names else jobs.Job(options.name or 'doctor', options.on, tuple(command) or ('python',))
    checks = engines.engine(job).doctor()
    for check in checks:
        mend = f'; {check.mend}' if check.mend and not check.ok else ''
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.what}: {check.found}{mend}")
    return outcome.DONE if all(check.ok for check in checks) else outcome.NO


def render(options, names: Sequence[str], command: Sequence[str]) -> int:
    """The files that another tool would be given (a script, a manifest), to be changed and submitted by hand."""
    if not command:
        raise UserError(f"no command after --; write for example {EXAMPLE.replace('run', 'render')}", code='launch/no-command')
    engine = engines.engine(new_job(options, command))
    files = engine.files() or {'commands.sh': show(engine.plan()) + '\n'}
    if not options.to:
        print('\n'.join(files.values()), end='')
    for name, text in files.items() if options.to else ():
        path = pathlib.Path(options.to) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        say(f'wrote {path}')
    return outcome.DONE


def last_line(engine: engines.Engine, result: Result) -> str:
    """What ran where, for how long, how it ended, where to look, and what still costs money."""
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
        parts.append(f"still there: {', '.join(left)}" if left else 'nothing is left that costs money')
    return ' · '.join(parts)


def _see_to(engine: engines.Engine, running: engines.Group | None = None) -> int:
    job = engine.job
    limits = Limits(job.restarts, job.preemptions, job.grace, alone=bool(job.array))
    try:
        result = Supervisor(engine, limits, say).run(running)
    except Exception:
        if engine.detached:
            say(f"{job.name}: if it goes on, 'python -m launch attach {job.name}' follows it, and 'python -m launch down "
                f"{job.name}' removes it")
        raise
    if result.code == outcome.DETACHED:
        say(f"{job.name} goes on without this launcher; 'python -m launch attach {job.name}' comes back to it (from another "
            f"machine with --on='{job.on}'), 'python -m launch kill {job.name}' stops it")
        return result.code
    _finish(engine)
    say(last_line(engine, result))
    return result.code


def _finish(engine: engines.Engine) -> None:
    try:
        for done in engine.finish():
            say(f'{engine.job.name}: {done}')
    except UserError as error:  # the job's own end is what counts
        say(str(error))


def _job(options, names: Sequence[str]) -> jobs.Job:
    """The job that is meant: one that this machine knows, or one that is asked for where it runs (--on)."""
    name = names[0] if names else options.name
    if not name:
        raise UserError("which job? 'python -m launch status' lists them", code='launch/no-name')
    if options.on:
        return engines.find(jobs.checked(name), options.on)
    return jobs.load(name)


VERBS = {verb.__name__: verb for verb in (run, status, logs, attach, kill, down, doctor, render)}
