"""The checks of the verb `doctor` that look at an experiment on this machine: its data, devices, state, memory and workdir."""
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bigjax import config as configs
from bigjax.doctor import host
from bigjax.doctor.host import OK, WARNING, Check
from bigjax.errors import UserError
from bigjax.io import nested, storage
from bigjax.io.text import counted, gib
from bigjax.runs.reader import FINISHED
from bigjax.runs.workdir import RunFacts, previous_run
from bigjax.sharding import mesh as meshes
from bigjax.sharding import rules
from bigjax.train import optimizers
from bigjax.train import settings as settings_module
from bigjax.train.feed import example_inputs, fits_on_device
from bigjax.train.settings import Settings
from bigjax.train.state import count, init_variables

OPEN_DATA_S = 16.0  # time for opening data
SPARE = 1  # checkpoint beside those that are kept: the one being written
ALIVE_S = 30.0  # a running run refreshes its run.json more often


def workdir_run(workdir, experiment: str, variant: str, config) -> Check:
    """Whether the workdir is free for this run, or holds it already."""
    workdir = storage.place(workdir)
    run = previous_run(workdir, RunFacts(experiment=experiment, variant=variant, config=nested.plain(config), command=''))
    if not run:
        return Check('run', OK, f'{workdir}: no other run is there')
    written = storage.facts(workdir / 'run.json')
    age = time.time() - written.when if written else 0.0
    if run['status'] == 'running' and age < ALIVE_S:
        return Check('run', WARNING, f'{workdir}: a run wrote there {max(0.0, age):.0f} s ago; wait for its end')
    if run['status'] in FINISHED:
        return Check('run', OK, f"{workdir}: holds this run, {run['status']}")
    return Check('run', OK, f"{workdir}: holds this run at step {run.get('steps')} ({run['status']}), which `train` resumes")


def devices(settings: Settings) -> Check:
    """The devices of this machine against config.mesh and the batch."""
    found, mesh = jax.devices(), meshes.make(settings.mesh)
    settings_module.check_devices(settings, meshes.data_size(mesh))
    part = settings.batch_size // meshes.data_size(mesh)
    _, parts = meshes.process_part(mesh)
    used = ','.join(f'{axis}:{n}' for axis, n in mesh.shape.items())
    text = (f'{len(found)} x {found[0].device_kind} ({found[0].platform}), mesh {used}, {part} examples of '
            f'{settings.batch_size} on each part')
    if jax.process_count() > 1:
        text += f', {parts} parts over {jax.process_count()} processes'
    if mesh.size < len(found):
        idle = counted(len(found) - mesh.size, 'idle device')
        return Check('devices', WARNING, f'{text}; {idle}; --config.mesh=data:-1 uses all')
    return Check('devices', OK, text)


