"""The verb `plan`: one process per mesh, because a compiler for another machine is chosen before JAX starts, and may abort."""
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

from bigjax import config as configs
from bigjax.data.lazy import LazySource
from bigjax.errors import DONE, NO, USER, UserError
from bigjax.io import atomic, nested
from bigjax.nn import cpu
from bigjax.plan import advice, compile, figures, report
from bigjax.plan import topology as topologies

COMPILE_TIMEOUT_S = 1800


class Failed(Exception):
    """The compilation ended with an error of its own; the message holds its last lines."""


class Wanted(NamedTuple):
    """The flags of the verb."""

    topology: str
    mesh: str = ''
    hbm: float | None = None
    out: str = ''
    inside: str = ''


def plan(job, wanted: Wanted) -> int:
    """Prints the plan of every row and mesh -> 0 where one fits, 4 where none does, 2 where none could be tried.

    Raises:
      UserError: the compiler for the topology is not installed; what is known without it is printed before.
    """
    topology = topologies.parse(_topology(wanted))
    if wanted.inside:
        return _inside(job, topology, wanted)
    meshes = [m.strip() for m in wanted.mesh.split(';') if m.strip()] or ['']
    plans = [(row or job.name, _try(job, wanted, row, mesh, len(meshes) > 1)) for row in job.rows for mesh in meshes]
    done = [(name, f) for name, f in plans if 'error' not in f]
    print('\n\n'.join(report.full(name, f) for name, f in done))
    if len(plans) > 1:
        print(f'\n{report.several(plans)}')
    if done and not any(f['fits'] is not False for _, f in done):
        _advise(job, wanted, plans)
    if wanted.out:
        _write(wanted.out, [f | {'name': name, 'experiment': job.name} for name, f in plans])
    if not done:
        return USER
    if lacking := compile.missing(topology):
        raise UserError(f'--topology={lacking}; above is what is known without it', code='plan/no-compiler')
    return DONE if any(f['fits'] is not False for _, f in done) else NO


def _topology(wanted: Wanted) -> str:
    if not wanted.topology:
        raise UserError(f'plan: got no --topology, expected a slice; fix: {topologies.EXAMPLE}', code='plan/no-topology')
    return wanted.topology


def _try(job, wanted: Wanted, row: str, mesh: str, several: bool) -> dict:
    """The figures of one mesh; among several, a mesh that is impossible has an 'error' instead."""
    try:
        return outside(job, wanted, row, {'mesh': mesh} if mesh else {})
    except UserError as error:
        if not several:
            raise
        return {'mesh': mesh, 'error': str(error), 'fits': False}


def _advise(job, wanted: Wanted, plans) -> None:
    """Tries the changes that might make the first plan fit, and prints their results."""
    name, f = next((name, f) for name, f in plans if 'error' not in f)
    row = next(row for row in job.rows if (row or job.name) == name)
    base = {'mesh': f['mesh_asked']} if f.get('mesh_asked') else {}
    config = nested.leaves(configs.override(job.config(row), base))
    tried = []
    for change in advice.changes(config, f):
        text = ' '.join(f'--config.{key}={value}' for key, value in change.items())
        try:
            tried.append((text, outside(job, wanted, row, base | change)))
        except UserError as error:
            tried.append((text, {'error': str(error)}))
        except Failed as error:
            tried.append((text, {'error': str(error).splitlines()[-1]}))
    f['changes'] = [{'change': text, **{k: g.get(k) for k in ('fits', 'memory', 'time', 'error')}} for text, g in tried]
    print(f'\nto make it fit:\n{report.advice(tried)}')


def outside(job, wanted: Wanted, row: str, overrides: dict[str, str]) -> dict:
    """The figures, computed by a process of their own.

    Raises:
      UserError: the process refused the input.
      Failed: the compiler failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / 'plan.json'
        command = [sys.executable, *job.program, 'plan', f'--topology={wanted.topology}', f'--inside={result}',
                   *([f'--variant={row}'] if row else []), *([f'--hbm={wanted.hbm}'] if wanted.hbm else []),
                   *(f'--config.{key}={value}' for key, value in {**job.overrides, **overrides}.items())]
        ended = subprocess.run(command, env=compile.environment(), capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S,
                               check=False)
        if ended.returncode == USER:
            raise UserError(ended.stderr.strip().splitlines()[-1].removeprefix(f'{job.name}: '), code='plan/refused')
        if ended.returncode or not result.exists():
            raise Failed(f'the compilation for {wanted.topology} ended with {ended.returncode}:\n{ended.stderr[-4000:]}')
        return json.loads(result.read_text()) | ({'mesh_asked': overrides['mesh']} if 'mesh' in overrides else {})


def _inside(job, topology, wanted: Wanted) -> int:
    """Builds and compiles in this process, and writes the figures where the one outside reads them."""
    devices = compile.stand_ins(topology) if compile.missing(topology) else compile.devices(topology)
    (row,), notes = job.rows, []
    with cpu.lowering_for(topology.platform):
        program = _program(job, row, devices, notes)
        limit = wanted.hbm * 2**30 if wanted.hbm else topology.hardware.hbm if topology.hardware else None
        found = figures.plan(program, topology, limit) | {'notes': notes}
    _write(wanted.inside, found)
    return DONE


def _program(job, row, devices, notes):
    """The program, by the published shapes and sizes where the data is not on this machine."""
    config = job.config(row)
    if job.overrides.get('data', config.data).startswith('fake'):
        return job.build(row, _made_up(job, config, config.data)).program(devices)
    program = job.build(row, config).program(devices)
    if isinstance(program.experiment.data.train, LazySource):
        notes.append('the data is not on this machine: planned by its published shapes and sizes')
    return program


def _made_up(job, config, data):
    """The config with made-up data, read by the pipeline as real data of that size would be."""
    return configs.override(config, {'data': data, **({} if 'resident' in job.overrides else {'resident': 'no'})})


def _write(path: str, content) -> None:
    """Writes JSON, whole or not at all."""
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(pathlib.Path(path), content)
    except OSError as error:
        raise UserError(f'--out={path}: {error.strerror}; fix: name a file that can be written',
                        code='plan/unwritable') from None
