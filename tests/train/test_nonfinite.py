"""A loss that is not finite: the evidence, and what replaying it names."""
import dataclasses
import importlib
import io
import json
import re
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigjax import cli
from bigjax.checkpoint import manager, manifest
from bigjax.data import order
from bigjax.errors import NonFinite
from bigjax.experiment import Data
from bigjax.models import gpt
from bigjax.nn import stacking
from bigjax.runs.progress import Progress
from bigjax.tasks import LOSSES, bind, classification, language
from bigjax.train import nonfinite
from bigjax.train.compile_cache import Watch
from bigjax.train.state import init_state
from tests import tiers, tiny
from tests.refused import refused


class Broken(nn.Module):
    """The second layer takes the logarithm of what may be negative."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(4, name='first')(x)
        x = Log(name='log')(x)
        return nn.Dense(3, name='head')(x)


class Log(nn.Module):
    """log x."""

    @nn.compact
    def __call__(self, x):
        return jnp.log(x)


def poisoned():
    """Example 20 of the training set is not a number."""
    base = tiny.experiment()
    data = tiny.source(53)
    data.arrays['x'][20, 2] = np.nan
    object.__setattr__(base, 'data', Data(data, base.data.evals))
    return base


@pytest.mark.parametrize('population', [1, 2])
def test_the_loop_stops_keeps_the_evidence_and_applies_nothing(tmp_path, population):
    options = dict(population=population, log_every=4, checkpoint_every=100)
    with pytest.raises(NonFinite) as error:
        tiny.train(tmp_path, [poisoned()], **options)
    folder = tmp_path / 'nonfinite'
    assert str(folder) in str(error.value)
    info, batch = nonfinite.read(folder)
    assert np.isnan(batch['x']).any() and len(batch['x']) == 8
    p = tiny.program([poisoned()], **options)
    state = manager.load(folder / 'state', p.population.member(p.init()['state'], 0))
    assert int(state.step) == info['step'] == int(state.halted)
    straight = tiny.program([poisoned()], seed=info['member'], steps=info['step'] or 1)
    carry, feed = straight.init(), straight.feed(0)
    for step in range(info['step']):
        state_, totals, _ = straight.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state_, 'totals': totals}
    tiny.close(state.params, carry['state'].params, rtol=1e-5, atol=1e-6)
    what = nonfinite.explain(state, batch, apply=p.apply, loss=p.experiment.task.loss)
    assert "'x' is not finite in row" in what


def test_the_evidence_is_written_when_no_save_is_under_way(tmp_path, monkeypatch):
    """Two of Orbax's saves at a time break each other."""
    seal, write, sealed = manifest.seal, manager.write, []

    def slow(*args):
        time.sleep(0.3)
        seal(*args)

    def looked(*args):
        sealed.extend(manager.steps(tmp_path / manager.FOLDER))
        write(*args)

    monkeypatch.setattr(manifest, 'seal', slow)
    monkeypatch.setattr(manager, 'write', looked)
    with pytest.raises(NonFinite):
        tiny.train(tmp_path, [poisoned()], log_every=1, checkpoint_every=1)
    step = nonfinite.read(tmp_path / 'nonfinite')[0]['step']
    assert step > 0 and sealed[-1] == step
    for folder in (tmp_path / 'nonfinite' / 'state', tmp_path / manager.FOLDER / str(step)):
        assert not manifest.fault(folder)


def replayed(workdir, experiment, **options):
    """(info, what is named) of the step that a run of `experiment` stopped at."""
    p = tiny.program([experiment], **options | {'population': 1})
    info, batch = nonfinite.read(workdir / 'nonfinite')
    state = manager.load(workdir / 'nonfinite' / 'state', p.init()['state'])
    assert int(state.step) == int(state.halted) == info['step']
    s, data = p.settings, experiment.data
    return info, nonfinite.explain(
        state, batch, apply=p.apply, loss=experiment.task.loss, preprocess=data.preprocess, augment=data.augment,
        accumulate=s.accumulate, parts=info['parts'], reduce_dtype=s.reduce_dtype, tx=p.tx)


