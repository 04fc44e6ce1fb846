"""What every experiment in experiments/ inherits, without a line of its own.

Each variant (the rows of TABLE, and every key of PARAMETERS) has its parameters counted and its resolved config held
against tests/golden/NAME.json, which holds what the script sets (BIGJAX_UPDATE_GOLDEN=1 writes it anew: look at the
difference before it is committed). The first
variant of each model class also trains a few steps on made-up data of the real shapes (TestTraining), and is held to
killed = straight, one device = four, accumulated = whole (TestState): of a few experiments at once, of all in the slow tier.
`pytest -m 'slow or not slow' tests/test_experiments.py -k NAME` runs all that one experiment inherits.
"""
import functools
import importlib
import io
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import config as configs
from bigjax.experiment import base_config
from bigjax.io import nested
from bigjax.runs.progress import Progress
from bigjax.runs.reader import read_metrics
from bigjax.runs.writer import Records
from bigjax.sharding import mesh as meshes
from bigjax.tasks import mean
from bigjax.train.job import Job
from bigjax.train.loop import Loop
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(p.stem for p in (ROOT / 'experiments').glob('*.py') if 'get_experiment' in p.read_text())
SMALL = {'data': 'fake', 'batch_size': '8', 'steps': '4', 'log_every': '1', 'eval_every': '4', 'checkpoint_every': '2',
         'population': '1', 'mesh': 'data:1', 'eval_batch_size': '64', 'best': ''}
SLOWLY = {'optimizer.lr': '0.0001'}
QUICK = 'mnist1d-logistic', 'mnist1d-cnn'  # train in the default tier; the first is held to the checks of state there


def module(name):
    return importlib.import_module(f'experiments.{name}')


def module_names(script) -> list[str]:
    """The variants of a script that are held to the checks: its table, those whose parameters are counted, or its only one."""
    return list(dict.fromkeys([*getattr(script, 'TABLE', ()), *getattr(script, 'PARAMETERS', ())])) or ['']


def all_variants():
    return [(n, v) for n in NAMES for v in module_names(module(n))]


@functools.cache
def kind(name, variant):
    """The class of a variant's model."""
    return type(job(name, variant).build(variant).experiment.model)


def trained_variants():
    """One variant a model class: the others differ in numbers only."""
    chosen = {}
    for name, variant in all_variants():
        chosen.setdefault((name, kind(name, variant)), (name, variant))
    return list(chosen.values())


def job(name, variant, shrink=True, **overrides):
    """The experiment on made-up data, a few steps of a small batch; `TINY` of the script shrinks what costs time."""
    own = getattr(module(name), 'TINY', {}) if shrink else {}
    known = nested.leaves(module(name).get_config(variant))
    wanted = {k: v for k, v in ({**SMALL, **own, **overrides}).items() if k in known}
    return Job(module(name), name, wanted, variant=variant)


def program(name, variant, **overrides):
    it = job(name, variant, **overrides)
    return it.build(variant).program()


def ids(case):
    return '-'.join(filter(None, case)).replace(',', '_').replace('/', '_')


def slow_but(quick, cases):
    """Parameters; all but those whose ids begin so wait for the slow tier."""
    return [pytest.param(*case, id=ids(case), marks=[pytest.mark.slow] * (not ids(case).startswith(quick))) for case in cases]


ALL, TRAINED = all_variants(), trained_variants()


def test_every_script_is_found():
    assert len(NAMES) >= 1
    for name in NAMES:
        text = module(name).__doc__
        assert not text or f'python -m experiments.{name}' in text, f'{name}: its head shows no command'


@pytest.mark.parametrize(('name', 'variant'), ALL, ids=map(ids, ALL))
def test_parameter_count(name, variant):
    layers = {'model.scan': 'True'}  # one layer is traced for all; it has the shapes of all, stacked
    experiment = job(name, variant, shrink=False, **layers).build(variant).experiment
    data = experiment.data
    batch = data.train.take(data.train.arrays, np.zeros(1, np.int32))
    batch = data.preprocess(batch) if data.preprocess else batch
    shapes = jax.eval_shape(lambda: experiment.model.init(
        {k: jax.random.key(0) for k in ('params', 'dropout', 'sample')}, *experiment.task.inputs(batch), train=False))
    count = sum(x.size for x in jax.tree.leaves(shapes['params']))
    stated = getattr(module(name), 'PARAMETERS', {})
    if variant not in stated:
        pytest.skip(f'{name} states no PARAMETERS[{variant!r}]; here they are {count:,}')
    assert count == stated[variant]


@pytest.mark.parametrize(('name', 'variant'), ALL, ids=map(ids, ALL))
def test_resolved_config(name, variant):
    golden_row(module(name), name, variant, GOLDEN / f'{name}.json')


