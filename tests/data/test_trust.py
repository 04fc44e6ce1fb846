"""What a run trusts the host pipeline with: it goes on anywhere as if it had never stopped, and says what goes wrong."""
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import write_folder

from bigjax.data import builders, folders, images, pipeline, sources, windows
from bigjax.data.datasets import open_data
from bigjax.data.loaders import own, parquet, tfds_hf
from bigjax.data.loaders import records as loaded
from bigjax.data.schema import Schema
from bigjax.data.sources import ArraySource
from bigjax.errors import UserError
from experiments import vit_imagenet

BATCH = 8


def source(length=30):
    return ArraySource({'x': np.arange(length, dtype=np.int32)})


def noisy(example, rng, train):
    return {**example, 'noise': rng.normal(size=2)}


def records(first=0, steps=6, *, part=(0, 1), length=30, shuffle=True, transform=noisy):
    return pipeline.TrainBatches(source(length), 5, BATCH, shuffle, first, steps, *part, transform)


def read(made, threads=3, workers=0):
    batches = pipeline.read(made, threads=threads, workers=workers)
    found = list(batches)
    batches.close()
    return found


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert set(x) == set(y) and all(np.array_equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize('first', [0, 2])
@pytest.mark.parametrize('part', [(0, 1), (0, 2), (1, 2), (3, 4)])
@pytest.mark.parametrize('shuffle, transform', [(True, noisy), (True, None), (False, noisy), (False, None)])
def test_grain_finds_it_the_same_after_every_checkpoint(first, part, shuffle, transform):
    made = records(first, part=part, shuffle=shuffle, transform=transform)
    grain.experimental.assert_equal_output_after_checkpoint(pipeline.dataset(made, threads=3, workers=0))


class Rows:
    """As a split of Hugging Face's `datasets`."""

    column_names = ('x', 'label')

    def __len__(self):
        return 12

    def __getitem__(self, key):
        return [row[key] for row in map(self.__getitem__, range(12))] if isinstance(key, str) else {
            'x': [key, 0.5], 'label': key % 3}


def shipped(kind, root):
    """A source of each kind, small, read record by record: 12 records or more."""
    rng = np.random.default_rng(0)
    if kind in ('arrays', 'npz', 'map'):
        arrays = {'x': rng.normal(size=(12, 3)).astype(np.float32), 'label': np.arange(12, dtype=np.int32) % 2}
        np.savez(root / 'a.npz', **arrays)
        return {'arrays': lambda: ArraySource(arrays), 'map': lambda: sources.Map(ArraySource(arrays), dict),
                'npz': lambda: open_data(f'npz:{root}/a.npz', val_fraction=0).train}[kind]()
    if kind == 'hf':
        return tfds_hf.HFSource(Rows(), 'hf:rows', Schema.fit(own.hf_table(Rows(), 'hf:rows')))
    if kind in ('text', 'tokens'):
        (root / 'a.txt').write_text('the quick brown fox. ' * 9)
        for split in ('train', 'val'):
            rng.integers(0, 9, 90).astype(np.uint16).tofile(root / f'{split}.bin')
        return open_data(f'text:{root}/a.txt' if kind == 'text' else f'tokens:{root}', length=8).train
    write_folder(root / 'pics', kind='.png')
    rows = [(f'pics/{name}/{i}.png', name) for name in ('cat', 'dog', 'owl') for i in range(4)]
    if kind == 'encoded':
        return open_data(f'folder:{root}/pics', encoded=True, val_fraction=0).train
    if kind == 'folder':
        return folders.FolderSource(root / 'pics', 24)
    if kind == 'subset':  # what is left where a part is held out
        return open_data(f'folder:{root}/pics', image_size=24).train
    if kind == 'jsonl':
        (root / 'a.jsonl').write_text(''.join(json.dumps({'image': file, 'label': name}) + '\n' for file, name in rows))
    if kind == 'csv':
        (root / 'a.csv').write_text('image,label\n' + ''.join(f'{file},{name}\n' for file, name in rows))
    if kind == 'parquet':
        from pyarrow import Table
        from pyarrow import parquet as pq
        table = [{'image': {'bytes': (root / file).read_bytes(), 'path': None}, 'label': len(name)} for file, name in rows]
        pq.write_table(Table.from_pylist(table), root / 'a.parquet', row_group_size=5)
    if kind == 'tfds':
        builders.build_folder('pets', root / 'pics', root / 'tfds')
    place = 'tfds:pets' if kind == 'tfds' else f'{kind}:{root}/a.{kind}'
    return open_data(place, data_dir=str(root / 'tfds'), image_size=24, val_fraction=0).train


KINDS = {'arrays': ArraySource, 'npz': ArraySource, 'map': sources.Map, 'text': windows.WindowSource,
         'tokens': windows.WindowSource, 'folder': folders.FolderSource, 'subset': sources.Subset, 'jsonl': loaded.TableSource,
         'csv': loaded.TableSource, 'parquet': parquet.ParquetSource, 'tfds': sources.Map, 'hf': tfds_hf.HFSource}
LOOKS = {'crop': functools.partial(images.cropped, size=16, area=(0.08, 1.0))}  # experiments/resnet_imagenet.py
PIPELINES = [*((kind, None) for kind in KINDS), *((kind, 'crop') for kind in ('folder', 'encoded', 'parquet'))]


@pytest.fixture
def pipeline_of(tmp_path, monkeypatch):
    """The records of a pipeline, from a step on."""
    monkeypatch.setattr(own, 'IMAGES_IN_MEMORY_BYTES', 0)  # images as few as these would be read once and kept
    monkeypatch.setenv('HOME', str(tmp_path))

    def made(kind, look, first=0):
        source = found.setdefault(kind, None) or shipped(kind, tmp_path)
        found[kind] = source
        assert type(source) is KINDS.get(kind, folders.FolderSource) and len(source) >= 9
        return pipeline.TrainBatches(source, 5, 4, True, first, 5, transform=LOOKS.get(look))

    found = {}
    return made


@pytest.mark.parametrize(('kind', 'look'), PIPELINES)
def test_grain_finds_every_pipeline_the_same_after_every_checkpoint(pipeline_of, kind, look):
    grain.experimental.assert_equal_output_after_checkpoint(pipeline.dataset(pipeline_of(kind, look, 1), threads=3, workers=0))
    whole = read(pipeline_of(kind, look))
    same(read(pipeline_of(kind, look, 2)), whole[2:])
    assert len({b''.join(array.tobytes() for array in batch.values()) for batch in whole}) == 5  # batches can be told apart


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'look'), PIPELINES)
def test_every_pipeline_is_the_same_in_a_worker(pipeline_of, kind, look):
    same(read(pipeline_of(kind, look, 1), workers=1), read(pipeline_of(kind, look, 1)))


