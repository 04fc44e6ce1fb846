"""An experiment's own command line, with the means to harm it: which examples a step saw, and what happens at which phase.

    TRUST=evaluation:2:kill python -m tests.trust.driver mnist1d --variant=gru --workdir=DIR …

`TRUST` is PHASE:NUMBER:ACTION[:SECONDS[:PROCESS]]; at the NUMBERth time that the main thread enters PHASE ('lines' counts the
lines of metrics.jsonl) the process
    kill    sends itself SIGKILL, after SECONDS, from another thread
    term    sends itself SIGTERM; int: SIGINT
    sleep   sleeps in the main thread
    raise   raises ValueError
    shell   runs the command in TRUST_SHELL
`TRUST_LOG` names a file to which the phases are written as they are entered, and when a signal was sent; `TRUST_NAN` a training
example that is made not a number; `TRUST_STALL` is SPLIT:N, and a read beyond the first N examples of a split never returns.
"""
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np

from bigjax import cli
from bigjax.data.sources import ArraySource
from bigjax.io import atomic
from bigjax.watchdog.phases import Clock
from tests.trust import mutations

WHERE = os.environ.get('TRUST', '').split(':')
# Seconds before each step: without them a run is over before its first checkpoint is on the disk, or, where there are several
# processes, before the kill of one has been noticed by the others.
PACE = 0.08 if os.environ.get('BIGJAX_PROCESS') else 0.03


class Stalls(ArraySource):
    """A source that returns `answers` examples and then blocks."""

    def __init__(self, arrays, answers: int):
        super().__init__(arrays)
        self._answers = answers

    def __getitem__(self, index):
        self._answers -= 1
        if self._answers < 0:
            asleep()
        return super().__getitem__(index)

    def take(self, arrays, indices):
        self._answers -= len(indices)
        if self._answers < 0:
            asleep()
        return super().take(arrays, indices)


def with_ids(experiment):
    """The experiment, whose metrics also contain which examples a step saw: the sum of their numbers and one that
    depends on the order."""
    data, task = experiment.data, experiment.task

    split, _, count = os.environ.get('TRUST_STALL', '').partition(':')

    def numbered(source, name, broken=''):
        arrays = dict(source.arrays)
        if broken:
            arrays['x'] = np.array(arrays['x'])
            arrays['x'][int(broken)] = np.nan
        arrays['id'] = np.arange(len(source), dtype=np.int32)
        return Stalls(arrays, int(count)) if split == name else ArraySource(arrays)

    def loss(apply, variables, batch, rng, train):
        terms, aux = task.loss(apply, variables, batch, rng, train)
        place = jnp.arange(1, batch['id'].shape[0] + 1)
        sums = {'ids': jnp.sum(batch['id']), 'order': jnp.sum(batch['id'] * place % 8191)}
        more = {k: (v.astype(jnp.float32), jnp.float32(1)) for k, v in sums.items()}
        return terms, aux._replace(metrics={**aux.metrics, **more})

    train = numbered(data.train, 'train', os.environ.get('TRUST_NAN'))
    evals = {name: numbered(source, name) for name, source in data.evals.items()}
    return dataclasses.replace(experiment, task=dataclasses.replace(task, loss=loss),
                               data=dataclasses.replace(data, train=train, evals=evals))


def harm(phase: str, seen: dict) -> None:
    """Applies the action of TRUST at its phase."""
    seen[phase] = seen.get(phase, 0) + 1
    if len(WHERE) < 3 or phase != WHERE[0] or seen[phase] != int(WHERE[1]):
        return
    action, seconds, process = (*WHERE[2:], '', '')[:3]
    if process and process != os.environ.get('BIGJAX_PROCESS'):
        return
    if action in ('kill', 'term', 'int'):
        if log := os.environ.get('TRUST_LOG'):
            with open(log, 'a') as file:
                file.write(f'signal {time.time()}\n')
        number = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'int': signal.SIGINT}[action]
        threading.Timer(float(seconds or 0), os.kill, (os.getpid(), number)).start()
        if not float(seconds or 0):
            time.sleep(0.05)  # the signal is there before the phase continues
    elif action == 'sleep':
        asleep()
    elif action == 'shell':
        subprocess.run(os.environ['TRUST_SHELL'], shell=True)
    elif action == 'raise':
        raise ValueError('injected')


def asleep():
    """Blocks as a stuck process does."""
    time.sleep(10_000)


def hook() -> None:
    """Puts `harm` where phases are entered and lines are written."""
    seen, enter, append = {}, Clock.enter, atomic.append
    log = os.environ.get('TRUST_LOG')

    def entered(self, phase, step=None):
        before = enter(self, phase, step)
        if threading.current_thread() is threading.main_thread():
            if log and before != phase:
                with open(log, 'a') as file:
                    file.write(f'{phase} {self.now.step}\n')
            harm(phase, seen)
            if phase == 'step':
                time.sleep(PACE)
        return before

    def appended(path, line):
        append(path, line)
        harm('lines', seen)

    Clock.enter, atomic.append = entered, appended


def main() -> None:
    """Runs `bigjax.cli.main` for the experiment that the first argument names."""
    name = sys.argv.pop(1)
    module = importlib.import_module(f'experiments.{name}')
    build = module.get_experiment
    module.get_experiment = lambda config: with_ids(build(config))
    hook()
    mutations.apply()
    sys.modules['__main__'] = module
    cli.main()


if __name__ == '__main__':
    main()
