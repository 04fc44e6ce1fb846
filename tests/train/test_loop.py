"""The loop: resuming, populations, dispatches of several steps, the host pipeline, stopping early."""
import dataclasses
import errno
import io
import json
import os
import signal
import time

import flax.linen as nn
import numpy as np
import pytest

from bigjax.checkpoint import manager, manifest
from bigjax.errors import Preempted
from bigjax.runs.progress import Progress
from bigjax.watchdog.watchdog import Guard
from tests import tiers, tiny
from tests.refused import refused


def lines(workdir):
    """metrics.jsonl without the wall clock."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith('time/')} for row in rows]


def assert_same(workdir, other):
    """The same lines, and the same checkpoints kept."""
    assert lines(workdir) == lines(other)
    assert manager.steps(workdir / manager.FOLDER) == manager.steps(other / manager.FOLDER)


class Asks(Progress):
    """Asks the run to stop when it has seen training metrics of a step."""

    def __init__(self, at):
        super().__init__(stream=io.StringIO())
        self.at = at

    def metrics(self, step, values):
        if step == self.at and 'train/loss' in values:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # the guard has heard it


class Stops(Progress):
    """Breaks the run when it has seen the metrics of a step."""

    def __init__(self, at):
        super().__init__(stream=io.StringIO())
        self.at = at

    def metrics(self, step, values):
        if step == self.at:
            raise RuntimeError('killed')


@pytest.mark.parametrize('options', tiers.first(2, [
    {}, {'population': 2}, {'best': 'test/accuracy'}, {'resident': 'no'},
    {'steps_per_call': 3, 'eval_every': 3, 'checkpoint_every': 6}]), ids=str)
def test_killed_and_resumed_is_straight(tmp_path, options):
    straight, carry = tiny.train(tmp_path / 'straight', **options)
    with pytest.raises(RuntimeError, match='killed'):
        tiny.train(tmp_path / 'killed', progress=Stops(9), **options)
    resumed, again = tiny.train(tmp_path / 'killed', **options)
    assert straight.final == resumed.final
    assert_same(tmp_path / 'straight', tmp_path / 'killed')
    assert tiny.equal(carry, again)
    names = [(row['step'], k) for row in lines(tmp_path / 'killed') for k in row if k != 'step']
    assert len(names) == len(set(names))


def test_several_steps_a_call_and_the_pipeline_change_nothing(tmp_path):
    base, carry = tiny.train(tmp_path / 'a', eval_every=6, log_every=6)
    for name, options in {'scan': {'steps_per_call': 6}, 'pipeline': {'resident': 'no'}}.items():
        other, again = tiny.train(tmp_path / name, eval_every=6, log_every=6, **options)
        tiny.close(again['state'].params, carry['state'].params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other.final['test/loss'], base.final['test/loss'], rtol=1e-5)
    assert tiny.program(steps_per_call=6, eval_every=6, log_every=6).steps_per_call == 6
    assert tiny.program(steps_per_call=5, eval_every=6, log_every=4).steps_per_call == 2


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(4, (3,), name='conv')(x[..., None])
        return nn.Dense(3, name='head')(x.reshape(len(x), -1))


@pytest.mark.parametrize(('options', 'steps'), [
    ({}, 6), ({'population': 2}, 6), ({'log_every': 4}, 2), ({'resident': 'no'}, 1)])
def test_short_steps_are_dispatched_together_on_a_cpu(options, steps):
    assert tiny.program(**{'log_every': 6, 'eval_every': 6, **options}).steps_per_call == steps


def test_convolutions_are_not_scanned_on_a_cpu():
    convolved = dataclasses.replace(tiny.experiment(), model=Convolved())
    assert tiny.program([convolved], log_every=6, eval_every=6).steps_per_call == 1


def test_members_are_single_runs(tmp_path):
    together, carry = tiny.train(tmp_path / 'all', population=3, seed=4)
    for m in range(3):
        alone, single = tiny.train(tmp_path / str(m), seed=4 + m)
        np.testing.assert_allclose(together.final['test/loss'][m], alone.final['test/loss'][0], rtol=1e-4)
        for all_, one in zip(tiny.leaves(carry['state'].params), tiny.leaves(single['state'].params), strict=True):
            np.testing.assert_allclose(all_[m], one, rtol=1e-4, atol=1e-5)
    rows = lines(tmp_path / 'all')
    assert len(rows[-1]['test/loss/members']) == 3
    np.testing.assert_allclose(rows[-1]['test/loss/std'], np.std(rows[-1]['test/loss/members'], ddof=1), rtol=1e-6)


SCHEDULE = {'name': 'cosine', 'warmup': 3}


@pytest.mark.slow
@pytest.mark.parametrize(('spec', 'values'), [
    ({'name': 'sgd', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.0, 'clip_norm': 0.1, 'l2': 0.1, 'schedule': SCHEDULE},
     ({'lr': 0.1, 'weight_decay': 0.0, 'momentum': 0.8, 'clip_norm': 0.05, 'l2': 0.0},
      {'lr': 0.02, 'weight_decay': 0.1, 'momentum': 0.9, 'clip_norm': 5.0, 'l2': 0.3})),
    ({'name': 'adamw', 'lr': 0.1, 'b1': 0.9}, ({'lr': 0.1, 'b1': 0.8}, {'lr': 0.01, 'b1': 0.95})),
    ({'name': 'lamb', 'lr': 0.1, 'weight_decay': 0.1}, ({'lr': 0.1, 'weight_decay': 0.3}, {'lr': 0.01, 'weight_decay': 0.0}))])
def test_members_written_out_are_single_runs(tmp_path, spec, values):
    """Numbers of the optimizer, and seeds, that differ from member to member."""
    text = lambda m, each: ' '.join([*(f'optimizer.{k}={v}' for k, v in each.items()), f'seed={5 + 3 * m}'])
    over = '; '.join(text(m, each) for m, each in enumerate(values))
    together, carry = tiny.train(tmp_path / 'all', [tiny.experiment(norm=False, optimizer=spec)], optimizer=spec,
                                 population_over=over)
    rates = []
    for m, each in enumerate(values):
        alone, single = tiny.train(tmp_path / str(m), [tiny.experiment(norm=False, optimizer={**spec, **each})], seed=5 + 3 * m)
        np.testing.assert_allclose(together.final['test/loss'][m], alone.final['test/loss'][0], rtol=1e-4)
        for all_, one in zip(tiny.leaves(carry['state'].params), tiny.leaves(single['state'].params), strict=True):
            np.testing.assert_allclose(all_[m], one, rtol=1e-4, atol=1e-5)
        rates.append([row['train/learning_rate'] for row in lines(tmp_path / str(m)) if 'train/learning_rate' in row])
    shown = [row['train/learning_rate/members'] for row in lines(tmp_path / 'all') if 'train/learning_rate' in row]
    np.testing.assert_allclose(shown, np.transpose(rates), rtol=1e-5)


@pytest.mark.parametrize(('over', 'name'), [
    ('batch_size=8; batch_size=16', 'batch_size'), ('optimizer.name=sgd', 'optimizer.name'),
    ('optimizer.nesterov=1', 'optimizer.nesterov'), ('optimizer.lr=x', 'optimizer.lr=x'),
    ('optimizer.lr=1; seed=1', 'optimizer.lr'), ('seed=1.5', 'seed=1.5')])
def test_members_that_cannot_share_a_step_are_refused(over, name):
    with refused('config/population-over', name):
        tiny.program(optimizer={'name': 'sgd', 'lr': 0.1, 'nesterov': True}, population_over=over)


def test_as_many_members_as_are_written_out():
    spec = {'name': 'sgd', 'lr': 0.1}
    assert tiny.program(optimizer=spec, population_over='seed=1; seed=2; seed=5').seeds == [1, 2, 5]
    with refused('config/population-over', '4', '2 members'):
        tiny.program(optimizer=spec, population=4, population_over='seed=1; seed=2')


def test_a_number_that_decides_what_is_computed_cannot_differ():
    spec = {'name': 'adafactor', 'lr': 0.1, 'min_dim_size_to_factor': 8}
    over = 'optimizer.min_dim_size_to_factor=4; optimizer.min_dim_size_to_factor=8'
    with refused('config/population-over', 'adafactor', 'min_dim_size_to_factor'):
        tiny.program([tiny.experiment(optimizer=spec)], optimizer=spec, population_over=over).init()


@pytest.mark.slow
def test_members_with_data_of_their_own(tmp_path):
    mine = [tiny.experiment(), tiny.experiment(test=17)]
    object.__setattr__(mine[1], 'data', tiny.experiment().data.__class__(tiny.source(53, 9), {'test': tiny.source(17, 8)}))
    object.__setattr__(mine[0], 'data', mine[0].data.__class__(tiny.source(53, 0), {'test': tiny.source(17, 1)}))
    together, _ = tiny.train(tmp_path / 'all', mine, population=2, population_over='split')
    for m in range(2):
        alone, _ = tiny.train(tmp_path / str(m), [mine[m]])
        np.testing.assert_allclose(together.final['test/loss'][m], alone.final['test/loss'][0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', ['data:4', 'data:8'])
def test_devices_change_nothing(tmp_path, mesh):
    one, carry = tiny.train(tmp_path / 'one')
    many, again = tiny.train(tmp_path / 'many', mesh=mesh)
    tiny.close(again['state'].params, carry['state'].params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many.final['test/loss'], one.final['test/loss'], rtol=1e-5)


def test_the_best_weights_are_the_ones_reported(tmp_path):
    outcome, carry = tiny.train(tmp_path, best='test/loss', eval_every=1, ema=0.0, optimizer=None)
    losses = {row['step']: row['test/loss'] for row in lines(tmp_path) if 'test/loss' in row}
    best = min(losses, key=losses.get)
    assert int(carry['best']['step']) == best
    np.testing.assert_allclose(outcome.final['test/loss'][0], losses[best], rtol=1e-6)


def test_the_best_training_loss_is_judged_at_each_log(tmp_path):
    _, carry = tiny.train(tmp_path, best='train/loss', log_every=2)
    losses = {row['step']: row['train/loss'] for row in lines(tmp_path) if 'train/loss' in row}
    assert int(carry['best']['step']) == min(losses, key=losses.get)
    np.testing.assert_allclose(float(carry['best']['value']), min(losses.values()), rtol=1e-6)


def test_stopping_early(tmp_path):
    # Nothing improves after the first evaluation.
    bad = tiny.experiment(norm=False, optimizer={'name': 'sgd', 'lr': 0.1, 'frozen': ('.*',)})
    outcome, _ = tiny.train(tmp_path, [bad], best='test/loss', eval_every=1, patience=3, ema=0.0, steps=40)
    assert outcome.status == 'stopped early' and outcome.step == 5


def test_a_run_that_stopped_early_is_not_trained_on_when_it_is_started_again(tmp_path):
    """Killed after its last save, in the final evaluation or while the report was written."""
    options = dict(best='test/accuracy', eval_every=1, patience=3, steps=200, checkpoint_every=50)
    straight, carry = tiny.train(tmp_path, **options)
    written, kept = lines(tmp_path), manager.steps(tmp_path / manager.FOLDER)
    assert straight.status == 'stopped early' and 0 < straight.step < 200
    again, same = tiny.train(tmp_path, **options)
    assert (again.status, again.step, again.final) == (straight.status, straight.step, straight.final)
    assert lines(tmp_path) == written and manager.steps(tmp_path / manager.FOLDER) == kept and tiny.equal(carry, same)


SAVED_OFTEN = dict(best='test/loss', checkpoint_every=4)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """(workdir, outcome, final carry) of the run that the signals disturb."""
    workdir = tmp_path_factory.mktemp('undisturbed')
    return workdir, *tiny.train(workdir, **SAVED_OFTEN)


@pytest.mark.parametrize('at', [3, 9, 12])  # in a step; where a save and no evaluation is near; before the last evaluation
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, undisturbed, at):
    workdir, straight, carry = undisturbed
    with pytest.raises(Preempted) as stop, Guard() as guard:
        tiny.train(tmp_path, progress=Asks(at), guard=guard, **SAVED_OFTEN)
    assert 'SIGTERM' in str(stop.value)
    resumed, again = tiny.train(tmp_path, **SAVED_OFTEN)
    assert resumed.final == straight.final and tiny.equal(carry, again)
    assert lines(workdir) == lines(tmp_path)
    assert not manifest.read(tmp_path / manager.FOLDER / '12')[manifest.EVAL_PENDING]


def test_a_save_that_failed_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, 'seal', lambda *args: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    monkeypatch.setattr(manager, 'ORBAX_LOG_FLUSH_S', 0.0)
    seen = []

    class Slow(Progress):
        def metrics(self, step, values):
            seen.append(step)
            time.sleep(0.2 * (step > 20))

    with pytest.raises(OSError) as error:
        tiny.train(tmp_path, progress=Slow(stream=io.StringIO()), log_every=1, checkpoint_every=20, eval_every=60, steps=60,
                   best='')
    assert error.value.errno == errno.ENOSPC and max(seen) < 30  # not at the next save, nor at the end


def test_an_interval_is_the_mean_over_its_examples(tmp_path):
    tiny.train(tmp_path / 'each', log_every=1, eval_every=12)
    tiny.train(tmp_path / 'four', log_every=4, eval_every=12)
    each = [row['train/loss'] for row in lines(tmp_path / 'each') if 'train/loss' in row]
    four = [row['train/loss'] for row in lines(tmp_path / 'four') if 'train/loss' in row]
    np.testing.assert_allclose(np.reshape(each, (3, 4)).mean(1), four, rtol=1e-6)


@pytest.mark.parametrize('population', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_logged_learning_rate_has_the_plateaus_factor(tmp_path, population):
    schedule = dict(name='plateau', factor=0.5, patience='1 epoch', atol=100.0)  # no loss is good enough
    experiment = tiny.experiment(optimizer=dict(name='sgd', lr=0.1, schedule=schedule))
    tiny.train(tmp_path, [experiment], population=population, steps=60, log_every=1)
    key = 'train/learning_rate/members' if population > 1 else 'train/learning_rate'
    rates = np.asarray([row[key] for row in lines(tmp_path) if key in row]).reshape(-1, population)
    assert rates.max() == pytest.approx(0.1)
    assert (rates.min(axis=0) < 0.03).all()