def test_no_experiment_has_a_transform_that_is_not_here():
    names = [p.stem for p in pathlib.Path(vit_imagenet.__file__).parent.glob('*.py') if 'transform=' in p.read_text()]
    assert sorted(names) == ['convnext_imagenet', 'efficientnet_imagenet', 'imagenet', 'mixer_imagenet', 'resnet_imagenet',
                             'vit_imagenet']


@pytest.mark.slow
def test_grain_finds_workers_the_same_after_every_checkpoint():
    made = records(2, 4, part=(1, 2))
    grain.experimental.assert_equal_output_after_checkpoint(pipeline.dataset(made, threads=2, workers=2))


@pytest.mark.parametrize('part', [(0, 1), (1, 2), (3, 4)])
@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('length', [30, 24, 5])  # an epoch ends inside a batch, between two, several times in one
def test_every_start_goes_on_as_if_it_had_begun_at_0(length, shuffle, part):
    whole = read(records(length=length, shuffle=shuffle, part=part))
    assert len(whole) == 6
    for first in range(7):
        same(read(records(first, length=length, shuffle=shuffle, part=part)), whole[first:])


@pytest.mark.slow
def test_workers_start_late_and_give_what_threads_give():
    same(read(records(3, 9), workers=2), read(records(0, 9))[3:])


@given(length=st.integers(1, 60), each=st.integers(1, 3), seed=st.integers(0, 2**31), shuffle=st.booleans(),
       spans=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6])), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_another_number_of_processes_keeps_the_batches(length, each, seed, shuffle, spans):
    """`spans`: (steps, number of processes), one after the other."""
    batch = 12 * each
    step, found = 0, []
    for steps, processes in spans:
        parts = [pipeline.TrainBatches(source(length), seed, batch, shuffle, step, step + steps, p, processes, noisy)
                 for p in range(processes)]
        found += [{k: np.concatenate([part[t][k] for part in parts]) for k in parts[0][t]} for t in range(steps)]
        step += steps
    alone = pipeline.TrainBatches(source(length), seed, batch, shuffle, 0, step, transform=noisy)
    same(found, [alone[k] for k in range(len(alone))])


def slow(example, rng, train):
    time.sleep(0.002)
    return example


@pytest.fixture
def working():
    """Batches of two worker processes that have begun, and the ids of these."""
    before = multiprocessing.active_children()
    batches = pipeline.read(records(steps=5000, transform=slow), threads=2, workers=2)
    next(batches), next(batches)  # of one, and of the other
    yield batches, [child.pid for child in multiprocessing.active_children() if child not in before]
    batches.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGBUS])
def test_a_dead_worker_is_named_at_once(working, number):
    batches, pids = working
    assert len(pids) == 2
    os.kill(pids[0], number)
    killed = time.monotonic()
    with pytest.raises(pipeline.WorkerDied) as caught:
        for _ in batches:
            pass
    assert time.monotonic() - killed < 20
    line = str(caught.value)
    assert number.name in line and pipeline.LIKELY_CAUSES[number.name] in line and '--config.data_workers' in line
    assert '\n' not in line