def logged(workdir):
    """The lines of what is not finite."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [line for line in lines if None in line.values()]


FOUR = dict(steps_per_call=4, log_every=4, eval_every=4, checkpoint_every=12)


@pytest.mark.parametrize('options', tiers.first(3, [FOUR, {'accumulate': 4}, {'resident': 'no'}, {}, {'ema': 0.0}]), ids=str)
def test_it_stops_at_the_first_bad_batch_whatever_the_step_is_made_of(tmp_path, options):
    with pytest.raises(NonFinite):
        tiny.train(tmp_path, [poisoned()], **options)
    info, what = replayed(tmp_path, poisoned(), **options)
    rows = [order.batch_indices(0, t, 1, 8, 53, True)[0].tolist() for t in range(12)]
    bad = next(t for t in range(12) if 20 in rows[t])
    assert info['step'] == bad > 0
    assert re.search(rf"'x' .* {rows[bad].index(20)} \(1 of 8 ", what), what
    assert [line['step'] for line in logged(tmp_path)] == [bad + 1] and logged(tmp_path)[0]['train/loss'] is None
    straight = tiny.program([poisoned()], **options | {'steps': bad, 'steps_per_call': 1})
    carry, feed = straight.init(), straight.feed(0)
    for step in range(bad):
        state, totals, halted = straight.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state, 'totals': totals}
    feed.close()
    assert int(halted) == -1
    kept = manager.load(tmp_path / 'nonfinite' / 'state', straight.init()['state'])
    tiny.close(kept.replace(halted=state.halted), carry['state'], rtol=1e-5, atol=1e-6)


def test_of_several_members_the_first_to_break_is_kept(tmp_path):
    broke = [next(t for t in range(12) if 20 in order.batch_indices(m, t, 1, 8, 53, True)) for m in range(4)]
    assert broke.index(min(broke)) > 0  # and not the first of all
    options = dict(population=4, log_every=12, eval_every=12, checkpoint_every=12)
    with pytest.raises(NonFinite):
        tiny.train(tmp_path, [poisoned()], **options)
    info, what = replayed(tmp_path, poisoned(), **options)
    assert (info['member'], info['step']) == (broke.index(min(broke)), min(broke)) and "'x' is not finite in row" in what


def test_a_first_step_that_is_not_finite_is_no_parameter_that_does_not_move(tmp_path):
    bad = poisoned()
    bad.data.train.arrays['x'][:] = np.nan
    program = tiny.program([bad], steps=24, log_every=24, eval_every=0, checkpoint_every=0)
    program.watch = Watch(strict=True)
    with pytest.raises(NonFinite):
        tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    assert nonfinite.read(tmp_path / 'nonfinite')[0]['step'] == 0


class Root(nn.Module):
    """Finite, and its gradient is not: the root of zero rises infinitely steep."""

    @nn.compact
    def __call__(self, x, *, train):
        root = jnp.sqrt(jnp.maximum(nn.Dense(4, name='first')(x) * 0.0, 0.0))
        return nn.Dense(3, name='head')(x) + 0 * root[..., :1]


class Steep(nn.Module):
    """Finite gradients whose squares are not."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, name='head', kernel_init=nn.initializers.zeros_init())(x * 1e20)


class Scaled(nn.Module):
    """Gradients of about a hundred."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, name='head')(x * 100)


class Sown(nn.Module):
    """Adds a loss of its own that is not finite."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(3, name='head')(x)
        self.sow(LOSSES, 'balance', jnp.log(jnp.sum(x) * 0))
        return x


class Unlucky(nn.Module):
    """Breaks at one random number in sixteen."""

    @nn.compact
    def __call__(self, x, *, train):
        x = Lot(name='lot')(nn.Dense(8, name='first')(x)) if train else nn.Dense(8, name='first')(x)
        return nn.Dense(3, name='head')(x)


class Lot(nn.Module):
    """Draws it."""

    @nn.compact
    def __call__(self, x):
        return jnp.where(jax.random.uniform(self.make_rng('dropout'), ()) < 1 / 16, jnp.nan, x)


SGD = {'name': 'sgd', 'lr': 0.1}
CASES = {
    'gradient': (Root(), SGD, {}, r'gradient .*\bfirst/(bias|kernel) .*\bloss\b'),
    'gradient, by parts': (Root(), SGD, FOUR | {'accumulate': 2}, r'gradient .*\bfirst/(bias|kernel)\b'),
    'norm': (Steep(), SGD, {}, r'\bnorm\b.* head/'),
    'update': (Scaled(), {'name': 'sgd', 'lr': 3e38}, {'log_every': 1, 'checkpoint_every': 1}, r'\bupdate .*\bhead/'),
    'sown': (Sown(), SGD, {'accumulate': 2}, r'\blosses/balance\S* .*\b0$'),
    'lot': (Unlucky(), SGD, {'accumulate': 4}, r'\blot \(Lot\.__call__\) .*\b[123]$'),
    'lot, summed by hand': (Unlucky(), SGD, {'reduce_dtype': 'bfloat16'}, r'\blot \(Lot\.__call__\)$')}


