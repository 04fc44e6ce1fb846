"""Files that bigjax reads may come from anyone, and pages that it writes may be shown to anyone."""
import ast
import bz2
import errno
import gzip
import html
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import markdown_it
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigjax import config
from bigjax.data import images, text
from bigjax.data.datasets import open_data
from bigjax.data.loaders import formats, parquet, tables, tfds_hf
from bigjax.data.schema import Schema
from bigjax.errors import UserError
from bigjax.experiment import Confusion, Expected, base_config
from bigjax.io import safe_read
from bigjax.report import charts, compare, page
from bigjax.report import html as report
from bigjax.report import tables as results
from bigjax.runs import artifacts, reader
from bigjax.runs.writer import Records
from bigjax.train import nonfinite, settings
from tests import workdirs
from tests.refused import refused

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(p for folder in ('bigjax', 'experiments', 'launch') for p in (ROOT / folder).rglob('*.py'))
BAD_MODULES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'tarfile', 'runpy', 'imp'}
OWN = {
    'bigjax/data/pipeline.py': {'pickle'},  # tests whether an error of its own can be sent to another process
    'bigjax/weights/torch_format.py': {'pickle'},  # an unpickler that builds tensors alone: tests/weights/test_torch.py
    'bigjax/data/loaders/find_images.py': {'tarfile'},  # reads members by name, and unpacks none
    'bigjax/data/loaders/spoken.py': {'tarfile'}}  # likewise
BAD_CALLS = {'eval', 'exec', 'execfile', 'os.system', 'os.popen', 'shutil.unpack_archive', 'np.fromfile', 'pd.read_pickle',
             'compile', 'builtins.compile', '__import__', 'builtins.__import__', 'importlib.__import__',
             'importlib.util.module_from_spec', 'module_from_spec', 'yaml.load', 'yaml.full_load', 'yaml.unsafe_load'}
IMPORTS = {  # modules of bigjax itself that a command or a config names, below a folder that is written there
    'launch/engines/base.py': ('ENGINES[kind]',), 'launch/sweep.py': ("f'experiments.{experiment}'",),
    'bigjax/bench/peer_process.py': ('module',), 'bigjax/bench/cases.py': ('PEERS[against][0]',),
    'launch/arms.py': ("f'experiments.{experiment}'",), 'bigjax/train/build.py': ("f'{place}.{name}'",),
    'bigjax/weights/family.py': ("f'bigjax.weights.families.{entry.name}'",),  # of files that are there
    'bigjax/models/__init__.py': ("f'bigjax.models.{family}'", "f'bigjax.models.{name.partition('.')[0]}'",
                                  "f\"bigjax.models.{name.partition('.')[0]}\"")}
EVIL = ('<script>alert(1)</script>', '"onload="alert(1)', "'onload='alert(1)")


def called(node) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split('.')[0] for alias in node.names} if isinstance(node, ast.Import) else {
                (node.module or '').split('.')[0]}
            assert not names & (BAD_MODULES - OWN.get(str(path.relative_to(ROOT)), set())), f'line {node.lineno}'
        if isinstance(node, ast.Call):
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called(node) not in BAD_CALLS, f'line {node.lineno}'
            assert keywords.get('shell') in (None, 'False'), f'line {node.lineno}: a shell'
            if called(node) in ('np.load', 'numpy.load', 'np.lib.format.read_array'):
                assert keywords.get('allow_pickle') == 'False', f'line {node.lineno}: pickles are not refused'
            assert not called(node).endswith(('.extractall', '.extract')), f'line {node.lineno}: an archive is unpacked'
            if called(node).split('.')[-1] == 'import_module' and not isinstance(node.args[0], ast.Constant):
                known = IMPORTS.get(str(path.relative_to(ROOT)), ())
                assert ast.unparse(node.args[0]) in known, f'line {node.lineno}: it imports what something else names'