def workers_of(pid: int) -> list[int]:
    """The reading processes of a run."""
    found = subprocess.run(['ps', '-ww', '--ppid', str(pid), '-o', 'pid=,args='], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if 'spawn_main' in line]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_whose_worker_died_ends_with_one_line(tmp_path):
    command = [sys.executable, '-m', 'experiments.mnist1d', '--variant=mlp', '--population=1', '--config.data=fake',
               '--config.steps=1000000', '--config.eval_every=0', '--config.checkpoint_every=0', '--config.log_every=20',
               '--config.resident=no', '--config.data_workers=2', f'--workdir={tmp_path}/run']
    with open(tmp_path / 'err', 'w') as err:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err, cwd=pathlib.Path(__file__).parents[2])
    try:
        until, log = time.monotonic() + 120, tmp_path / 'run' / 'metrics.jsonl'
        while not (log.exists() and log.read_text().count('\n') > 2):  # it reads and trains
            assert run.poll() is None and time.monotonic() < until, (tmp_path / 'err').read_text()
            time.sleep(0.1)
        pids = workers_of(run.pid)
        assert len(pids) == 2
        os.kill(pids[1], signal.SIGKILL)
        killed = time.monotonic()
        assert run.wait(60) == 1 and time.monotonic() - killed < 20
    finally:
        run.kill()
    said = (tmp_path / 'err').read_text()
    line = said.strip().splitlines()[-1]
    assert line.startswith('mnist1d: ') and '--config.data_workers' in line and 'Traceback' not in said, said
    assert said.count('SIGKILL') == 1, said
    record = json.loads((tmp_path / 'run' / 'run.json').read_text())
    assert record['status'] == 'failed' and 'SIGKILL' in record['error']


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_leave_signals_to_the_main_process(working):
    batches, pids = working
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    expected = read(records(steps=30, transform=None))
    same([next(batches) for _ in range(28)], expected[2:])


@pytest.mark.slow
def test_workers_end_with_a_killed_main_process():
    """They hold its standard output, which ends with the last of them."""
    code = ('import multiprocessing, os, signal; import numpy as np; from bigjax.data import pipeline, sources;'
            'made = pipeline.TrainBatches(sources.ArraySource({"x": np.arange(30)}), 5, 8, True, 0, 10**6);'
            'batches = pipeline.read(made, threads=2, workers=2); next(batches);'
            'print(*[c.pid for c in multiprocessing.active_children()], flush=True); os.kill(os.getpid(), signal.SIGKILL)')
    run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                           cwd=pipeline.__file__.rsplit('/', 3)[0])
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    try:
        run.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    assert run.returncode == -signal.SIGKILL


class Odd(Exception):
    """Pickles, and cannot be made again from what was pickled."""

    def __init__(self, a, b):
        super().__init__(f'{a} {b}')


def wrong(example, rng, train):
    if example['x'] == 17:
        raise ValueError('seventeen')
    return example


def odd(example, rng, train):
    if example['x'] == 17:
        raise Odd('very', 'odd')
    return example


def local(example, rng, train):
    class Local(Exception):
        pass
    if example['x'] == 17:
        raise Local('cannot be pickled')
    return example


def ended(example, rng, train):
    return next(iter([] if example['x'] == 17 else [example]))


def refused(example, rng, train):
    if example['x'] == 17:
        raise UserError('too small: use larger ones', code='test/small')
    return example


@pytest.mark.timeout(300)
@pytest.mark.parametrize('transform, workers, kind, words', [
    (wrong, 0, ValueError, 'seventeen'), (odd, 0, Odd, 'very odd'), (ended, 0, RuntimeError, 'StopIteration'),
    (refused, 0, UserError, 'too small: use larger'),
    pytest.param(wrong, 2, ValueError, 'seventeen', marks=pytest.mark.slow),
    pytest.param(odd, 1, RuntimeError, 'Odd: very odd', marks=pytest.mark.slow),
    pytest.param(local, 1, RuntimeError, 'Local: cannot be pickled', marks=pytest.mark.slow)])
def test_an_error_says_what_it_is_and_of_which_record(transform, workers, kind, words):
    with pytest.raises(kind) as caught:
        read(records(transform=transform, shuffle=False), workers=workers)
    error = caught.value
    assert words in str(error) and getattr(error, 'code', 'test/small') == 'test/small'
    told = str(error) if isinstance(error, UserError) else ' '.join([str(error), *getattr(error, '__notes__', ())])
    assert 'record 17 of ArraySource' in told


def test_an_error_that_knows_its_record_says_it_once():
    def damaged(example, rng, train):
        raise UserError(f'a.png (record {example["x"]}): damaged: replace it', code='test/damaged')

    with pytest.raises(UserError) as caught:
        read(records(transform=damaged, shuffle=False))
    assert caught.value.code == 'test/damaged' and str(caught.value).count('record') == 1


def test_an_error_in_evaluation_says_of_which_record():
    with pytest.raises(ValueError) as caught:
        read(pipeline.EvalBatches(source(), BATCH, transform=wrong))
    assert 'record 17 of ArraySource' in ' '.join(caught.value.__notes__)
