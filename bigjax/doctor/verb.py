"""The verb `doctor`: what would stop a run, found in seconds, before anything is allocated or compiled.

One line a check: ok, warning, or FAILED with what, where and the mend. A check is a plain function that gives a `Check`; one
that raises, or does not answer in time, is a FAILED line, and the others go on: whatever may wait for ever (a disk, a store, a
driver) is asked for in a thread of its own. The checks stand in `bigjax.doctor.host` (the machine), `bigjax.doctor.versions`
(the libraries) and `bigjax.doctor.experiment_checks`; `bigjax.doctor.together` lets several processes look at the same time.
"""
import contextlib
import importlib.metadata
import os
import pathlib
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import jax

from bigjax.distributed import accelerators
from bigjax.doctor import host, versions
from bigjax.doctor.experiment_checks import Patient
from bigjax.doctor.host import FAILED, OK, WARNING, Check
from bigjax.doctor.together import Together, several
from bigjax.errors import DONE, NO, UserError
from bigjax.job import Verb

LIMIT, SHARING, STARTING = 10.0, 12.0, 15.0  # seconds for a check, for the workdir, for the devices
TOTAL, END = 18.0, 23.0  # seconds until the last check begins, and until the answer; a start takes up to 5 s before
DOCTOR_START = 10.0  # seconds to wait for the other processes
LEAST = 0.5  # seconds for a check when the time is over
ROW_SECONDS = 5.0  # that have to be left to begin with another row
LEAVING = 3.0  # seconds in which the other processes have ended
MENDS = {  # of what a check does not foresee
    'versions': '`pip check` shows what is installed',
    'holders': '`fuser -v` and the files of the devices show them, too',
    'accelerators': 'look at the system\'s log and at what holds the devices (nvidia-smi), or --platform=cpu',
    'cache': '--compile_cache=DIR names another folder',
    'workdir': 'look at its file system (df), or choose another --workdir',
    'clocks': 'look at what the other processes print',
    'experiment': 'mend get_config or get_experiment of the script',
    'run': 'look at run.json and config.json there, or choose another --workdir',
    'data': 'look at the data (--config.data_dir), or --config.data=fake does without',
    'devices': 'write --config.mesh=data:-1',
    'model': 'mend the model or its config; `train` shows where it stops',
    'memory': '`plan` counts it by compiling',
    'disk': 'look at its file system (df), or choose another --workdir'}


def doctor(job) -> int:
    """Looks at the machine and at every row of the experiment; says all that it finds, and exits 4 where something FAILED."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # else a GPU's memory is taken from whoever computes there
    started, found = time.monotonic(), []
    together = Together(job.joined.process, job.joined.processes)

    def look(name: str, check: Callable, *args, limit: float = LIMIT, late: str = FAILED) -> bool:
        """Whether it did not fail."""
        left = min(limit, TOTAL - (time.monotonic() - started))
        answers = attempt(name, lambda: check(*args), left, late)
        for one in answers:
            found.append(one)
            if job.leads or one.status != OK:
                print(f'{one}' if job.leads else f'{one} (process {together.process})', flush=True)
        return all(one.status != FAILED for one in answers)

    shown = accelerators.accelerators()
    look('versions', lambda: versions.versions(accelerators.installed(), _requires(), platform.python_version()))
    look('holders', host.holders, shown)
    if together.processes > 1:
        look('clocks', host.clocks, together)
    writable = False
    if job.folder:
        writable = look('workdir', lambda: host.workdir(job.root, together), limit=SHARING)
    else:
        look('workdir', lambda: Check('workdir', WARNING, 'it was not looked at; --workdir=DIR names it'))
    look('cache', host.cache, jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None)
    alone = host.own_host(job.joined)
    computes = look('accelerators', lambda: host.accelerators(shown, job.platform, alone), limit=STARTING)
    if not computes:
        look('devices', lambda: Check('devices', WARNING, 'devices, model and memory were not looked at: mend the accelerators '
                                                          'first'))
    patients = []
    for i, row in enumerate(job.rows):
        if i and time.monotonic() - started > TOTAL - ROW_SECONDS:
            left = lambda i=i: Check('rows', WARNING, f'{i} of {len(job.rows)} rows were looked at; --variant=ROW looks at one')
            look('rows', left)
            break
        patients.append(Patient(job, row, computes, writable))
        patients[-1].examine(look)
        if not patients[-1].opened:
            break  # the next ones would wait for the same data
    if writable:
        look('disk', lambda: host.disk(job.root, sum(p.to_write for p in patients)))
    code = _answer(job, together, found, started)
    hangs = not computes or any(thread.name.startswith(THREAD) for thread in threading.enumerate())
    return leave(job, together, code) if hangs or together.processes > 1 else code


THREAD = 'doctor: '


def attempt(name: str, check: Callable[[], Check | list[Check]], seconds: float, late: str = FAILED) -> list[Check]:
    """What a check finds; an error is a FAILED line, and no answer within some seconds one of status `late`."""
    answers, seconds = queue.SimpleQueue(), max(LEAST, seconds)
    mend = MENDS.get(name.rsplit(' ', 1)[-1], '`train` shows where it stops')

    def ask():
        try:
            found = check()
            answers.put(found if isinstance(found, list) else [found])
        except UserError as error:
            answers.put([Check(name, FAILED, str(error))])
        except BaseException as error:
            answers.put([Check(name, FAILED, f'{host.described(error)}, {_where(error)}; {mend}')])

    threading.Thread(target=ask, name=f'{THREAD}{name}', daemon=True).start()  # a dead file system holds it for ever
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return [Check(name, late, f'no answer within {seconds:.2g} s, a run would wait as well, if it ever ends; {mend}')]


def _where(error: BaseException) -> str:
    """'at model.py:77', the last place in code that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if 'site-packages' not in f.filename and f.filename != __file__] or frames
    return f'at {pathlib.PurePath(own[-1].filename).name}:{own[-1].lineno}'


def _answer(job, together: Together, found: Sequence[Check], started: float) -> int:
    """The exit code, the same for all processes; process 0 says it in a line."""
    failures = sum(c.status == FAILED for c in found)
    everybody = together.ask('end', failures, END - (time.monotonic() - started), everybody=True)
    if silent := set(range(together.processes)) - set(everybody):
        print(Check('processes', FAILED, f'{several(silent)} did not come to an end; look at what is printed there'),
              flush=True)
    elsewhere = sum(everybody.values()) - failures
    if job.leads:
        failures += bool(silent)
        more = f', and {elsewhere} on other processes' if elsewhere else ''
        print(f'{sum(c.status == OK for c in found)} ok, {sum(c.status == WARNING for c in found)} warnings, {failures} FAILED'
              f'{more}; {time.monotonic() - started:.1f} s', flush=True)
    return NO if sum(everybody.values()) or silent else DONE


def leave(job, together: Together, code: int) -> int:
    """Ends the process here: the end of the program would wait for a thread that hangs, and for processes that do not come."""
    with contextlib.suppress(OSError):  # a pipe that nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    if job.joined.lifeline:
        job.joined.lifeline.tell('bye')
    together.last(LEAVING)
    os._exit(code)


def _requires() -> list[str]:
    try:
        return importlib.metadata.requires('bigjax') or []
    except importlib.metadata.PackageNotFoundError:
        return []


VERB = Verb('doctor', doctor, 'checks the machine, the data and the workdir for what would stop a run', needs_devices=False,
            start_timeout=DOCTOR_START)
