"""The readers: valid files to damage, and what is called with a damaged one."""
import contextlib
import gzip
import hashlib
import io
import json
import pathlib
import shlex
import shutil
import struct
import types
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bigjax import cli, config
from bigjax.checkpoint import manifest
from bigjax.data import images
from bigjax.data.loaders import formats, parquet, tables
from bigjax.data.loaders.records import table_source
from bigjax.data.schema import Schema
from bigjax.experiment import base_config
from bigjax.io import atomic as run_files
from bigjax.io import nested, safe_read
from bigjax.report import compare, html
from bigjax.report import tables as results
from bigjax.runs import reader
from bigjax.sharding import mesh
from bigjax.train import nonfinite, settings
from bigjax.watchdog import phases
from bigjax.weights import safetensors_format, torch_format
from tests import workdirs


class Reader(NamedTuple):
    """`seeds(folder)` gives {file name: content}; `read(path)` reads the damaged one, in a folder of its own."""

    seeds: Callable[[pathlib.Path], Mapping[str, bytes]]
    read: Callable[[pathlib.Path], Any]


def _overrides(folder):
    lines = ['steps=10 epochs', 'seed=3', 'optimizer.lr=1e-3', 'optimizer=3', 'mesh=data:8', 'data=mnist', 'population=4',
             'model.sizes=(1, 2)', 'model.sizes=[3]', 'model.rate=0.5', 'model.flag=True', "model.free={'a': [1, None]}",
             'model.free=none']
    return {'overrides.txt': '\n'.join(lines).encode(), **{f'{i}.txt': line.encode() for i, line in enumerate(lines)}}


def _override(path):
    made = base_config()
    made.model = dict(sizes=(3, 4), rate=0.1, flag=False, free=None)
    text = path.read_bytes().decode(errors='surrogateescape')
    made = config.override(made, dict(line.partition('=')[::2] for line in text.split('\n')))
    run_files.dumps(nested.plain(made)).encode(errors='surrogateescape')
    nested.lines(made)


COMMANDS = r"""
--workdir=/tmp/x --config.steps=10
--config.steps=3 --config.mesh=data:2x4,tensor:-1
eval --workdir x --strict
--config.steps='10 epochs' --config.log_every=5% --config.eval_every='500 ex'
--budgets=step:60,save:3e2 --grace=5
--population=3 --config.population_over=seed
train --deterministic --platform=cpu --nostrict --init_from x
bench --platform=cpu --out=x.json
--config.population_over='optimizer.lr=0.1 seed=3; optimizer.lr=1e-3 seed=4'
--help --variant=a
--coordinator=a:1 --processes=2 --process=1 --start_timeout=1.5 --heartbeat=2
plan --hbm=1.5 --topology=v5e-16 --mesh="data:8;fsdp:8"
--config.optimizer.lr=1e-3 --config.ema=0.99 --config.accumulate=2
--config.reduce_dtype=bfloat16 --config.seed 7 --config.resident=no
--config.best=test/loss --config.patience=5% --config.sinks=csv,tensorboard
"""


def _commands(folder):
    """One argument a line."""
    return {f'{i}.txt': '\n'.join(shlex.split(line)).encode() for i, line in enumerate(COMMANDS.split('\n')[1:-1])}


def _command(path):
    """Every part of a command that a person writes, but for the experiment's own."""
    def get_config(variant):
        made = base_config()
        made.optimizer = dict(name='sgd', lr=0.1, momentum=0.9)
        return made

    module = types.SimpleNamespace(__doc__='one', get_config=get_config)
    argv = path.read_bytes().decode(errors='surrogateescape').split('\n')
    with contextlib.redirect_stdout(io.StringIO()):
        options, *_, overrides = cli.parse(module, 'experiments.one', argv)
    if options is not None:
        phases.phase_timeouts(options.phase_timeouts)
        made = settings.read(config.Reader(config.override(get_config(''), overrides)), 1000)
        mesh.abstract(made.mesh)
        for text in filter(None, options.mesh.split(';')):
            mesh.abstract(text)


def _idx(folder):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    data = struct.pack('>BBBB3i', 0, 0, 8, 3, *image.shape) + image.tobytes()
    return {'images-idx3-ubyte': data, 'images-idx3-ubyte.gz': gzip.compress(data)}


