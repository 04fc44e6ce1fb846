"""The verb `rerun`: a past run again, from its own record, and whether it comes out the same.

    python -m launch rerun WORKDIR [--to=FOLDER] [--losses=20]

The code is the commit in WORKDIR/run.json with WORKDIR/source.patch on it, in a folder of its own; the command is the run's,
with another workdir. It is stopped when as many training losses are recorded as are compared; --losses=0 lets it end.
exit 0: equal to the last bit · 4: not
"""
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bigjax import UserError
from bigjax.train.recorded import read_metrics, read_run
from launch.lines import say
from launch.outcome import DONE, FAILED, NO

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSS = 'train/loss'
NUMBERS = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')  # versions that decide them


def verb(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Runs it, compares, and says what differs."""
    if len(names) != 1 or command:
        raise UserError("write 'rerun WORKDIR'; the command is the one in its run.json")
    workdir = pathlib.Path(names[0]).expanduser()
    run = read_run(workdir)
    with tempfile.TemporaryDirectory(prefix='rerun-') as place:
        code = code_of(workdir, run, pathlib.Path(place) / 'code')
        to = pathlib.Path(options.to or pathlib.Path(place) / 'run').absolute()
        if (to / 'run.json').exists():
            raise UserError(f'--to={to}: there is a run already; name another folder')
        command = command_of(run, to)
        say(f'{shlex.join(command)} (commit {(run.get("git") or {}).get("sha") or "as it is here"})')
        if options.dry_run:
            return DONE
        ended = follow(command, code, to, options.losses)
        if not (to / 'run.json').exists():
            say(f'the run came to nothing: exit {ended}')
            return FAILED
        return compare(workdir, run, to, options.losses)


def code_of(workdir: pathlib.Path, run: dict, to: pathlib.Path) -> pathlib.Path:
    """The code that the run had.

    Raises:
      UserError: its commit is not here, or its changes cannot be put on it.
    """
    sha = (run.get('git') or {}).get('sha')
    if not sha:
        say('the run knows no commit: the code is what is installed here')
        return ROOT
    try:
        for command in (('clone', '-q', '--shared', '--no-checkout', str(ROOT), str(to)),
                        ('-C', str(to), 'checkout', '-q', '--detach', sha)):
            subprocess.run(['git', *command], capture_output=True, check=True)
    except FileNotFoundError:
        raise UserError('git: no such program here; install it: the code of the run is a commit') from None
    except subprocess.CalledProcessError as error:
        words = ' '.join(error.stderr.decode(errors='replace').split())
        raise UserError(f'commit {sha}: not in {ROOT} ({words}); git fetch it, or run this in a clone that has it') from None
    patch = workdir / 'source.patch'
    if patch.exists():
        done = subprocess.run(['git', '-C', str(to), 'apply', '--whitespace=nowarn', str(patch.absolute())],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{patch}: cannot be put on commit {sha[:10]} ({' '.join(done.stderr.split())})")
    elif (run.get('git') or {}).get('dirty'):
        say('note: the code had changes that were not kept; what is run is the commit alone')
    return to


def command_of(run: dict, to: pathlib.Path) -> list[str]:
    """The run's command with another workdir, by this Python.

    Raises:
      UserError: it has none.
    """
    words = shlex.split(run.get('command') or '')
    if words[:2] != ['python', '-m'] or not re.fullmatch(r'experiments\.\w+', ' '.join(words[2:3])):  # a record is data
        raise UserError(f"the run's command is {run.get('command')!r}: not one of an experiment")
    rest, skip = [], False
    for word in words[3:]:
        if not skip and not word.startswith('--workdir'):
            rest.append(word)
        skip = word == '--workdir'
    return [sys.executable, '-m', words[2], f'--workdir={to}', *rest]


def follow(command: Sequence[str], code: pathlib.Path, to: pathlib.Path, losses: int) -> int:
    """Until it ends, or has recorded so many losses; its output passes. The exit code."""
    env = {**os.environ, 'PYTHONPATH': str(code)}
    process = subprocess.Popen(command, cwd=code, env=env)
    try:
        told = False
        while process.poll() is None:
            if losses and not told and (to / 'metrics.jsonl').exists() and len(losses_of(to)) >= losses:
                process.send_signal(signal.SIGTERM)
                told = True
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    return process.returncode


def losses_of(workdir: pathlib.Path) -> list[tuple[int, object]]:
    """(step, loss, each member's) in the order of training."""
    return [(line['step'], line.get(f'{LOSS}/members') or line[LOSS]) for line in read_metrics(workdir) if LOSS in line]


def compare(workdir: pathlib.Path, run: dict, to: pathlib.Path, losses: int) -> int:
    """Says what differs: machine, versions, data, losses; DONE where the losses do not."""
    again = read_run(to)
    before, after = losses_of(workdir), losses_of(to)
    count = min(losses or len(before), len(before))
    for what, key in (('device', 'devices'), ('host CPUs', 'host_cpus')):
        if run.get(key) != again.get(key):
            say(f'{what}: then {run.get(key)}, now {again.get(key)}')
    then, now = run.get('versions') or {}, again.get('versions') or {}
    if moved := [f'{name} {then.get(name)} -> {now.get(name)}' for name in NUMBERS if then.get(name) != now.get(name)]:
        say(f"versions: {', '.join(moved)}")
    data = [(r.get('info') or {}).get('sample') for r in (run, again)]
    if data[0] and data[0] != data[1]:
        say(f'the data is another: {data[0]} then, {data[1]} now')
    if not count:
        raise UserError(f'{workdir}: it has recorded no training loss to compare with')
    for i, ((step, loss), (other_step, other)) in enumerate(zip(before[:count], after, strict=False)):
        if (step, loss) != (other_step, other):
            say(f'loss {i + 1} of {count}, step {step}: {loss} then, {other} at step {other_step} now')
            return NO
    if len(after) < count:
        say(f'only {len(after)} of {count} losses were recorded: {again.get("status")}, {again.get("error")}')
        return FAILED
    say(f'equal to the last bit: {count} losses, steps {before[0][0]} to {before[count - 1][0]}')
    return DONE
