"""Real processes on this machine, joined by gloo: the same batches, losses and files as one process alone."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pytest

from bigjax.data import images
from bigjax.data.datasets import open_data
from bigjax.errors import UserError
from tests.distributed import worker
from tests.trust import runs as trust

ROOT = pathlib.Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def environment():
    """The environment of the tests: one device per process, and compiled code kept between runs."""
    cache = os.path.join(tempfile.gettempdir(), f'bigjax-test-cache-{jax.__version__}')
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'Agg', 'JAX_COMPILATION_CACHE_DIR': cache,
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}


def together(commands, seconds=600, folders=None):
    """[(exit code, output)] of commands that run side by side, each in its folder; none outlives the test."""
    running = [subprocess.Popen([sys.executable, '-m', *command], cwd=folder, env=environment(), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
               for command, folder in zip(commands, folders or [ROOT] * len(commands), strict=True)]
    try:
        return [(p.wait() if out is None else p.returncode, out) for p, out in
                [(p, p.communicate(timeout=seconds)[0]) for p in running]]
    finally:
        for process in running:
            process.kill()


def train(processes, workdir, experiment, *options):
    """The output of each process of a run; all must have ended well."""
    command = [f'experiments.{experiment}', f'--workdir={workdir}', *options]
    port = free_port()
    more = [[f'--coordinator=127.0.0.1:{port}', f'--processes={processes}', f'--process={i}'] for i in range(processes)]
    results = together([command + extra for extra in (more if processes > 1 else [[]])])
    assert [code for code, _ in results] == [0] * processes, '\n'.join(f'---\n{out[-3000:]}' for _, out in results)
    return [out for _, out in results]


def metrics(workdir):
    """{(step, name): value}, wall clock aside; every (step, name) once."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    pairs = [((row['step'], name), value) for row in rows for name, value in row.items()
             if name != 'step' and not name.startswith('time/')]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def assert_same(workdir, straight, steps=10**9):
    """The metrics of two runs up to a step, to 1e-6."""
    ours, alone = metrics(workdir), {key: value for key, value in metrics(straight).items() if key[0] <= steps}
    assert ours.keys() == alone.keys() and len(ours) > 10
    for key, value in alone.items():
        if key[1].endswith('/std'):  # a difference of nearly equal numbers
            continue
        assert ours[key] == pytest.approx(value, rel=1e-6), key


MLP = ('--variant=mlp', '--population=1', '--config.log_every=2', '--config.eval_every=10', '--config.checkpoint_every=10')
GPT = ('--variant=gpt', '--config.log_every=2', '--config.eval_every=0', '--config.checkpoint_every=0', '--config.steps=20',
       '--config.length=32', '--config.model.width=32', '--config.sample.tokens=8')


@pytest.fixture(scope='module')
def mlp(tmp_path_factory):
    """The workdir of one process alone."""
    workdir = tmp_path_factory.mktemp('mlp') / 'one'
    train(1, workdir, 'mnist1d', *MLP, '--config.steps=60')
    return workdir


@pytest.fixture(scope='module')
def gpt(tmp_path_factory):
    """The workdir of one process alone."""
    try:
        open_data('tiny_shakespeare', like='tiny_shakespeare', data_dir='', length=32)
    except UserError as error:
        pytest.skip(str(error))
    workdir = tmp_path_factory.mktemp('gpt') / 'one'
    train(1, workdir, 'tiny_shakespeare', *GPT)
    return workdir


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, mlp):
    first, second = train(2, tmp_path / 'two', 'mnist1d', *MLP, '--config.steps=20')
    assert_same(tmp_path / 'two', mlp, 20)
    assert '2 x cpu (cpu) of 2 processes' in first and 'test/accuracy' in first
    assert f'all 2 processes are here: {socket.gethostname()}: 0 1' in first
    assert not [line for line in second.splitlines() if not line.startswith('[Gloo]')]  # only process 0 prints
    run = json.loads((tmp_path / 'two' / 'run.json').read_text())
    assert run['status'] == 'done' and run['devices'] == {'platform': 'cpu', 'kind': 'cpu', 'count': 2, 'processes': 2}
    assert '--process' not in run['command'] and run['final']['test/examples']['mean'] == 1000
    assert (tmp_path / 'two' / 'report.html').exists()