def golden_row(script, name, variant, path):
    """Holds the keys in which a variant differs from `base_config` to the golden file of its experiment, or writes them."""
    config = configs.complete(script.get_config(variant), base_config())
    mine = {key: value for key, (value, _) in nested.difference(nested.plain(config), base_config()).items()}
    mine = json.loads(json.dumps(mine))
    golden = json.loads(path.read_text()) if path.exists() else {}
    if os.environ.get('BIGJAX_UPDATE_GOLDEN'):
        rows = dict(golden, **{variant: mine})
        text = ',\n'.join(f' {json.dumps(row)}: {{\n' + ',\n'.join(f'  {json.dumps(key)}: {json.dumps(rows[row][key])}'
                         for key in sorted(rows[row])) + '\n }' for row in sorted(rows))
        path.write_text(f'{{\n{text}\n}}\n')
        return
    again = f'BIGJAX_UPDATE_GOLDEN=1 pytest -k {name}'
    if variant not in golden:
        pytest.fail(f'{path.name} has no row {variant!r} yet; write it: {again}')
    changed = {key: (golden[variant].get(key, 'absent'), mine.get(key, 'absent')) for key in {**golden[variant], **mine}
               if golden[variant].get(key, 'absent') != mine.get(key, 'absent')}
    assert not changed, f'the resolved config changed (was, is): {changed}; if it should have, write it anew: {again}'


def run(name, variant, workdir, progress=None, **overrides):
    """(outcome, final carry)."""
    it = job(name, variant, **overrides)
    config = it.config(variant)
    built = it.build(variant, config)
    p, settings = built.program(), built.settings
    records = Records(workdir, experiment=name, variant=variant, config=nested.plain(config), command='')
    outcome = Loop(p, workdir, records, progress or Progress(stream=io.StringIO())).run()
    return p, outcome, p.restore(workdir / 'checkpoints' / str(settings.steps))


class Stops(Progress):
    """Breaks the run at the log of the third of its four steps."""

    def metrics(self, step, values):
        if step == 3:
            raise RuntimeError('killed')


class Straight(NamedTuple):
    """The undisturbed run of an experiment: `start` is its carry before the first step, `losses` those of each step."""

    program: Any
    outcome: Any
    start: dict
    carry: dict
    losses: list


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """The undisturbed run of each experiment, made once; in steps too small to amplify what rounding changes."""
    made = {}

    def get(name, variant):
        if (name, variant) not in made:
            made.clear()  # tests come experiment by experiment
            workdir = tmp_path_factory.mktemp('straight') / ids((name, variant))
            p, outcome, carry = run(name, variant, workdir, **SLOWLY)
            made[name, variant] = Straight(p, outcome, p.init(), carry,
                                           [line['train/loss'] for line in read_metrics(workdir)])
        return made[name, variant]

    return get


@pytest.mark.parametrize(('name', 'variant'), slow_but(QUICK, TRAINED))
class TestTraining:
    def test_steps_on_made_up_data(self, name, variant, straight):
        it = straight(name, variant)
        moved = [not np.array_equal(a, b) for a, b in zip(
            tiny.leaves(it.start['state'].params), tiny.leaves(it.carry['state'].params), strict=True)]
        assert int(it.carry['state'].step) == 4 and np.mean(moved) > 0.5
        losses = [v for k, values in it.outcome.final.items() if k.endswith('/loss') for v in values]
        assert all(np.isfinite([*losses, *it.losses])) and len(it.losses) == 4
        assert all(np.isfinite(x).all() for x in tiny.leaves(it.carry['state'].params) if x.dtype.kind == 'f')


@pytest.mark.parametrize(('name', 'variant'), slow_but(QUICK[0], TRAINED))
class TestState:
    def test_four_devices_are_one(self, name, variant, straight):
        four = losses(name, variant, straight, mesh='data:4')
        np.testing.assert_allclose(four, straight(name, variant).losses[:3], rtol=2e-4)

    def test_killed_is_straight(self, name, variant, straight, tmp_path):
        it = straight(name, variant)
        with pytest.raises(RuntimeError, match='killed'):
            run(name, variant, tmp_path, Stops(stream=io.StringIO()), **SLOWLY)
        _, again, resumed = run(name, variant, tmp_path, **SLOWLY)
        assert again.final == it.outcome.final and tiny.equal(it.carry, resumed)

    def test_accumulated_is_whole(self, name, variant, straight):
        it = straight(name, variant)
        state, experiment = it.start['state'], it.program.experiment
        if state.model_state:
            pytest.skip('batch statistics are those of the micro-batch')
        batch = it.program.feed(0).host_batch(0, 0)
        ready = experiment.data.preprocess(batch) if experiment.data.preprocess else batch
        if 'random_bits' in str(jax.make_jaxpr(
                lambda key: experiment.task.loss(it.program.apply, state.variables(), ready, key, True)[0])(state.key)):
            pytest.skip('its loss is random, and differently so in each micro-batch')
        np.testing.assert_allclose(losses(name, variant, straight, accumulate='4'), it.losses[:3], rtol=2e-4)


def losses(name, variant, straight, **overrides):
    """The losses of the first three steps from the undisturbed run's start."""
    p = program(name, variant, **SLOWLY, **overrides)
    assert meshes.data_size(p.mesh) == int(overrides.get('mesh', 'data:1')[5:])
    placed = jax.tree.map(lambda x: x.sharding, p.abstract)
    carry, feed, found = jax.device_put(jax.tree.map(jnp.copy, straight(name, variant).start), placed), p.feed(0), []
    for step in range(3):
        state, totals, _ = p.train_steps(carry['state'], tiny.zeros(carry['totals']), feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state, 'totals': totals}
        found.append(float(mean(totals['loss'])))
    feed.close()
    return found