@pytest.mark.parametrize('case', tiers.first(6, CASES))
def test_what_broke_is_named(tmp_path, case):
    model, optimizer, options, words = CASES[case]
    broken = dataclasses.replace(tiny.experiment(optimizer=optimizer), model=model)
    options = dict(steps=400, eval_every=0, ema=0.0) | options
    for _ in range(2 if case == 'update' else 1):  # nor does a checkpoint hold what breaks every later start
        with pytest.raises(NonFinite):
            tiny.train(tmp_path, [broken], **options)
        info, what = replayed(tmp_path, broken, **options)
        assert re.search(words, what), what
        assert info['step'] == 0 or 'lot' in case
    assert case != 'update' or not manager.steps(tmp_path / manager.FOLDER)


@pytest.mark.parametrize(('form', 'named'), [
    ({}, ['block_1/mlp/down (Dense.__call__)']), ({'remat': 'full'}, ['block_1/mlp/down (Dense.__call__)']),
    ({'scan': True}, ['blocks/mlp/down (Dense.__call__)', 'layer 1']),
    ({'scan': True, 'remat': 'dots'}, ['blocks/mlp/down (Dense.__call__)', 'layer 1'])], ids=str)
def test_the_module_is_named_in_every_form_of_a_stack(form, named):
    model = gpt.GPT(vocab_size=32, block_size=8, width=8, num_layers=3, num_heads=2, **form)
    tokens = jnp.zeros((2, 8), jnp.int32)
    state = init_state(model, (tokens,), optax.identity(), 0, ema=False)
    loud = lambda path, x: x * 1e36 if 'mlp' in jax.tree_util.keystr(path) and 'kernel' in jax.tree_util.keystr(path) else x
    plain = stacking.unstack(state.params)
    plain['block_1'] = jax.tree_util.tree_map_with_path(loud, plain['block_1'])
    state = state.replace(params=stacking.like(plain, state.params))
    what = nonfinite.explain(state, {'tokens': tokens, 'targets': tokens}, apply=bind(model), loss=language.next_token().loss)
    assert all(name in what for name in named), what


def test_the_first_module_is_named():
    task = classification.softmax('x')
    state = init_state(Broken(), (jnp.zeros((1, 5)),), optax.identity(), 0, ema=False)
    batch = tiny.source(8).arrays
    what = nonfinite.explain(state, batch, apply=bind(Broken()), loss=task.loss)
    assert 'log (Log.__call__)' in what


def test_a_folder_without_evidence_is_refused(tmp_path):
    with refused('replay/no-evidence', 'info.json'):
        nonfinite.read(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'options', 'words'), [
    ('mnist1d', ('--variant=mlp', '--population=1', '--config.population_over=optimizer.lr=0.01; optimizer.lr=1e38'),
     r'\bdense_\d \(Dense\.__call__\)$'),
    ('gpt2_openwebtext', ('--variant=s', '--config.length=16', '--config.model.scan=True', '--config.model.remat=full',
                          '--config.model.num_layers=2', '--config.model.width=32', '--config.model.num_heads=2',
                          '--config.accumulate=2', '--config.optimizer.lr=1e38',
                          '--config.optimizer.schedule.warmup=0', '--config.optimizer.schedule.end=0'),
     r'\bblocks/\S+ \(\w+\.__call__\) .*layer 0 .*\b0$')], ids=['population', 'scan and remat'])
def test_the_command_names_the_module_and_the_report_shows_the_place(tmp_path, capsys, name, options, words):
    module = importlib.import_module(f'experiments.{name}')
    short = ('--config.data=fake', '--config.steps=6', '--config.batch_size=8', '--config.log_every=1', '--config.mesh=data:1',
             '--config.eval_every=0')
    assert cli.run(module, f'experiments.{name}', [f'--workdir={tmp_path}', *short, *options]) == 3
    assert re.search(r'spike[^<]*\b2: not finite', (tmp_path / 'report.html').read_text())
    capsys.readouterr()
    assert cli.run(module, f'experiments.{name}', [f'--replay={tmp_path}/nonfinite']) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.search(rf'^step 1\b.*{words}', last), last