def records(data) -> Check:
    """Reads the last record of every split, through the transform of the experiment."""
    found = []
    for split, source in {'train': data.train, **data.evals}.items():
        if len(source) < 1:
            raise UserError(f'{split}: the split is empty; fix: name other data', code='data/empty')
        try:
            example = source[len(source) - 1]
            if data.transform is not None:
                example = data.transform(example, np.random.default_rng(0), split == 'train')
        except UserError:
            raise
        except Exception as error:
            raise UserError(f'{split}: record {len(source) - 1} cannot be read ({type(error).__name__}: {error}); '
                            'fix: get the data again, or repair the file', code='data/unreadable') from None
        fields = ', '.join(f'{k} {np.asarray(v).dtype}{list(np.shape(v))}' for k, v in sorted(example.items()))
        found.append(f'{split} {len(source):,} records ({fields})')
    return Check('data', OK, '; '.join(found))


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The state of a run as shapes, of one member; nothing is computed."""

    params: Any
    rest: Any  # the model's other collections
    optimizer: Any


def shapes(experiment, settings: Settings) -> Shapes:
    """The shapes of parameters, other collections and optimizer state."""
    variables = jax.eval_shape(lambda: init_variables(experiment.model, example_inputs(experiment), 0))
    params = variables.pop('params')
    tx, _ = optimizers.make(experiment.optimizer, params, total_steps=max(1, settings.steps),
                            steps_per_epoch=settings.steps_per_epoch, batch_size=settings.batch_size)
    return Shapes(params, variables, jax.eval_shape(optimizers.wrap(tx, experiment.transforms).init, params))


def state_bytes(state: Shapes, experiment, settings: Settings, mesh) -> dict[str, int]:
    """{part of the state: bytes on each device} of a mesh that may be larger than this machine, for all members."""
    layout = rules.layout(state.params, experiment.partition_rules, mesh, experiment.axes)

    def each(tree, placed):
        where = rules.follow(tree, placed, mesh)
        return settings.population * sum(math.prod(w.shard_shape(x.shape)) * x.dtype.itemsize for x, w in zip(
            jax.tree.leaves(tree), jax.tree.leaves(where), strict=True))

    params, rest = each(state.params, layout.params), each(state.rest, {})
    return {'parameters': params, 'optimizer': each(state.optimizer, layout.optimizer), 'statistics': rest,
            'average': each(state.params, layout.optimizer) if settings.ema else 0,
            'best': params + rest if settings.best else 0, 'gradients': params}


def resident_bytes(data, settings: Settings) -> int:
    """The bytes of the sources that are kept on every device."""
    sources = [s for s in (data.train, *data.evals.values()) if fits_on_device(s, data, settings.resident)]
    members = 1 if settings.population_over == 'seed' or settings.members else settings.population
    return members * sum(a.nbytes for a in {id(a): a for s in sources for a in s.arrays.values()}.values())


def memory(experiment, settings: Settings, state: Shapes, free: int | None) -> list[Check]:
    """State, gradients and data against the memory of the devices and of this machine, whose free bytes are given.

    A CPU's devices share the machine's memory. For others the machine holds a copy of the state while it is saved.
    """
    mesh = meshes.abstract(settings.mesh)
    here, device = min(mesh.size, jax.local_device_count()), jax.local_devices()[0]
    each = {**state_bytes(state, experiment, settings, mesh), 'data': resident_bytes(experiment.data, settings)}
    fix = 'activations, which `plan` counts, come on top; use fsdp, a smaller population or --config.resident=no'
    if device.platform == 'cpu':
        return [host.room('memory', 'the run', {part: here * n for part, n in each.items()}, free, fix)]
    stats = device.memory_stats() or {}
    left = stats['bytes_limit'] - stats.get('bytes_in_use', 0) if 'bytes_limit' in stats else None
    saved = {part: here * n for part, n in each.items() if part not in ('gradients', 'data')}
    return [host.room('memory', 'a device', each, left, fix),
            host.room('host memory', 'saving', saved, free, 'request more memory, or more hosts')]


class ExperimentChecks:
    """The checks of one row of an experiment; each uses what the ones before have found.

    Args:
      computes: JAX has devices.
      writable: the workdir can be written.

    Attributes:
      opened: its data was opened, or refused; False where that takes too long.
      to_write: bytes of the checkpoints that it will add to its workdir; 0 where that is not known.
    """

    def __init__(self, job, row: str, computes: bool, writable: bool):
        self._job, self._row, self._computes, self._writable = job, row, computes, writable
        self.opened, self.to_write = False, 0
        self._config = self._reader = self._experiment = self._settings = self._state = None

    def run(self, look: Callable) -> None:
        """Runs all checks of the row, each by `look(name, check, *args)`."""
        mine = lambda name, check, **options: look(self._named(name), lambda: self._mark(check()), **options)
        mine('experiment', self._open, limit=OPEN_DATA_S, late=WARNING)
        if self._config is not None and self._writable:
            mine('run', lambda: workdir_run(self._job.workdir(self._row), self._job.name, self._row, self._config))
        if self._experiment is not None:
            mine('data', lambda: records(self._experiment.data))
        if not self._computes:
            return  # the model would wait for the devices, too
        if self._settings is not None:
            mine('devices', lambda: devices(self._settings))
        if self._experiment is not None:
            mine('model', self._model)
        if self._state is not None:
            mine('memory', lambda: memory(self._experiment, self._settings, self._state, host.host_memory()))

    def _named(self, name: str) -> str:
        return f'{self._row} {name}' if len(self._job.rows) > 1 else name

    def _mark(self, found: Check | list[Check]) -> list[Check]:
        found = found if isinstance(found, list) else [found]
        return [dataclasses.replace(c, name=self._named(c.name)) for c in found]

    def _open(self) -> Check:
        """Builds the experiment, which opens the data. The settings are read first: devices are checked also without data."""
        try:
            self._config = self._job.config(self._row)
            self._settings = settings_module.read(configs.Reader(self._config), 1)
            built = self._job.build(self._row, self._config)
            s = self._settings = built.settings
            self._reader, self._experiment = built.reader, built.experiment
        finally:
            self.opened = True
        return Check('experiment', OK, f'{s.steps:,} steps of {s.batch_size}, data {self._config.data}')

    def _model(self) -> Check:
        """Evaluates the shapes of model and optimizer; every key of the config must have been read by now."""
        state = shapes(self._experiment, self._settings)
        self._reader.check()
        parts = state_bytes(state, self._experiment, self._settings, meshes.abstract('data:1'))
        whole = sum(n for part, n in parts.items() if part != 'gradients')
        self._state = state
        if self._writable:
            saved = storage.children(self._job.workdir(self._row) / 'checkpoints')
            missing = self._settings.checkpoint_keep + SPARE - sum(name.isdigit() for name in saved)
            self.to_write = whole * max(SPARE, missing)
        return Check('model', OK, f'{count(state.params):,} parameters, {gib(whole)} a checkpoint')
