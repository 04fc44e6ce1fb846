"""Runs with their workdir in a store that fails now and then, is killed, broken or damaged: the same numbers as on a disk.

Tried by breaking: the records not sent before a checkpoint is sealed, a lost save not done again.
"""
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from bigjax.checkpoint import manager, manifest
from bigjax.io import storage
from tests.storage.fake_gcs import SILENT, Faults
from tests.trust import runs

pytestmark = [pytest.mark.slow, pytest.mark.trust]  # of the battery in its full form
HARM = 'an object store that answers 429, 503, late, cut or not at all'
MEANS = 'the run is the one on a disk, bit for bit'
KIND, WORKDIR, STEPS, SAVES = 'recurrent', 'gs://bucket/run', 60, 15
IN_SAVE = r'^POST .*upload.*name=run(/|%2F)checkpoints(/|%2F)30(/|%2F)state'
LONG = (f'--config.steps={STEPS}', '--config.log_every=5', '--config.eval_every=20', f'--config.checkpoint_every={SAVES}')


@pytest.fixture(autouse=True)
def full(request, battery):
    """They take minutes."""
    if battery == 'short' and request.config.option.markexpr.strip() == 'trust':
        pytest.skip('with --battery=full')


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """A run on the disk that was left alone."""
    workdir = tmp_path_factory.mktemp('straight') / 'run'
    code, out = runs.run(KIND, workdir, *LONG)
    assert code == 0, out[-3000:]
    return workdir


def numbers(workdir) -> list[dict]:
    """metrics.jsonl without the wall clock; each (step, name) is there once."""
    rows = [json.loads(line) for line in storage.text(storage.place(workdir) / 'metrics.jsonl').splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith('time/')} for row in rows]
    pairs = [(row['step'], name) for row in rows for name in row if name != 'step']
    assert len(set(pairs)) == len(pairs), 'a value was logged twice'
    return rows


def assert_same(straight) -> None:
    """Every array, every metric, the end."""
    ours, theirs = (manager.arrays(manager.newest(w)) for w in (WORKDIR, straight))
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert np.asarray(ours[path]).tobytes() == np.asarray(array).tobytes(), path
    assert numbers(WORKDIR) == numbers(straight)
    run, other = (json.loads(storage.read(storage.place(w) / 'run.json')) for w in (WORKDIR, straight))
    assert run['final'] == other['final'] and run['status'] == other['status'] == 'done'
    for step in manager.steps(storage.place(WORKDIR) / manager.FOLDER):
        assert not manifest.fault(storage.place(WORKDIR) / manager.FOLDER / str(step))


def wait_until(what, process, seconds=120):
    """Returns when `what()` is true while the process runs."""
    until = time.monotonic() + seconds
    while not what():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f'it did not come to that: {process.communicate()[0][-3000:]}')
        time.sleep(0.02)


def sealed(gcs, step: int) -> bool:
    """Whether the checkpoint of a step counts."""
    return ('bucket', f'run/checkpoints/{step}/manifest.json') in gcs.objects


def resumed(out: str) -> list[int]:
    """The step from which a run resumed, [] where it began."""
    return [int(step) for step in re.findall(r'\bresum\w+ .*\bstep (\d+)', out)]


def test_faults_of_every_kind_change_nothing(gcs, straight, tally):
    with tally(HARM, MEANS) as note:
        gcs.faults = faults = Faults(0.1, seed=2)
        code, out = runs.run(KIND, WORKDIR, *LONG)
        gcs.faults = Faults()
        note(times=sum(faults.injected.values()))
        assert code == 0, out[-3000:]
        assert min(faults.injected.values()) >= 3, faults.injected
        assert 'Traceback' not in out
        assert_same(straight)
    assert (gcs.objects['bucket', 'run/report.html'].data or b'').startswith(b'<!')