@pytest.mark.slow
def test_each_process_holds_its_rows_and_judges_every_example_once(tmp_path):
    port, n = free_port(), 2
    results = together([['tests.distributed.worker', str(tmp_path), f'127.0.0.1:{port}', str(n), str(i)] for i in range(n)])
    assert [code for code, _ in results] == [0] * n, '\n'.join(out[-3000:] for _, out in results)
    found = [json.loads((tmp_path / f'{i}.json').read_text()) for i in range(n)]
    alone = worker.facts(tmp_path / 'alone', 'data:1')
    for step, whole in enumerate(alone['batches']):
        parts = [found[i]['batches'][step] for i in range(n)]
        assert [sorted(map(int, part)) for part in parts] == [[0, 2], [4, 6]]
        rows = {int(first): ids for part in parts for first, ids in part.items()}
        assert [i for first in sorted(rows) for i in rows[first]] == whole['0'], step
    assert found[0]['final'] == found[1]['final'] and found[0]['step'] == worker.STEPS
    assert alone['final']['test/examples'] == [19.0, 19.0] and alone['final'].keys() == found[0]['final'].keys()
    for name, values in alone['final'].items():
        assert found[0]['final'][name] == pytest.approx(values, rel=1e-5), name
    assert_same(tmp_path / 'run', tmp_path / 'alone')


@pytest.mark.slow
def test_four_processes_then_two_then_one(tmp_path, mlp):
    for processes, steps in ((4, 20), (2, 40), (1, 60)):
        out = train(processes, tmp_path / 'many', 'mnist1d', *MLP, f'--config.steps={steps}')[0]
        assert ('resuming from' in out) == (steps > 20)
    assert_same(tmp_path / 'many', mlp)


@pytest.mark.slow
def test_one_process_then_two_then_one_read_the_same_batches(tmp_path):
    """From the host pipeline: which examples a step sees, and their order, are in the metrics of `tests.trust.driver`."""
    def train(folder, steps, processes=1, *options):
        asked = ('--config.resident=no', f'--config.steps={steps}', *options)
        done = trust.end(trust.start('recurrent', tmp_path / folder, *asked, processes=processes))
        assert [code for code, _ in done] == [0] * processes, '\n'.join(out[-3000:] for _, out in done)
        assert 'data read by the pipeline' in done[0][1]
        return {(row['step'], name): value for row in trust.numbers(tmp_path / folder) for name, value in row.items()
                if name in ('train/ids', 'train/order', 'train/loss')}

    alone = train('alone', 12)
    train('many', 4)
    train('many', 8, 2, '--config.data_workers=1')
    many = train('many', 12)
    assert alone.keys() == many.keys() and len(alone) == 36
    for (step, name), value in alone.items():
        assert many[step, name] == (pytest.approx(value, rel=1e-4) if name == 'train/loss' else value), (step, name)
    assert len({value for (_, name), value in alone.items() if name == 'train/order'}) == 12


@pytest.mark.slow
@pytest.mark.parametrize('processes', [2, 4])
def test_a_gpt_of_several_processes(tmp_path, gpt, processes):
    train(processes, tmp_path / 'many', 'tiny_shakespeare', *GPT)
    assert_same(tmp_path / 'many', gpt)
    texts = [(workdir / 'artifacts' / 'sample.txt').read_text() for workdir in (tmp_path / 'many', gpt)]
    assert len(texts[0]) == len(texts[1]) == 9


