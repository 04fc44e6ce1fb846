"""The verb `rerun`: repeats a past run from its own record, and compares the results.

    python -m launch rerun WORKDIR [--to=FOLDER] [--losses=20] [--trust_patch]

The code is the commit in WORKDIR/run.json with WORKDIR/source.patch applied, in a folder of its own; the command is the run's,
with another workdir. It is interrupted once as many training losses are recorded as are compared; --losses=0 lets it finish.

The record may come from another user. Of its command only the flags of training are kept. Its patch is code: the files that it
changes are printed, and a patch that another user wrote, or that adds files outside bigjax/ and experiments/ (modules that
could shadow a library), runs only with --trust_patch.
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

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import printable
from bigjax.runs.reader import read_metrics, read_run
from launch.lines import log
from launch.outcome import DONE, FAILED, NO

SHA = re.compile('[0-9a-f]{40}')
CODE = ('bigjax/', 'experiments/')
VALUED = ('variant', 'init_from', 'platform', 'profile', 'population', 'phase_timeouts', 'budgets', 'grace', 'start_timeout',
          'heartbeat')
SWITCHES = ('strict', 'deterministic', 'check')
DROPPED = ('workdir', 'compile_cache', 'out', 'jobs')  # a record must not choose where to write, or compiled programs to run
ROOT = pathlib.Path(__file__).resolve().parent.parent
LOSS = 'train/loss'
LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')  # their versions can change the numbers


def verb(options, names: Sequence[str], command: Sequence[str]) -> int:
    """Runs the command again, compares, and prints the differences."""
    if len(names) != 1 or command:
        raise UserError("rerun: expected one WORKDIR and no command, which its run.json has; fix: write 'rerun WORKDIR'",
                        code='rerun/usage')
    workdir = pathlib.Path(names[0]).expanduser()
    run = read_run(workdir)
    with tempfile.TemporaryDirectory(prefix='rerun-') as place:
        code = code_of(workdir, run, pathlib.Path(place) / 'code', trusted=options.trust_patch or options.dry_run)
        to = pathlib.Path(options.to or pathlib.Path(place) / 'run').absolute()
        if (to / 'run.json').exists():
            raise UserError(f'--to={to}: holds a run already; fix: name another folder', code='rerun/folder-in-use')
        command = command_of(run, to)
        shown = f'{shlex.join(command)} (commit {(run.get("git") or {}).get("sha") or "as it is here"})'
        log(shown if shown.isprintable() else ascii(shown))
        if options.dry_run:
            return DONE
        ended = follow(command, code, to, options.losses)
        if not (to / 'run.json').exists():
            log(f'the run wrote no record: exit {ended}')
            return FAILED
        return compare(workdir, run, to, options.losses)


def code_of(workdir: pathlib.Path, run: dict, to: pathlib.Path, trusted: bool = False) -> pathlib.Path:
    """Restores the code of the run; returns its folder.

    Args:
      trusted: apply a patch of any author and content.

    Raises:
      UserError: the commit is not here, or its patch does not apply, or is not trusted.
    """
    sha = (run.get('git') or {}).get('sha')
    if not sha:
        log('the run has no commit: uses the code that is installed here')
        return ROOT
    if not SHA.fullmatch(sha):
        raise UserError(f'{workdir}/run.json: got commit {printable(sha)}, expected 40 hexadecimal digits; fix: copy the '
                        'record again', code='rerun/bad-commit')
    try:
        for command in (('clone', '-q', '--shared', '--no-checkout', str(ROOT), str(to)),
                        ('-C', str(to), 'checkout', '-q', '--detach', sha)):
            subprocess.run(['git', *command], capture_output=True, check=True)
    except FileNotFoundError:
        raise UserError("'git': no such program here; fix: install it: the code of the run is a commit",
                        code='rerun/no-git') from None
    except subprocess.CalledProcessError as error:
        words = ' '.join(error.stderr.decode(errors='replace').split())
        raise UserError(f'commit {sha}: not in {ROOT} ({words}); fix: git fetch it, or rerun in a clone that has it',
                        code='rerun/no-commit') from None
    patch = workdir / 'source.patch'
    if patch.exists():
        _apply(patch, sha, to, trusted)
    elif (run.get('git') or {}).get('dirty'):
        log('note: the code had changes that were not recorded; runs the commit alone')
    return to


def _apply(patch: pathlib.Path, sha: str, to: pathlib.Path, trusted: bool) -> None:
    """Applies a patch, after printing the files that it changes.

    Raises:
      UserError: it does not apply to the commit, or is not trusted.
    """
    copy = to.with_name('source.patch')  # the patch that is checked is the one that is applied
    copy.write_bytes(safe_read.content(patch))
    try:
        git = ['git', '-C', str(to), 'apply']
        apply = lambda *words: subprocess.run([*git, *words, str(copy)], capture_output=True, check=True)
        changed = [line.split('\t', 2)[-1] for line in os.fsdecode(apply('--numstat', '-z').stdout).split('\0') if line]
        before = {name for name in changed if os.path.lexists(to / name)}
        apply('--whitespace=nowarn')
    except subprocess.CalledProcessError as error:
        words = printable(' '.join(error.stderr.decode(errors='replace').split()))
        raise UserError(f'{patch}: does not apply to commit {sha[:10]} ({words})', code='rerun/patch-does-not-apply') from None
    shown = [printable(name) for name in changed]
    log(f"source.patch changes {', '.join(shown[:20])}{f' and {len(shown) - 20} more files' if len(shown) > 20 else ''}")
    strange = sorted(name for name in changed if name not in before and not name.startswith(CODE))
    reason = (f'it adds {printable(strange[0])}, outside {" and ".join(CODE)}' if strange else
              'another user wrote it' if any(path.stat().st_uid != os.getuid() for path in (patch, patch.parent)) else '')
    if reason and not trusted:
        raise UserError(f'{patch}: {reason}, and it would be executed; fix: read it, then add --trust_patch',
                        code='rerun/untrusted-patch')


def command_of(run: dict, to: pathlib.Path) -> list[str]:
    """The training flags of the run's command, with another workdir and this Python.

    Raises:
      UserError: the command is not an experiment's, or has a flag or verb other than those of training.
    """
    given = run.get('command') or ''
    try:
        words = shlex.split(given)
    except ValueError:  # a quote that is not closed
        words = []
    if words[:2] != ['python', '-m'] or not re.fullmatch(r'experiments\.\w+', ' '.join(words[2:3]), re.ASCII):
        raise UserError(f"the run's command: got '{printable(given)}', expected 'python -m experiments.NAME …'",
                        code='rerun/not-an-experiment')
    kept, queue = [], words[3:]
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition('=')
        name = flag.lstrip('-') if re.match('--?[a-z]', flag) else ''  # as the flags' own parser reads them
        if name.removeprefix('no') in SWITCHES and (not equals or not name.startswith('no')):
            kept.append(word)
        elif name in (*VALUED, *DROPPED) or (name.startswith('config.') and name != 'config.'):
            if not equals and not queue:
                raise UserError(f"the run's command ends with {printable(word)}, which needs a value",
                                code='rerun/not-an-experiment')
            value = value if equals else queue.pop(0)
            kept += [] if name in DROPPED else [f'--{name}={value}']
        elif word != 'train':
            raise UserError(f"the run's command has {printable(word)}; expected only the verb train and its flags",
                            code='rerun/not-repeated')
    return [sys.executable, '-m', words[2], *kept, f'--workdir={to}']


def follow(command: Sequence[str], code: pathlib.Path, to: pathlib.Path, losses: int) -> int:
    """Runs the command until it ends or has recorded that many losses; returns its exit code."""
    env = {**os.environ, 'PYTHONPATH': str(code)}
    process = subprocess.Popen(command, cwd=code, env=env)
    try:
        interrupted = False
        while process.poll() is None:
            if losses and not interrupted and (to / 'metrics.jsonl').exists() and len(losses_of(to)) >= losses:
                process.send_signal(signal.SIGTERM)
                interrupted = True
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    return process.returncode


def losses_of(workdir: pathlib.Path) -> list[tuple[int, object]]:
    """(step, loss or the losses of a population's members) in the order of training."""
    return [(line['step'], line.get(f'{LOSS}/members') or line[LOSS]) for line in read_metrics(workdir) if LOSS in line]


def compare(workdir: pathlib.Path, run: dict, to: pathlib.Path, losses: int) -> int:
    """Prints the differences of machine, versions, data and losses; returns DONE if the losses are equal."""
    again = read_run(to)
    before, after = losses_of(workdir), losses_of(to)
    count = min(losses or len(before), len(before))
    for what, key in (('device', 'devices'), ('host CPUs', 'host_cpus')):
        if run.get(key) != again.get(key):
            log(f'{what}: then {run.get(key)}, now {again.get(key)}')
    then, now = run.get('versions') or {}, again.get('versions') or {}
    if moved := [f'{name} {then.get(name)} -> {now.get(name)}' for name in LIBRARIES if then.get(name) != now.get(name)]:
        log(f"versions: {', '.join(moved)}")
    data = [(r.get('info') or {}).get('sample') for r in (run, again)]
    if data[0] and data[0] != data[1]:
        log(f'the data differ: {data[0]} then, {data[1]} now')
    if not count:
        raise UserError(f'{workdir}: no training loss is recorded', code='rerun/no-losses')
    for i, ((step, loss), (other_step, other)) in enumerate(zip(before[:count], after, strict=False)):
        if (step, loss) != (other_step, other):
            log(f'loss {i + 1} of {count}, step {step}: {loss} then, {other} at step {other_step} now')
            return NO
    if len(after) < count:
        log(f'only {len(after)} of {count} losses were recorded: {again.get("status")}, {again.get("error")}')
        return FAILED
    log(f'equal to the last bit: {count} losses, steps {before[0][0]} to {before[count - 1][0]}')
    return DONE