# A call is up to five steps (`log_every`), so that the eighth one begins after the second checkpoint.
@pytest.mark.parametrize('at', ['step:8', 'save:2', 'report:1'])
def test_killed_and_started_again_it_is_the_run_that_was_left_alone(gcs, straight, at, tally):
    with tally('SIGKILL of a run in an object store that fails now and then', MEANS):
        gcs.faults = Faults(0.03, ['429', '503', 'cut', 'lost'], seed=3)
        code, out = runs.run(KIND, WORKDIR, *LONG, trust=f'{at}:kill')
        assert code == -9, out[-3000:]
        left = [s for s in range(STEPS + 1) if sealed(gcs, s)]
        lines = gcs.objects['bucket', 'run/metrics.jsonl'].data.decode() if left else ''
        assert not left or f'"step": {left[-1]},' in lines, 'a checkpoint counts, and the records before it are not there'
        code, out = runs.run(KIND, WORKDIR, *LONG)
        gcs.faults = Faults()
        assert code == 0, out[-3000:]
        assert resumed(out) == left[-1:]
        assert_same(straight)


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_the_limit(gcs, straight, tally):
    """By gcsfs, which sends the records, and by TensorStore, which sends the arrays."""
    class Each(Faults):
        def draw(self, request):
            kind = 'arrays' if re.search(IN_SAVE, request) else 'records' if 'run.json' in request else ''
            seen[kind] = seen.get(kind, 0) + 1
            return super().draw(request) if kind and seen[kind] in (1, 3) else ''

    with tally(HARM, MEANS) as note:
        seen: dict[str, int] = {}
        gcs.faults = faults = Each(1.0, ['silent'])
        code, out = runs.run(KIND, WORKDIR, *LONG)
        gcs.faults = Faults()
        note(times=faults.injected['silent'])
        assert code == 0, out[-3000:]
        assert faults.injected['silent'] == 4 and min(seen['arrays'], seen['records']) > 3, seen
        assert max(faults.waited) < SILENT, 'the client left because the server did'
        assert 'Traceback' not in out
        assert_same(straight)


def test_a_lost_answer_costs_no_run(gcs, straight, tally):
    """TensorStore takes its own write for another's then, and fails."""
    with tally(HARM, MEANS) as note:
        class Once(Faults):
            def draw(self, request):
                return super().draw(request) if self.injected['lost'] < 3 else ''

        gcs.faults = Once(1.0, ['lost'], where=IN_SAVE + '.*manifest.ocdbt')
        code, out = runs.run(KIND, WORKDIR, *LONG)
        assert code == 0 and gcs.faults.injected['lost'] == 3, out[-3000:]
        assert re.search(r'\b30 .*ALREADY_EXISTS', out)
        assert_same(straight)
        note(times=3)


@pytest.mark.parametrize('when', ['between saves', 'in a save'])
def test_a_store_that_stays_broken_ends_the_run_in_a_line_and_nothing_is_lost(gcs, straight, monkeypatch, when, tally):
    with tally('an object store that stays broken', 'a stop in one line; started again ' + MEANS):
        monkeypatch.setenv('BIGJAX_STORE_SECONDS', '5')
        [process] = runs.start(KIND, WORKDIR, *LONG)
        if when == 'between saves':
            wait_until(lambda: sealed(gcs, 15), process)
        else:
            gcs.faults = Faults(1.0, ['503'], where=IN_SAVE)
            wait_until(lambda: gcs.faults.injected['503'], process)
        gcs.faults, began = Faults(1.0, ['503']), time.monotonic()
        [(code, out)] = runs.end([process], 200)
        assert code == 1 and time.monotonic() - began < 150, out[-3000:]
        last = [line for line in out.splitlines() if line.strip()][-1]
        assert re.match(r'mnist1d: gs://bucket/run\S*: ', last), out[-3000:]
        assert 'Traceback' not in out
        gcs.faults = Faults()
        newest = max(s for s in range(STEPS + 1) if sealed(gcs, s))
        code, out = runs.run(KIND, WORKDIR, *LONG)
        assert code == 0 and resumed(out) == [newest], out[-3000:]
        assert_same(straight)


def test_a_checkpoint_whose_upload_was_cut_does_not_count(gcs, straight, tally):
    with tally('SIGKILL while an object store cuts the upload of a checkpoint', MEANS):
        gcs.faults = Faults(1.0, ['cut'], where=IN_SAVE)
        [process] = runs.start(KIND, WORKDIR, *LONG)
        wait_until(lambda: gcs.faults.injected['cut'] > 2, process)
        process.kill()
        runs.end([process])
        gcs.faults = Faults()
        assert sealed(gcs, 15) and not sealed(gcs, 30) and gcs.names('run/checkpoints/30/')
        code, out = runs.run(KIND, WORKDIR, *LONG)
        assert code == 0 and resumed(out) == [15] and not gcs.names('run/damaged/'), out[-3000:]
        assert_same(straight)


