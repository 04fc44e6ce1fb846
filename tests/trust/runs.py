"""Real processes that train something small, are harmed, and are compared with a run that was left alone."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

from bigjax.checkpoint import manager

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EVERY = 24, 4  # a run's, and between its checkpoints
SHORT = ('--config.data=fake', f'--config.steps={STEPS}', '--config.batch_size=8', '--config.log_every=1',
         '--config.eval_every=6', f'--config.checkpoint_every={EVERY}', '--config.eval_batch_size=64', '--config.mesh=data:-1')
KINDS = {
    'batch statistics': ('cifar10', '--variant=resnet20', '--config.model.blocks=(1, 1, 1)'),
    'dropout and ema': ('mnist', '--variant=dropout', '--config.model.features=(16, 16, 16)', '--config.ema=0.9'),
    'recurrent': ('mnist1d', '--variant=gru', '--population=1', '--config.best=test/accuracy'),
    'population': ('mnist1d', '--variant=mlp', '--population=3'),
}


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(kind: str, workdir, *options, trust: str = '', processes: int = 1, log='', nan='',
          shell='', stall='') -> list[subprocess.Popen]:
    """The processes of one run; `trust`, `log`, `nan`, `shell` and `stall` are the driver's."""
    name, *own = KINDS[kind]
    command = [sys.executable, '-m', 'tests.trust.driver', name, *own, *SHORT, f'--workdir={workdir}', *options]
    driver = {'TRUST': trust, 'TRUST_LOG': str(log), 'TRUST_NAN': str(nan), 'TRUST_SHELL': shell, 'TRUST_STALL': stall}
    env = {**os.environ, **driver, 'MPLBACKEND': 'Agg', 'PYTHONPATH': str(ROOT)}
    if processes > 1:
        env |= {'BIGJAX_COORDINATOR': f'127.0.0.1:{free_port()}', 'BIGJAX_PROCESSES': str(processes)}
    return [subprocess.Popen(command, cwd=ROOT, env=env | ({'BIGJAX_PROCESS': str(i)} if processes > 1 else {}),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for i in range(processes)]


def end(running, seconds: float = 300) -> list[tuple[int, str]]:
    """[(exit code, what was printed)]; no process outlives the call."""
    until = time.monotonic() + seconds
    try:
        out = [p.communicate(timeout=max(1.0, until - time.monotonic()))[0] for p in running]
        return [(p.returncode, text) for p, text in zip(running, out, strict=True)]
    finally:
        for process in running:
            process.kill()


def run(kind: str, workdir, *options, **more) -> tuple[int, str]:
    """(exit code, output) of process 0."""
    return end(start(kind, workdir, *options, **more))[0]


def numbers(workdir) -> list[dict]:
    """metrics.jsonl without the wall clock; each (step, name) is there once."""
    rows = [json.loads(line) for line in (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith('time/')} for row in rows]
    pairs = [(row['step'], name) for row in rows for name in row if name != 'step']
    assert len(set(pairs)) == len(pairs), 'a value was logged twice'
    return rows


def assert_same(workdir, straight) -> None:
    """Parameters, optimizer state, moving average, model state, best weights, step and seed; examples; metrics: bit for bit.

    And the same checkpoints are kept.
    """
    ours, theirs = (manager.arrays(manager.newest(w)) for w in (workdir, straight))
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert np.asarray(ours[path]).tobytes() == np.asarray(array).tobytes(), path
    assert numbers(workdir) == numbers(straight)
    kept = [manager.steps(pathlib.Path(w) / manager.FOLDER) for w in (workdir, straight)]
    assert kept[0] == kept[1]
    runs = [json.loads((pathlib.Path(w) / 'run.json').read_text()) for w in (workdir, straight)]
    assert runs[0]['final'] == runs[1]['final'] and runs[0]['status'] == runs[1]['status'] == 'done'


def reached(workdir) -> int:
    """The last step that was logged, whole lines only; 0 for none."""
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    lines = path.read_text().split('\n')[:-1] if path.exists() else []
    return max((json.loads(line)['step'] for line in lines), default=0)


def saved(workdir) -> int:
    """The step of the newest good checkpoint, 0 for none."""
    found = manager.steps(pathlib.Path(workdir) / manager.FOLDER)
    return found[-1] if found else 0