class Bomb:
    """A pickle that opens a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def _npz(folder, bomb):
    np.savez(folder / 'a.npz', x=np.array([bomb], object))
    tables.npz(folder / 'a.npz')


def _replay(folder, bomb):
    (folder / 'state').mkdir()
    (folder / 'info.json').write_text('{"step": 1, "variant": "", "config": {}}')
    np.savez(folder / 'batch.npz', x=np.array([bomb], object))
    nonfinite.read(folder)


def _tokens(folder, bomb):
    np.save(folder / 'train.npy', np.array([bomb], object))
    text.token_splits(folder, length=2, name='x')


def _bare(folder, bomb):
    (folder / 'a.npz').write_bytes(pickle.dumps(bomb))
    tables.npz(folder / 'a.npz')


@pytest.mark.parametrize('read', [_npz, _replay, _tokens, _bare])
def test_a_pickle_is_refused_and_never_run(tmp_path, read):
    with pytest.raises(UserError):
        read(tmp_path, Bomb(tmp_path / 'ran'))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('name', ['kaggle:titanic', 'huggingface:x', '../mine', 'mine/../x', 'mine/data_dir=x', '', '/etc',
                                  'mine:experimental_latest', 'x' * 3000 + ':y'])
def test_a_tfds_name_with_a_namespace_reaches_no_downloaded_code(tmp_path, name):
    with refused('data/tfds-name') as error:
        tfds_hf.tfds_builder(name, tmp_path)
    assert len(str(error.value)) < 500


class OldDatasets:
    """The package of Hugging Face when `load_dataset` still ran the scripts of the hub."""

    __version__ = '3.6.0'

    @staticmethod
    def load_dataset(path, trust_remote_code=None):
        return {'train': [path, trust_remote_code]}


class OlderDatasets(OldDatasets):
    __version__ = '2.10.0'

    @staticmethod
    def load_dataset(path):
        raise AssertionError('it may run a script')


def test_a_loading_script_is_never_run(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', OldDatasets)
    assert tfds_hf.hf('a/b') == {'train': ['a/b', False]}
    monkeypatch.setitem(sys.modules, 'datasets', OlderDatasets)
    with refused('data/runs-code', 'datasets>=4'):
        tfds_hf.hf('a/b')


# Sizes: what a header announces is held against what is there, before memory is given to it.

def _idx(*shape):
    return struct.pack(f'>BBBB{len(shape)}I', 0, 0, 8, len(shape), *shape) + bytes(7)


def _npy(shape, count):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {'descr': '<f8', 'fortran_order': False, 'shape': shape})
    return out.getvalue() + bytes(8 * count)


def _npz_of_bz2(size):
    """An archive that announces one array of a MiB, and unpacks to `size` MiB."""
    content = _npy((1 << 17,), 1 << 17)
    packed = bz2.compress(content + bytes((size - 1) << 20))
    name = b'x.npy'
    sums = struct.pack('<III', 0, len(packed), len(content))
    local = struct.pack('<4sHHHHH', b'PK\3\4', 46, 0, 12, 0, 33) + sums + struct.pack('<HH', len(name), 0) + name
    listed = struct.pack('<4sHHHHHH', b'PK\1\2', 46, 46, 0, 12, 0, 33) + sums
    listed += struct.pack('<HHHHHII', len(name), *[0] * 6) + name
    end = struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, 1, 1, len(listed), len(local) + len(packed), 0)
    return local + packed + listed + end


def _zip(content, kind=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', kind, compresslevel=1) as archive:
        archive.writestr('x.npy', content)
    return out.getvalue()


def _png(width, height):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 6, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


LIES = {
    'a-idx2': (lambda: _idx(2**31, 2**31), lambda p: formats.idx(p, 2), 'data/damaged'),
    'b-idx4': (lambda: _idx(2**16, 2**16, 2**16, 2**16)[:20], lambda p: formats.idx(p, 4), 'data/damaged'),  # 2**64 wraps
    'c-idx2.gz': (lambda: gzip.compress(_idx(2**31, 2**31)), lambda p: formats.idx(p, 2), 'data/damaged'),
    'd.gz': (lambda: gzip.compress(bytes(300 << 20), 1), formats.read, 'data/too-large'),
    'e.npz': (lambda: _zip(_npy((2**40,), 3)), tables.npz, 'data/damaged'),
    'f.npz': (lambda: _zip(_npy((2**31, 2**33), 3), zipfile.ZIP_STORED), tables.npz, 'data/damaged'),
    'g.npz': (lambda: _zip(bytes(300 << 20)), tables.npz, 'data/too-large'),
    'g2.npz': (lambda: _npz_of_bz2(100), tables.npz, 'data/damaged'),
    'h.png': (lambda: _png(2**15, 2**15), lambda p: images.read_image(p, 'record 0'), 'data/image')}


@pytest.mark.parametrize('name', LIES)
def test_an_announced_size_is_no_reason_to_fill_the_memory(tmp_path, name):
    made, read, code = LIES[name]
    (tmp_path / name).write_bytes(made())
    tracemalloc.start()
    try:
        with refused(code, name) as error:
            read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable()
    assert peak < (50 if name == 'g2.npz' else 600) << 20  # bzip2 has no bound: nothing of it is unpacked


def test_a_parquet_file_of_one_value_many_times(tmp_path):
    array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000_000, np.int8)), pa.array(['x']))
    pq.write_table(pa.table({'text': array}), tmp_path / 'a.parquet', row_group_size=1 << 30)
    assert (tmp_path / 'a.parquet').stat().st_size < 100_000
    with refused('data/row-group', 'a.parquet'):
        parquet.raw_table(tmp_path / 'a.parquet')


def test_a_parquet_file_of_one_long_text_many_times(tmp_path):
    for rows in (40, 1500):
        array = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(['x' * (1 << 20)]))
        pq.write_table(pa.table({'text': array, 'n': range(rows)}), tmp_path / f'{rows}.parquet', compression='zstd',
                       store_schema=False, dictionary_pagesize_limit=1 << 30)
    assert Schema.fit(parquet.raw_table(tmp_path / '40.parquet')).features == ['n']
    before = pa.default_memory_pool().max_memory()
    with refused('data/too-large', '1500.parquet') as error:
        Schema.fit(parquet.raw_table(tmp_path / '1500.parquet'))
    assert str(error.value).isprintable()
    assert pa.default_memory_pool().max_memory() - before < 600 << 20


@pytest.mark.parametrize('values', [[1, 2], ['a', 'b']])
def test_two_columns_of_one_name_are_one_line(tmp_path, values):
    pq.write_table(pa.Table.from_arrays([pa.array(values)] * 2, names=['x\n'] * 2), tmp_path / 'a.parquet')
    with refused('data/two-columns', 'a.parquet', r'x\n'):
        parquet.raw_table(tmp_path / 'a.parquet')


@pytest.mark.parametrize('make', [os.mkfifo, lambda path: path.symlink_to('/dev/zero')], ids=['pipe', 'device'])
def test_what_never_ends_is_not_read(tmp_path, make):
    make(tmp_path / 'a.png')
    with refused('data/not-a-file', 'a.png', 'record 0'):
        images.read_image(tmp_path / 'a.png', 'record 0')
    (tmp_path / 'a.jsonl').write_text('{"file": "a.png", "label": 1}\n')
    with refused('data/outside' if (tmp_path / 'a.png').is_symlink() else 'data/not-a-file', 'record 0 of '):
        open_data(f'jsonl:{tmp_path}/a.jsonl')


# Names: what a file or the data calls itself does not lead out of the folder.

def _everything(root):
    return {str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()}


@pytest.mark.parametrize('name', ['../../x', '/x', '..', '.', '', 'a/../../b', 'a\0b', 'x' * 300, '~', '\ud800'])
@pytest.mark.parametrize('value', ['text', {'a': 1}, np.zeros((1, 2, 2, 1))], ids=['text', 'data', 'pictures'])
def test_an_artifact_stays_in_its_folder(tmp_path, name, value):
    path = artifacts.save(tmp_path / 'run', name, value)
    assert path.parent == tmp_path / 'run' / 'artifacts' and _everything(tmp_path) == {f'run/artifacts/{path.name}'}


def test_an_artifact_that_is_a_link_is_not_shown(tmp_path):
    (tmp_path / 'secret.txt').write_text('SECRET')
    workdirs.make(tmp_path / 'run', steps=80)
    (tmp_path / 'run' / 'artifacts' / 'link.txt').symlink_to(tmp_path / 'secret.txt')
    assert 'link' not in artifacts.load(tmp_path / 'run')
    assert 'SECRET' not in report.write(tmp_path / 'run').read_text()


def test_an_artifact_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / 'run' / 'artifacts').mkdir(parents=True)
    (tmp_path / 'precious').write_text('precious')
    for value, name in (('text', 'a.txt'), ({'a': 1}, 'a.json'), (np.zeros((1, 2, 2, 1)), 'a.png')):
        (tmp_path / 'run' / 'artifacts' / name).symlink_to(tmp_path / 'precious')
        path = artifacts.save(tmp_path / 'run', 'a', value)
        assert path.name == name and path.is_file() and not path.is_symlink()
    assert (tmp_path / 'precious').read_text() == 'precious'
    assert _everything(tmp_path / 'run' / 'artifacts') == {'a.txt', 'a.json', 'a.png'}


def test_artifacts_that_are_a_link_are_neither_shown_nor_written(tmp_path):
    workdirs.make(tmp_path / 'run', steps=80)
    shutil.rmtree(tmp_path / 'run' / 'artifacts')
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'outside' / 'secret.txt').write_text('SECRET')
    (tmp_path / 'run' / 'artifacts').symlink_to(tmp_path / 'outside')
    assert artifacts.load(tmp_path / 'run') == {}
    assert 'SECRET' not in report.write(tmp_path / 'run').read_text()
    with refused('artifacts/link', 'artifacts'):
        artifacts.save(tmp_path / 'run', 'a', 'x')
    assert _everything(tmp_path / 'outside') == {'secret.txt'}


@pytest.mark.parametrize('broken', ['fsync', 'replace'])
def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch, broken):
    path = artifacts.save(tmp_path, 'a', np.zeros((1, 2, 2, 1)))
    before = path.read_bytes()
    monkeypatch.setattr(os, broken, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'full')))
    with pytest.raises(OSError) as error:
        artifacts.save(tmp_path, 'a', np.ones((9, 2, 2, 1)))
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and _everything(tmp_path) == {'artifacts/a.png'}


@pytest.mark.parametrize('key, value', [
    ('variant', '..'), ('variant', '../../..'), ('variant', '/x'), ('variant', 'x' * 500), ('experiment', '../../x'),
    ('experiment', '/x'), ('experiment', 'a../../../x')])
def test_a_kept_record_stays_in_its_folder(tmp_path, key, value):
    workdirs.make(tmp_path / 'run', steps=80)
    before, path = _everything(tmp_path), tmp_path / 'run' / 'run.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    try:
        results.add(tmp_path / 'run', tmp_path / 'root')
    except UserError:
        assert _everything(tmp_path) == before
        return
    new = _everything(tmp_path) - before
    assert len(new) == 2 and all(pathlib.Path(p).match('root/experiments/results/mnist1d/*/*') for p in new), new


@pytest.mark.parametrize('name', ['../private.png', 'ABSOLUTE', 'link.png', 'in/../../private.png'])
def test_a_record_shows_no_image_outside_the_folder_of_its_table(tmp_path, name):
    (tmp_path / 'private.png').write_bytes(images.encode_png(np.full((4, 4, 3), 77, np.uint8)))
    folder = tmp_path / 'set'
    (folder / 'in').mkdir(parents=True)
    (folder / 'link.png').symlink_to(tmp_path / 'private.png')
    (folder / 'own.png').write_bytes((tmp_path / 'private.png').read_bytes())
    name = name.replace('ABSOLUTE', str(tmp_path / 'private.png'))
    made = {'jsonl': lambda name: (folder / 'a.jsonl').write_text(json.dumps({'file': name, 'label': 0})),
            'csv': lambda name: (folder / 'a.csv').write_text(f'file,label\n{name},0\n')}
    kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    made['parquet'] = lambda name: pq.write_table(
        pa.table({'image': pa.array([{'bytes': None, 'path': name}], kind)}), folder / 'a.parquet')
    for ending, make in made.items():
        make(name)
        with refused('data/outside', 'record 0'):
            open_data(f'{ending}:{folder}/a.{ending}', val_fraction=0)
        make('in/../own.png')
        assert open_data(f'{ending}:{folder}/a.{ending}', val_fraction=0).train[0]['image'].shape == (4, 4, 3)


# Pages: everything on them is text.

def _evil_run(folder, evil):
    """A run with `evil` in every text that a run can contain."""
    records = Records(folder, experiment='mnist1d', variant=evil, config={'seed': 0, f'key{evil}': evil}, parameters=3,
                      command=f'python {evil}', devices={'platform': 'cpu', 'kind': evil, 'count': 1},
                      info={f'info{evil}': evil, 'classes': [evil, 'b']})
    for step in (1, 2, 3):
        records.metrics(step, {'train/loss': [3.0 / step], f'val/{evil}': [1.0 * step], f'{evil}/x': [1.0 * step]})
    counts = np.array([[3, 1], [0, 2]])
    many = Confusion(np.ones((30, 30)), [evil] * 30)
    records.finish('done', 3, {f'val/{evil}': [3.0], 'test/accuracy': [0.5]},
                   [Expected(f'val/{evil}', 3.0, 0.1, f'the paper {evil}')],
                   [{'confusion': Confusion(counts, [evil, 'b']), 'many': many, 'story': f'once {evil}', 'data': {evil: [evil]},
                     f'named {evil}': 'x', f'shown {evil}': np.zeros((1, 4, 4, 1))}])


def _is_text(source, evil):
    assert evil not in source, source[max(0, source.index(evil) - 100):][:200]
    assert '<script' not in source and 'onload="' not in source and "onload='" not in source


@pytest.mark.parametrize('evil', EVIL)
def test_the_report_of_a_run_escapes_what_it_prints(tmp_path, evil):
    _evil_run(tmp_path, evil)
    source = report.write(tmp_path).read_text()
    _is_text(source, evil)
    assert source.count('onload') + source.count('&lt;script') > 15


@pytest.mark.parametrize('evil', EVIL)
def test_the_report_of_a_table_and_the_comparison_escape_too(tmp_path, evil, capsys):
    _evil_run(tmp_path / 'runs' / f'a {evil.replace("/", "")}', evil)
    _evil_run(tmp_path / 'runs' / 'javascript:alert(1)', f'b{evil}')
    failed = Records(tmp_path / 'runs' / 'c', experiment='mnist1d', variant='c', config={'seed': 1}, command='x')
    failed.fail(RuntimeError(evil))
    source = report.write(tmp_path / 'runs').read_text()
    _is_text(source, evil)
    assert 'href="javascript:' not in source
    _is_text(report.write(tmp_path / 'runs' / 'c').read_text(), evil)
    assert compare.main([str(tmp_path / 'runs'), f'--metric=val/{evil}', f'--out={tmp_path / "out.html"}']) == 0
    _is_text((tmp_path / 'out.html').read_text(), evil)


@pytest.mark.parametrize('evil', [
    '<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '[x](javascript:alert(1))', '![x](//y/z.png)', '`a` `b`',
    '\\<b>\\', r'\[x](javascript:alert(1))', 'a | b', r'a \| b', '<!-- results:end -->', '[x](//y/z)',
    '&lt;b&gt; &amp; &#60; & x'])
def test_a_table_of_results_shows_text(tmp_path, evil):
    _evil_run(tmp_path / 'a', evil)
    run = json.loads((tmp_path / 'a' / 'run.json').read_text())
    run['git'] = {'sha': evil, 'dirty': False}
    unjudged = {**run, 'expected': [], 'variant': f'b{evil}'}
    made = results.table({'main': run, evil: {**run, 'variant': ''}, 'unjudged': unjudged})
    page = markdown_it.MarkdownIt('commonmark', {'html': True}).enable('table').render(made)
    tags = set(re.findall(r'<[^>]*>', page))
    plain = {'table', 'thead', 'tbody', 'tr', 'th', 'td', 'p', 'strong', 'code'}
    assert all(re.fullmatch(r'</?(\w+)( style="text-align:right")?>', tag)[1] in plain for tag in tags), tags
    assert all(row.count('<td') == 10 for row in page.split('<tbody>')[1].split('</tbody>')[0].split('</tr>')[:-1])
    assert evil in html.unescape(page)


@pytest.mark.parametrize('change', [
    {'final': {'m': {'mean': EVIL[0], 'std': None, 'members': []}}}, {'population': EVIL[0]}, {'steps': EVIL[0]},
    {'expected': [{'metric': 'm', 'value': 1, 'tolerance': 1, 'source': '', 'ok': True, 'runs': EVIL[0]}]},
    {'wall_seconds': EVIL[0]}, {'status': 'do\x1b[2Jne'}, {'variant': 'a\nb'}, {'final': {'m': {'mean': 1}}},
    {'config': []}, {'git': 'x'}, {'parameters': 10**400}, {'steps': float('inf')}])
def test_a_record_whose_fields_are_of_another_kind_is_refused(tmp_path, change):
    workdirs.make(tmp_path, steps=80)
    assert reader.read_run(tmp_path)
    (tmp_path / 'run.json').write_text(json.dumps({**reader.read_run(tmp_path), **change}))
    for read in (reader.read_run, report.write, lambda path: compare.load([path]), lambda path: results.add(path, tmp_path)):
        with refused('workdir/unreadable', 'run.json', next(iter(change))):
            read(tmp_path)


def test_kept_records_pass():
    kept = sorted((ROOT / 'experiments' / 'results').glob('*/*/run.json'))
    assert kept and all(reader.read_run(path.parent) for path in kept)


def test_metrics_that_are_no_numbers_are_left_out(tmp_path):
    lines = [{'step': 1, 'a/x': EVIL[0], 'a/y': 2.0, 'a/y/std': -1, 'a/y/members': ['x'], 'b\x1b/z': 1}, {'step': -3, 'a/y': 1}]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert reader.read_metrics(tmp_path) == [{'step': 1, 'a/y': 2.0}]


def test_charts_and_the_frame_of_a_page_escape():
    for evil in EVIL:
        series = [charts.Series(evil, [0, 1], [1.0, 2.0])]
        _is_text(charts.chart(series) + charts.legend(series), evil)
        _is_text(page.page(evil, ('done', evil), '', ''), evil)


def test_a_terminal_is_told_nothing_but_text(tmp_path, capsys):
    for i in (0, 1):
        workdirs.make(tmp_path / f'{i}', steps=80, lr=0.1)
        run = json.loads((tmp_path / f'{i}' / 'run.json').read_text())
        run['config']['note\x1b]0;x'] = f'{i}\x1b[2J\r\n'
        (tmp_path / f'{i}' / 'run.json').write_text(json.dumps(run))
    assert compare.main([str(tmp_path), f'--out={tmp_path / "compare.html"}']) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize('value, shown', [('a\nb', r'a\nb'), ('\x1b[2J', r'\x1b[2J'), ('\ud800', r'\ud800'), ('ü', 'ü')])
def test_words_of_a_file_fit_on_a_line(value, shown):
    assert safe_read.printable(value) == shown
    assert len(safe_read.printable('x' * 10**6)) < 400


@pytest.mark.parametrize('value', ["b'x'", '{1, 2}', '1j', '...', '[b"x"]', "{'a.b': 1}", '9' * 30, '-' * 20_000 + '1'])
def test_a_config_holds_only_what_its_file_can(value):
    made = ml_collections.ConfigDict({'free': ml_collections.config_dict.placeholder(object)})
    with refused('config/type', 'free=') as error:
        config.override(made, {'free': value})
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize('key, value', [
    ('seed', 2**64 - 1), ('seed', 2**63), ('seed', 2**32), ('seed', 2**31), ('seed', -1), ('population', 2**62),
    ('batch_size', 2**64),
    ('resident', 'x' * 3000), ('reduce_dtype', 'a\nb' * 3000), ('population_over', f'{"x" * 3000}=1'),
    ('population_over', f'seed={"y" * 3000}'), ('population_over', f'seed={2**40}'), ('population_over', 'seed=-1')])
def test_a_setting_that_no_run_can_have_is_one_line(key, value):
    made = base_config()
    made[key] = value
    with pytest.raises(UserError) as error:
        settings.read(config.Reader(made), 100)
    assert error.value.code and re.search(rf'config\.({key}|seed)', str(error.value))
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_the_largest_seed_and_the_members_after_it():
    made = base_config()
    made.seed = 2**31 - 1
    assert settings.read(config.Reader(made), 100).seed == 2**31 - 1
    made.population = 2
    with refused('config/range', 'config.seed', str(2**31 - 2)):
        settings.read(config.Reader(made), 100)


# Secrets: what the environment holds is written nowhere.

@pytest.mark.slow
@pytest.mark.parametrize('rest, code', [([], 0), (['--config.optimizer.lr=1e39'], 3)])
def test_no_variable_of_the_environment_is_written(tmp_path, rest, code):
    names = ('WANDB_API_KEY', 'HF_TOKEN', 'AWS_SECRET_ACCESS_KEY', 'GITHUB_TOKEN', 'SOME_PASSWORD', 'KAGGLE_KEY')
    secret = 'canary-5d1f0e'
    env = {**os.environ, **{name: f'{secret}-{name}' for name in names}, 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', 'experiments.mnist1d', '--variant=logistic', '--config.data=fake', '--config.steps=4',
               '--population=1', f'--workdir={tmp_path / "run"}', *rest]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert (tmp_path / 'run' / 'run.json').exists()
    assert secret not in done.stdout + done.stderr
    for path in tmp_path.rglob('*'):
        assert secret not in path.name and (not path.is_file() or secret.encode() not in path.read_bytes()), path