@pytest.mark.parametrize('harm', ['cut in half', 'one bit'])
def test_a_damaged_object_is_found_and_the_checkpoint_before_is_used(gcs, straight, harm, tally):
    with tally('an object of a checkpoint in a store cut or changed', 'found; from the checkpoint before, ' + MEANS):
        [process] = runs.start(KIND, WORKDIR, *LONG)
        wait_until(lambda: sealed(gcs, 45), process)
        process.kill()
        runs.end([process])
        newest, before = sorted((s for s in range(STEPS + 1) if sealed(gcs, s)), reverse=True)[:2]
        name = max(gcs.names(f'run/checkpoints/{newest}/state'), key=lambda n: len(gcs.objects['bucket', n].data))
        data = bytearray(gcs.objects['bucket', name].data)
        data[len(data) // 2] ^= 1
        gcs.put('bucket', name, data if harm == 'one bit' else data[:len(data) // 2])
        done = ask('bigjax.checkpoint', 'verify', WORKDIR)
        assert done.returncode == 4 and re.search(rf'checkpoints/{newest}: (?!good)', done.stdout)
        code, out = runs.run(KIND, WORKDIR, *LONG)
        assert code == 0 and resumed(out) == [before], out[-3000:]
        assert gcs.names(f'run/damaged/{newest}/manifest.json')
        assert_same(straight)


def test_two_processes_write_their_own_shards(gcs, tmp_path, tally):
    flags = (*LONG[1:], '--config.steps=30', '--config.mesh=data:-1')
    with tally(HARM, MEANS) as note:
        for workdir in (tmp_path / 'run', WORKDIR):
            gcs.faults = faults = Faults(0.03, ['429', '503', 'slow', 'cut'], seed=4)
            for code, out in runs.end(runs.start(KIND, workdir, *flags, processes=2)):
                assert code == 0, out[-3000:]
        gcs.faults = Faults()
        note(times=sum(faults.injected.values()))
        assert {n.split('/')[4] for n in gcs.names('run/checkpoints/30/state/ocdbt')} == {'ocdbt.process_0', 'ocdbt.process_1'}
        assert_same(tmp_path / 'run')


def ask(module, *words):
    """The outcome of `python -m MODULE WORDS`."""
    return subprocess.run([sys.executable, '-m', module, *words], cwd=runs.ROOT, capture_output=True, text=True, timeout=120)


def test_every_command_takes_a_store(gcs, tmp_path):
    name, *own = runs.KINDS[KIND]
    done = ask(f'experiments.{name}', *own, *runs.SHORT, f'--workdir={WORKDIR}')
    assert done.returncode == 0, done.stderr[-3000:]
    shown = ask('bigjax.checkpoint', 'ls', WORKDIR)
    assert shown.returncode == 0 and re.search(r'24 .*finished', shown.stdout), shown
    assert ask('bigjax.checkpoint', 'verify', f'{WORKDIR}/checkpoints').stdout.count(': good') >= 2
    assert 'params' in ask('bigjax.checkpoint', 'cat', f'{WORKDIR}/checkpoints/24', 'params').stdout
    assert ask('bigjax.checkpoint', 'diff', WORKDIR, f'{WORKDIR}/checkpoints/24').stdout.startswith('equal')
    assert ask('bigjax.report', WORKDIR).stdout.strip() == f'{WORKDIR}/report.html'
    assert ask('bigjax.compare', WORKDIR, f'--out={tmp_path}/compare.html').returncode == 0
    judged = ask(f'experiments.{name}', 'eval', *own, *runs.SHORT, f'--workdir={WORKDIR}')
    assert judged.returncode == 0 and 'test/accuracy' in judged.stdout, judged.stderr[-2000:]
    begun = ask(f'experiments.{name}', *own, *runs.SHORT, f'--workdir={tmp_path}', f'--init_from={WORKDIR}')
    assert begun.returncode == 0 and f' {WORKDIR}\n' in begun.stdout, begun.stderr[-2000:]
    again = ask(f'experiments.{name}', *own, *runs.SHORT, f'--workdir={WORKDIR}', '--profile=1:3')
    assert again.returncode == 2 and again.stderr.strip().count('\n') == 0 and '--profile' in again.stderr
