"""The verb `doctor`: it finds in seconds what would stop a run, before anything is allocated or compiled.

It prints one line per check: ok, warning, or FAILED with the cause and the fix. A check is a plain function that returns a
`Check`. One that raises, or does not answer in time, is a FAILED line, and the others run: each runs in a thread, because a
disk, a store or a driver may block forever. The checks are in `bigjax.doctor.host` (the machine) and
`bigjax.doctor.experiment_checks`. Of several processes each examines its own machine; rank 0 prints every line, the others
print what is not ok.
"""
import contextlib
import os
import pathlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable

import jax

from bigjax.distributed import accelerators
from bigjax.doctor import host
from bigjax.doctor.experiment_checks import ExperimentChecks
from bigjax.doctor.host import FAILED, OK, WARNING, Check
from bigjax.errors import DONE, NO, UserError
from bigjax.io.stopwatch import Stopwatch
from bigjax.train.job import Verb

CHECK_S, DEVICES_S = 10.0, 15.0  # time for one check, and for starting the devices
TOTAL_S, EXIT_S = 18.0, 23.0  # the last check begins, and the process has ended, this long after the start
START_S = 10.0  # time to wait for the other processes
LEAST_S = 0.5  # time for a check when `TOTAL_S` is over
ROW_S = 5.0  # time that must be left for another row
THREAD = 'doctor: '
FIXES = {  # check: what helps where its own error does not name it
    'packages': '`pip check` shows what is installed',
    'accelerators': "see the system's log and what holds the devices (nvidia-smi, fuser -v), or --platform=cpu",
    'cache': '--compile_cache=DIR names another folder',
    'workdir': 'look at its file system (df), or choose another --workdir',
    'experiment': 'fix get_config or get_experiment of the script',
    'run': 'look at run.json and config.json there, or choose another --workdir',
    'data': 'look at the data (--config.data_dir), or --config.data=fake does without',
    'devices': 'write --config.mesh=data:-1',
    'model': 'fix the model or its config; `train` shows where it stops',
    'memory': '`plan` counts it by compiling',
    'disk': 'look at its file system (df), or choose another --workdir'}


def doctor(job) -> int:
    """Checks the machine and every row of the experiment, prints what it finds, and exits 4 where a check FAILED."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # otherwise it takes the memory of runs on the same GPU
    watch, found = Stopwatch(), []

    def look(name: str, check: Callable, *args, limit: float = CHECK_S, late: str = FAILED) -> bool:
        """Whether it did not fail."""
        left = min(limit, TOTAL_S - watch.seconds())
        answers = attempt(name, lambda: check(*args), left, late)
        for one in answers:
            found.append(one)
            if job.leads or one.status != OK:
                print(f'{one}' if job.leads else f'{one} (process {job.joined.process})', flush=True)
        return all(one.status != FAILED for one in answers)

    shown = accelerators.accelerators()
    look('packages', host.packages)
    writable = False
    if job.folder:
        writable = look('workdir', lambda: host.workdir(job.root))  # the name itself may be refused
    else:
        look('workdir', lambda: Check('workdir', WARNING, 'not checked; --workdir=DIR names it'))
    look('cache', host.cache, jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None)
    alone = host.own_host(job.joined)
    computes = look('accelerators', lambda: host.accelerators(shown, job.platform, alone), limit=DEVICES_S)
    if not computes:
        look('devices', lambda: Check('devices', WARNING, 'devices, model and memory were not checked: the accelerators first'))
    rows = []
    for i, row in enumerate(job.rows):
        if i and watch.seconds() > TOTAL_S - ROW_S:
            text = f'{i} of {len(job.rows)} rows were checked; --variant=ROW checks one'
            look('rows', lambda text=text: Check('rows', WARNING, text))
            break
        rows.append(ExperimentChecks(job, row, computes, writable))
        rows[-1].run(look)
        if not rows[-1].opened:
            break  # the next rows would wait for the same data
    if writable:
        look('disk', lambda: host.disk(job.root, sum(checks.to_write for checks in rows)))
    count = {status: sum(check.status == status for check in found) for status in (OK, WARNING, FAILED)}
    if job.leads:
        print(f'{count[OK]} ok, {count[WARNING]} warnings, {count[FAILED]} FAILED; {watch.seconds():.1f} s', flush=True)
    code = NO if count[FAILED] else DONE
    blocked = not computes or any(thread.name.startswith(THREAD) for thread in threading.enumerate())
    return leave(job, code, EXIT_S - watch.seconds()) if blocked or job.joined.processes > 1 else code


def attempt(name: str, check: Callable[[], Check | list[Check]], seconds: float, late: str = FAILED) -> list[Check]:
    """The result of a check; an error is a FAILED line, and no answer within some seconds one of status `late`."""
    answers, seconds = queue.SimpleQueue(), max(LEAST_S, seconds)
    fix = FIXES.get(name.rsplit(' ', 1)[-1], '`train` shows where it stops')

    def work():
        try:
            found = check()
            answers.put(found if isinstance(found, list) else [found])
        except UserError as error:
            answers.put([Check(name, FAILED, str(error))])
        except BaseException as error:
            answers.put([Check(name, FAILED, f'{host.described(error)}, {_where(error)}; {fix}')])

    threading.Thread(target=work, name=f'{THREAD}{name}', daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return [Check(name, late, f'no answer within {seconds:.2g} s, and a run would wait as well; {fix}')]


def _where(error: BaseException) -> str:
    """'at model.py:77', the last place in code that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if 'site-packages' not in f.filename and f.filename != __file__] or frames
    return f'at {pathlib.PurePath(own[-1].filename).name}:{own[-1].lineno}'


def leave(job, code: int, seconds: float) -> int:
    """Ends the process from here: a normal end would wait for blocked threads and for the other processes.

    Rank 0 holds JAX's coordinator, whose end aborts the others, so it waits for their end first, at most `seconds`.
    """
    with contextlib.suppress(OSError):  # a closed pipe
        sys.stdout.flush()
        sys.stderr.flush()
    if job.joined.peers:
        job.joined.peers.end(max(1.0, seconds))
    os._exit(code)


VERB = Verb('doctor', doctor, 'checks the machine, the data and the workdir for what would stop a run', needs_devices=False,
            start_timeout=START_S)