def _npz(folder):
    arrays = dict(x=np.arange(6.0).reshape(3, 2), label=np.arange(3), flag=np.array([True, False, True]))
    found = {}
    for name, save in (('plain.npz', np.savez), ('packed.npz', np.savez_compressed)):
        save(folder / name, **arrays)
        found[name] = (folder / name).read_bytes()
    return found


def _read_npz(path):
    safe_read.archive(path)
    _read_table(tables.npz_table(tables.npz(path), path))


def _safetensors(folder):
    arrays = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3), 'b': np.array(3), 'c': np.zeros((0, 2), np.float16)}
    safetensors_format.write(folder / 'x', [(name, x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()])
    return {'a.safetensors': (folder / 'x').read_bytes()}


STATE_DICT = (b'\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n'
              b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n'
              b')RtRs.')  # {'w': a tensor [2, 3]} as torch.save pickles it


def _state_dict(folder):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        for name, content in (('data.pkl', STATE_DICT), ('byteorder', b'little'), ('data/0', bytes(24))):
            archive.writestr(f'x/{name}', content)
    return {'a.pth': data.getvalue()}


def _read_tensors(tensors):
    """Every array has the shape and dtype that was announced."""
    for tensor in tensors.values():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype), 'another array than announced'


def _replay(folder):
    np.savez(folder / 'batch.npz', x=np.arange(6, dtype=np.float32))
    info = {'step': 3, 'member': 0, 'variant': 'mlp', 'config': {'seed': 0, 'model': {'features': [3, 4]}}}
    return {'batch.npz': (folder / 'batch.npz').read_bytes(), 'info.json': run_files.dumps(info).encode()}


def _read_replay(path):
    (path.parent / 'state').mkdir(exist_ok=True)
    for name, data in _replay(path.parent.parent).items():
        if name != path.name:
            (path.parent / name).write_bytes(data)
    nonfinite.read(path.parent)


CHECKPOINT = {'state/array': b'0123456789', 'state/tree.json': b'{}', 'empty': b''}


def _manifest(folder):
    for name, data in CHECKPOINT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest.seal(folder, 3)
    return {manifest.NAME: (folder / manifest.NAME).read_bytes()}


def _read_manifest(path):
    """A checkpoint passes only where its manifest lists what is there."""
    listed = {name: {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()} for name, data in CHECKPOINT.items()}
    for name, data in CHECKPOINT.items():
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(data)
    for deep in (False, True):
        fault = manifest.fault(path.parent, deep)
        assert fault.isprintable() and len(fault) < 1000, f'its words are not one line: {fault[:300]!a}'
    assert fault or manifest.read(path.parent)['files'] == listed, 'passed with another list'


def _jsonl(folder):
    return {'a.jsonl': b'{"x": [1, 2.5], "n": 3, "label": "dog"}\n{"x": [0, 1], "n": 4, "label": "cat"}\n',
            'b.jsonl': b'{"file": "a.png", "text": "t", "label": 0}\n{"file": "b.jpg", "text": "u", "label": 1}\n',
            'd.jsonl': b'{"a": 1, "c": "r"}\n{"a": null, "c": "s"}\n{"a": 2, "c": "r"}\n{"a": 2, "c": "s"}\n',
            'c.jsonl': b'{"x": [[1, 2], [3, 4]], "y": true}\n{"x": [[1, 2], [3, 4]], "y": false}\n'}


def _csv(folder):
    return {'a.csv': b'n,x,label,name\n1,2,dog,"a, b"\n3,0.5,cat,c\n',
            'd.csv': b'a;c;label\n1;red;0\n;blue;1\n3;red;1\n4;blue;0\n',
            'b.csv': b'a,b\r\n1,2\r\n3,4e5\r\n',
            'c.csv': b'file,label\na.png,1\nb.png,0\n'}


def _tsv(folder):
    return {'a.tsv': b'1\t0.5\t2e3\n2\tNaN\t-1\n', 'a.tsv.gz': gzip.compress(b'1\t0.5\n2\t3\n')}


