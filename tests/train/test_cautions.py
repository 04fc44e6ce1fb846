"""What a run can hardly be meant to do is a line at its start, or refused where it was written down."""
import dataclasses
import io
import types

import numpy as np
import optax
import pytest

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Evaluator, Expected
from bigjax.runs.progress import Progress
from bigjax.train import build, cautions, schedules
from tests import tiny
from tests.refused import refused

RUN = dict(total_steps=12, steps_per_epoch=6.0, batch_size=8)


@pytest.mark.parametrize(('spec', 'found'), [
    ('cosine', []), (None, []), (optax.constant_schedule(0.1), []),
    ({'name': 'constant', 'warmup': 20}, [('warmup', 20)]),
    ({'name': 'cosine', 'warmup': 8, 'hold': 8}, [('warmup', 8), ('hold', 16)]),
    ({'name': 'linear', 'warmup': '50%'}, [('warmup', 6)]), ({'name': 'one_cycle', 'peak': '5 epochs'}, [('peak', 30)]),
    ({'name': 'step', 'boundaries': ('1 epoch', 40)}, [('boundaries', 6), ('boundaries', 40)]),
    ({'name': 'step', 'boundaries': 40}, [('boundaries', 40)]), ({'name': 'step', 'every': 13}, [('every', 13)]),
    ({'name': 'exponential', 'every': 1000}, []), ({'name': 'plateau', 'patience': '4 epochs'}, [('patience', 24)])])
def test_the_steps_at_which_parts_of_a_schedule_are_over(spec, found):
    assert schedules.spans(spec, **RUN) == found


def built(schedule, paper=None, **changes):
    """`build` of a script with that schedule, whose paper's config is another one."""
    def config(schedule, **changes):
        made = tiny.config(ema=0.0, **changes)
        made.optimizer = {'name': 'sgd', 'lr': 0.1, **schedule}
        return made

    script = types.SimpleNamespace(get_experiment=lambda config: tiny.experiment(optimizer=config.optimizer))
    ours, theirs = config(schedule, **changes), config(schedule if paper is None else paper)
    return build.build(script, ours, theirs)


def check(built):
    cautions.check_schedule(built.experiment, built.settings, built.differs)


BEYOND = {'schedule': {'name': 'cosine', 'warmup': 13}}


@pytest.mark.parametrize(('options', 'names'), [
    (dict(schedule=BEYOND), ('optimizer.schedule.warmup', '13', '12')), (dict(schedule=BEYOND, paper={}), ('warmup',)),
    (dict(schedule=BEYOND, paper={}, steps=5), ('warmup', '5')),
    (dict(schedule={'groups': (('.*', BEYOND),)}), ('optimizer.groups[0].schedule.warmup',))], ids=str)
def test_a_schedule_that_the_run_does_not_reach_is_refused_where_it_was_written(options, names):
    with refused('schedule/beyond', *names):
        check(built(**options))


def test_the_schedule_of_a_paper_in_a_shorter_run_is_a_warning():
    b = built(BEYOND, steps=5)
    check(b)
    assert [line for line in cautions.lines(b.experiment, b.settings) if 'optimizer.schedule.warmup' in line and '13' in line]
    b = built({'schedule': {'name': 'cosine', 'warmup': 12}})
    assert not cautions.lines(b.experiment, b.settings)


@pytest.mark.parametrize(('labels', 'warned'), [
    (np.full(53, 2), True), (np.arange(53) % 3, False), (np.full((53, 1), 2), False)])
def test_one_class_only_is_a_warning(labels, warned):
    source = ArraySource({'x': tiny.source(53).arrays['x'], 'label': labels.astype(np.int32)})
    assert bool(cautions.one_class(Data(source, {}))) == warned


def test_a_run_prints_its_warnings(tmp_path):
    out, e = io.StringIO(), tiny.experiment(optimizer={'name': 'sgd', 'lr': 0.1, **BEYOND})
    one = ArraySource({'x': tiny.source(5).arrays['x'], 'label': np.zeros(5, np.int32)})
    e = dataclasses.replace(e, data=dataclasses.replace(e.data, train=one))
    tiny.train(tmp_path, [e], Progress(stream=out))
    warnings = [line for line in out.getvalue().splitlines() if 'warning' in line]
    assert [key for key in ('config.batch_size', 'config.data', 'optimizer.schedule.warmup') if any(
        key in line for line in warnings)] == ['config.batch_size', 'config.data', 'optimizer.schedule.warmup']


def published(metric, compute=None, **evaluator):
    e = tiny.experiment(**({'compute': compute, **evaluator} if compute else evaluator))
    return dataclasses.replace(e, expected=(Expected(metric, 0.5, 0.1, 'a table'),))


@pytest.mark.parametrize(('e', 'names'), [
    (published('test/acuracy'), ('test/acuracy', 'test/accuracy')), (published('val/accuracy'), ('val/accuracy',)),
    (published('test/map', lambda outputs, examples: {'mrr': 1.0}), ('test/map', 'test/mrr'))],
    ids=['near', 'split', 'compute'])
def test_a_published_result_that_no_evaluator_gives_is_refused(e, names):
    with refused('experiment/expected', *names):
        tiny.program([e])


def test_a_published_result_that_an_evaluator_may_give_is_none_of_these():
    def fails(outputs, examples):
        raise ValueError('needs all examples')

    for e in (published('test/accuracy'), published('test/map', fails), published('test/examples'),
              published('test/map', lambda outputs, examples: {'map': float(examples['label'].mean() + outputs.mean())}),
              published('test/map', lambda outputs, examples: {}, better={'map': 'higher'})):
        assert tiny.program([e]).parameters


def test_best_of_a_metric_that_compute_does_not_give_is_refused_before_training(tmp_path):
    e = tiny.experiment(compute=lambda outputs, examples: {'map': 1.0})
    with refused('config/best-metric', 'test/made_up', 'test/map'):
        tiny.program([e], best='max test/made_up')
    with refused('evaluator/result', 'test'):
        tiny.program([tiny.experiment(compute=lambda outputs, examples: None)], best='max test/made_up')
    assert tiny.program([e], best='test/map').best.higher
    assert tiny.program([dataclasses.replace(e, evaluators={
        'test': Evaluator('test', compute=lambda outputs, examples: {}, better={'late': 'lower'})})], best='test/late').best
