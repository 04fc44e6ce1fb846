"""The best weights: which metric judges them, in which direction, and the state before the first judgement."""
import dataclasses
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.experiment import Evaluator
from bigjax.runs.progress import Progress
from bigjax.train import best
from tests import tiny
from tests.refused import refused

SCORE = {'score': 'higher'}  # declared, so that `compute` is not tried before the first evaluation
SPLIT = {'val': Evaluator('val', compute=lambda outputs, examples: {}, better={'cost': 'lower', 'gain': 'higher'})}


@pytest.mark.parametrize(('text', 'higher'), [
    ('val/map', True), ('val/ndcg@10', True), ('val/iou', True), ('val/r2', True), ('val/psnr', True), ('val/hit_rate', True),
    ('val/accuracy', True), ('val/loss', False), ('val/error', False), ('val/rmse', False), ('val/gain', True),
    ('val/cost', False), ('max val/cost', True), ('min val/map', False), ('max val/made_up', True)])
def test_a_metric_carries_its_direction(text, higher):
    found = best.resolve(text, SPLIT, set(), {'val'})
    assert found == (text.split()[-1], higher)


@pytest.mark.parametrize(('text', 'code', 'names'), [
    ('test/acc', 'config/best-metric', ('test/acc', 'test/accuracy')), ('train/los', 'config/best-metric', ('train/loss',)),
    ('accuracy', 'config/best', ('accuracy',)), ('most test/loss', 'config/best', ('most test/loss',)),
    ('max', 'config/best', ('max',)), ('train/test/loss x', 'config/best', ())])
def test_a_metric_that_does_not_exist_is_refused_before_training(text, code, names):
    with refused(code, *names):
        tiny.program(best=text)


def test_a_misspelt_metric_is_named_beside_a_compute_too():
    with refused('config/best-metric', 'test/acc', 'test/accuracy'):
        tiny.program([tiny.experiment(compute=lambda outputs, examples: {'made_up': 1.0})], best='test/acc')


def test_a_metric_without_direction_is_refused():
    compute = lambda outputs, examples: {'made_up': 1.0}
    with refused('config/best-direction', 'test/made_up', 'max test/made_up', 'min test/made_up'):
        tiny.program([tiny.experiment(compute=compute)], best='test/made_up')


def test_a_metric_that_compute_never_gives_ends_the_run_at_the_first_evaluation(tmp_path):
    compute = lambda outputs, examples: {'map': 1.0}
    with refused('config/best-metric', 'test/mrr', 'test/map'):
        tiny.train(tmp_path, [tiny.experiment(compute=compute, better={'mrr': 'higher'})], best='test/mrr')


@pytest.mark.parametrize(('metric', 'worst'), [('max test/score', 'lowest'), ('min test/score', 'highest')])
def test_the_weights_of_the_right_end_are_kept(tmp_path, metric, worst):
    values = iter([0.3, 0.9, 0.1, 0.5, 0.0, 0.0])
    e = tiny.experiment(compute=lambda outputs, examples: {'score': next(values)}, better=SCORE)
    _, carry = tiny.train(tmp_path, [e], best=metric, eval_every=3)
    assert int(carry['best']['step']) == (6 if metric.startswith('max') else 9)


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(('values', 'step'), [
    ((NAN, 0.5, NAN, 0.4), 6), ((INF, 0.5, INF, 0.6), 12), ((NAN, NAN, NAN, NAN), 0), ((-INF, INF, NAN, -INF), 0)])
def test_a_value_that_is_not_finite_is_never_the_best(tmp_path, values, step):
    given, out = iter([*values, 0.0]), io.StringIO()
    e = tiny.experiment(norm=False, compute=lambda outputs, examples: {'score': next(given)}, better=SCORE)
    outcome, carry = tiny.train(tmp_path, [e], Progress(stream=out), best='max test/score', eval_every=3, checkpoint_every=3)
    assert 'test/score' in out.getvalue()
    kept, state = carry['best'], carry['state']
    if step:
        assert int(kept['step']) == step and np.isfinite(kept['value'])
        return
    assert np.isnan(kept['value']) and int(kept['step']) == 3  # of the first judgement
    newest, _ = tiny.train(tmp_path / 'without', [dataclasses.replace(e, evaluators={'test': Evaluator('test')})], eval_every=3)
    assert outcome.final['test/loss'] == newest.final['test/loss']
    assert tiny.equal(tiny.program([e], best='max test/score').variables(carry), state.variables())