@pytest.mark.slow
def test_four_processes_share_the_state(tmp_path, gpt):
    train(4, tmp_path / 'many', 'tiny_shakespeare', *GPT, '--config.mesh=data:2,fsdp:2')
    assert_same(tmp_path / 'many', gpt)
    shutil.copytree(gpt, tmp_path / 'one')
    train(2, tmp_path / 'many', 'tiny_shakespeare', *GPT, '--config.mesh=fsdp:2', '--config.steps=24')
    train(1, tmp_path / 'one', 'tiny_shakespeare', *GPT, '--config.steps=24')
    assert_same(tmp_path / 'many', tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.parametrize('wrong', [0, 1])
def test_one_process_that_fails_ends_the_others(tmp_path, wrong):
    """Neither is aborted by JAX before it has printed why it ends, whichever of the two ends first."""
    port = free_port()
    command = ['experiments.mnist1d', f'--workdir={tmp_path}/run', *MLP, f'--coordinator=127.0.0.1:{port}', '--processes=2']
    began = time.monotonic()
    commands = [[*command, f'--process={process}'] for process in (0, 1)]
    commands[wrong].append('--config.data_dir=/nowhere')
    results = together(commands, 120)
    assert time.monotonic() - began < 90 and [code for code, _ in results] == [2, 2], results
    assert 'data_dir=/nowhere' in results[wrong][1].splitlines()[-1]
    assert f'process {wrong} on ' in results[1 - wrong][1].splitlines()[-1]


def hosts(tmp_path, counts, write):
    """The output of processes that each find, under the same relative path, a data set of their own; and the seconds of all."""
    folders = [tmp_path / f'host{i}' for i in range(len(counts))]
    port, commands = free_port(), []
    for i, (folder, count) in enumerate(zip(folders, counts, strict=True)):
        folder.mkdir()
        spec = write(folder, count)
        commands.append(['experiments.mnist', '--variant=dropout', f'--config.data={spec}', '--config.steps=2',
                         '--config.batch_size=6', f'--workdir={tmp_path}/run', f'--coordinator=127.0.0.1:{port}',
                         f'--processes={len(counts)}', f'--process={i}'])
    began = time.monotonic()
    return together(commands, 120, folders), time.monotonic() - began


def write_images(folder, count, seed=0):
    """Writes `count` images of two classes; the folders of the classes exist also without any."""
    rng = np.random.default_rng(seed)
    for i in range(2):
        (folder / 'shard' / 'ab'[i]).mkdir(parents=True)
    for i in range(count):
        image = rng.integers(0, 255, (28, 28, 1), dtype=np.uint8)
        (folder / 'shard' / 'ab'[i % 2] / f'{i}.png').write_bytes(images.encode_png(image))
    return 'folder:shard'


@pytest.mark.slow
@pytest.mark.parametrize(('counts', 'words'), [
    ((10, 7), 'train: 8 records'), ((10, 7, 0), 'no images in the sub-folder a')])
def test_hosts_with_other_files_are_refused(tmp_path, counts, words):
    """Shards of 10, 7 and no files, a tenth of each class held out; the one without reports it, and no process waits for it."""
    results, seconds = hosts(tmp_path, counts, write_images)
    assert [code for code, _ in results] == [2] * len(counts) and seconds < 60, results
    for _, out in results:
        assert words in out.splitlines()[-1] and 'Traceback' not in out, out
    last = results[0][1].splitlines()[-1]
    if 0 in counts:
        assert f'process {counts.index(0)} on {socket.gethostname()}' in last and 'fix:' in last
    else:
        assert '5 records (sample ' in last and f'on process 1 on {socket.gethostname()}' in last
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('same', [True, False])
def test_hosts_with_as_many_files_need_the_same(tmp_path, same):
    seeds = iter([0, 0 if same else 1])
    results, _ = hosts(tmp_path, (12, 12), lambda folder, count: write_images(folder, count, next(seeds)))
    assert [code for code, _ in results] == [0 if same else 2] * 2, results
    if not same:
        assert all('config.data: got different data: train: ' in out for _, out in results)