def _parquet(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq
    picture = {'bytes': _pictures(folder)['a.png'], 'path': None}
    made = {'a.parquet': {'x': [[1.0, 2.0], [3.0, 4.0]], 'n': [1, 2], 'label': [0, 1]},
              'b.parquet': {'text': ['a', 'b', 'c'], 'label': [0, 1, 2], 'image': [picture] * 3},
              'c.parquet': {'n': [7] * 1000, 'flag': [True, False] * 500}}
    found = {}
    for name, table in made.items():
        pq.write_table(pa.table(table), folder / name, row_group_size=500, compression='gzip' if name[0] == 'c' else 'snappy')
        found[name] = (folder / name).read_bytes()
    return found


def _pictures(folder):
    import cv2
    y, x = np.mgrid[:24, :30]
    smooth = (128 + 100 * np.stack([np.sin(0.1 * x + c) * np.cos(0.2 * y) for c in range(3)], -1)).astype(np.uint8)
    kinds = {'a.png': smooth, 'grey.png': smooth[..., 0], 'alpha.png': np.dstack([smooth, smooth[..., 0]]), 'a.jpg': smooth,
             'grey.jpg': smooth[..., 0], 'deep.png': smooth.astype(np.uint16) * 200, 'a.webp': smooth, 'a.bmp': smooth,
             'a.tiff': smooth, 'a.ppm': smooth, 'a.gif': smooth}
    return {name: cv2.imencode(f'.{name.split(".")[1]}', image)[1].tobytes() for name, image in kinds.items()}


def _read_examples(source):
    for i in range(min(len(source), 3)):
        source[i]
    getattr(source, 'labels', None)


def _read_table(raw):
    """Fits a schema, keeps it as JSON, and reads the table by it."""
    schema = Schema.from_json(json.loads(json.dumps(Schema.fit(raw).to_json())))
    _read_examples(table_source(raw, schema)[0])


def _read_parquet(path):
    schema = Schema.fit(parquet.raw_table(path))
    _read_examples(parquet.ParquetSource(path, schema))
    if schema.numbers_only:
        table_source(parquet.raw_table(path), schema)


def _run(folder):
    """A small run, made once."""
    if not (folder / 'run.json').exists():
        workdirs.make(folder, steps=400)
    names = ('run.json', 'metrics.jsonl', 'artifacts/confusion.json', 'artifacts/story.txt')
    return {name.replace('/', '+'): (folder / name).read_bytes() for name in names}


def _damaged_run(path):
    """A run folder that is whole but for one file."""
    run = path.parent / 'results' / 'run'
    if not run.exists():
        shutil.copytree(path.parent.parent / 'seeds', run)
    for name in _run(path.parent.parent / 'seeds'):
        target = run / name.replace('+', '/')
        target.unlink(missing_ok=True)
        shutil.copy(path if name == path.name else path.parent.parent / 'seeds' / name.replace('+', '/'), target)
    return run


def _records(path):
    run = _damaged_run(path)
    reader.read_run(run)
    reader.read_metrics(run)


def _pages(path):
    run = _damaged_run(path)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        compare.main([str(run), '--out', str(path.parent / 'compare.html')])
    root = path.parent / 'root'
    shutil.rmtree(root, ignore_errors=True)
    html.write(run)
    html.write(run.parent)
    results.add(run, root)
    for rows in results.records(root).values():
        results.table(rows)
    allowed = {path.parent, run}
    outside = [p for p in path.parent.rglob('run.json')
               if root / 'experiments' / 'results' not in p.parents and p.parent not in allowed]
    assert not outside, f'written outside its place: {outside}'


READERS = {
    'config': Reader(_overrides, _override),
    'command': Reader(_commands, _command),
    'idx': Reader(_idx, lambda path: formats.idx(path, 3)),
    'npz': Reader(_npz, _read_npz),
    'safetensors': Reader(_safetensors, lambda path: _read_tensors(safetensors_format.read(path))),
    'torch': Reader(_state_dict, lambda path: _read_tensors(torch_format.read(path))),
    'replay': Reader(_replay, _read_replay),
    'manifest': Reader(_manifest, _read_manifest),
    'jsonl': Reader(_jsonl, lambda path: _read_table(tables.jsonl(path))),
    'csv': Reader(_csv, lambda path: _read_table(tables.csv(path))),
    'tsv': Reader(_tsv, lambda path: formats.table(path, '\t')),
    'parquet': Reader(_parquet, _read_parquet),
    'images': Reader(_pictures, lambda path: images.read_image(path, 'record 0', 8)),
    'records': Reader(_run, _records),
    'pages': Reader(_run, _pages)}