def test_each_member_of_a_population_has_a_state_of_its_own(tmp_path):
    given = iter([NAN, 0.1, NAN, 0.5, NAN, 0.2, *[0.0] * 6])
    e = tiny.experiment(norm=False, compute=lambda outputs, examples: {'score': next(given)}, better=SCORE)
    out = io.StringIO()
    options = dict(best='max test/score', population=2)
    _, carry = tiny.train(tmp_path, [e], Progress(stream=out), eval_every=4, checkpoint_every=4, **options)
    assert carry['best']['step'].tolist() == [4, 8] and np.isnan(carry['best']['value'][0])
    assert 'test/score of member 0' in out.getvalue()
    reported = tiny.program([e], **options).variables(carry)
    tiny.close([x[0] for x in tiny.leaves(reported['params'])], [x[0] for x in tiny.leaves(carry['state'].ema)])
    best_params = carry['best']['variables']['params']
    tiny.close([x[1] for x in tiny.leaves(reported['params'])], [x[1] for x in tiny.leaves(best_params)])


def test_patience_counts_from_the_first_evaluation(tmp_path):
    options = dict(best='test/loss', steps=40, eval_every=20, checkpoint_every=5, patience=10, log_every=20)
    outcome, carry = tiny.train(tmp_path, **options)
    assert outcome.step >= 20 and int(carry['best']['step']) >= 20 and np.isfinite(float(carry['best']['value']))


def test_patience_runs_out_where_no_value_is_finite(tmp_path):
    e = tiny.experiment(norm=False, compute=lambda outputs, examples: {'score': NAN})
    outcome, _ = tiny.train(tmp_path, [e], best='max test/score', steps=40, eval_every=4, checkpoint_every=4, patience=8)
    assert (outcome.status, outcome.step) == ('stopped early', 16)


def test_a_checkpoint_of_an_earlier_version_has_an_infinity_for_no_best_yet():
    state = tiny.program(best='test/loss').init()['state']
    old = {'value': jnp.float32(jnp.inf), 'step': jnp.int32(0), 'variables': state.variables()}
    new = best.update(old, 0.5, state.replace(step=jnp.int32(7)), higher=False)
    assert (float(new['value']), int(new['step'])) == (0.5, 7)
    assert best.never_finite(old) == [0] and not best.stale(old, 100, 10)


@pytest.mark.parametrize(('weights', 'options'), [('ema', {'ema': 0.0}), ('best', {}), ('newest', {})])
def test_an_evaluator_of_weights_that_the_run_does_not_have_is_refused(weights, options):
    with refused('experiment/weights', weights):
        tiny.program([tiny.experiment(weights=weights)], **options)


def test_an_evaluator_chooses_its_weights(tmp_path):
    base = tiny.experiment(norm=False)
    e = dataclasses.replace(base, evaluators={
        'test': Evaluator('test'), 'raw': Evaluator('raw', weights='raw'), 'ema': Evaluator('ema', weights='ema'),
        'best': Evaluator('best', weights='best')}, data=dataclasses.replace(base.data, evals=dict.fromkeys(
            ('test', 'raw', 'ema', 'best'), base.data.evals['test'])))
    outcome, _ = tiny.train(tmp_path, [e], best='min test/loss', steps=60, eval_every=1, log_every=60, checkpoint_every=60)
    rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    last = next(row for row in reversed(rows) if 'test/loss' in row)
    assert last['ema/loss'] == last['test/loss'] != last['raw/loss']  # in training 'auto' is the moving average
    assert outcome.final['best/loss'] == outcome.final['test/loss']
    assert outcome.final['ema/loss'] == pytest.approx([last['ema/loss']], rel=1e-6)
