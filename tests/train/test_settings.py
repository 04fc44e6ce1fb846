"""Values of the shared keys that no run can have are refused with a code, and the nearest form is named."""
import dataclasses
import types

import pytest

from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Expected
from bigjax.train import build, settings
from bigjax.train.population import difference
from tests import tiny
from tests.refused import refused

RATE = {'optimizer': {'lr': 0.1}}


def read(**changes):
    return settings.read(configs.Reader(tiny.config(**changes)), 53)


@pytest.mark.parametrize(('changes', 'code', 'names'), [
    ({'steps': 0}, 'config/range', ('config.steps', '0')), ({'steps': -3}, 'duration/form', ('config.steps', '-3')),
    ({'batch_size': 0}, 'config/range', ('config.batch_size', '0')), ({'batch_size': -8}, 'config/range', ('-8',)),
    ({'population': 0}, 'config/range', ('config.population',)), ({'population': -2}, 'config/range', ('-2',)),
    ({'accumulate': 0}, 'config/range', ('config.accumulate',)), ({'accumulate': 3}, 'config/batch-divisible', ('8', '9')),
    ({'steps': 2**31}, 'config/range', ('config.steps',)),
    ({**RATE, 'population_over': 'optimizer.lr=-1; optimizer.lr=0.1'}, 'config/population-over', ('optimizer.lr=-1',)),
    ({**RATE, 'population_over': 'optimizer.lr=0.1; optimizer.lr=0'}, 'config/population-over', ('optimizer.lr=0',)),
    ({**RATE, 'population_over': 'optimizer.lr=inf; optimizer.lr=1'}, 'config/population-over', ('optimizer.lr=inf',)),
    ({'seed': -1}, 'config/range', ('config.seed',)), ({'seed': 2**31 - 1, 'population': 2}, 'config/range', ('config.seed',)),
    ({'log_every': 0}, 'config/range', ('config.log_every', '0')),
    ({'log_every': -1}, 'duration/form', ('config.log_every',)), ({'eval_every': -5}, 'duration/form', ('config.eval_every',)),
    ({'checkpoint_every': -1}, 'duration/form', ('config.checkpoint_every',)),
    ({'checkpoint_keep': 0}, 'config/range', ('config.checkpoint_keep',)),
    ({'eval_batch_size': -1}, 'config/range', ('config.eval_batch_size',)),
    ({'data_threads': 0}, 'config/range', ('config.data_threads',)), ({'data_workers': -1}, 'config/range', ('-1',)),
    ({'steps_per_call': -1}, 'config/range', ('config.steps_per_call',)), ({'ema': 1.0}, 'config/range', ('config.ema',)),
    ({'ema': -0.5}, 'config/range', ('-0.5',)), ({'resident': 'maybe'}, 'config/choice', ('maybe', 'auto')),
    ({'reduce_dtype': 'float8'}, 'config/choice', ('float8', 'bfloat16')),
    ({'patience': 3}, 'config/patience', ('config.patience', '3', '--config.best=')),
    ({'patience': -3, 'best': 'test/loss'}, 'duration/form', ('config.patience', '-3'))], ids=str)
def test_what_no_run_can_have_is_refused(changes, code, names):
    with refused(code, *names):
        read(**changes)


def test_a_training_set_without_examples_is_refused():
    with refused('data/empty'):
        settings.read(configs.Reader(tiny.config()), 0)


@pytest.mark.parametrize(('options', 'names'), [
    ({'norm': False}, 'model.norm'), ({'dropout': 0.5}, 'model.dropout'),
    ({'optimizer': {'name': 'sgd', 'lr': 0.2}}, 'optimizer')])
def test_members_that_differ_in_more_than_their_data_are_refused(options, names):
    """One compiled step would train the first of them several times, with an error bar of zero."""
    with refused('config/population-over', 'split', names):
        tiny.program([tiny.experiment(), tiny.experiment(**options)], population=2, population_over='split')


@pytest.mark.parametrize(('evaluator', 'code'), [
    ({'better': {'accuracy': 'up'}}, 'experiment/better'), ({'every': 0.2}, 'duration/form'), ({'every': -3}, 'duration/form'),
    ({'every': '0 epochs'}, 'experiment/every'), ({'weights': 'newest'}, 'experiment/weights')], ids=str)
def test_an_evaluator_that_cannot_be_is_refused_before_a_step(evaluator, code):
    with refused(code):
        tiny.program([tiny.experiment(**evaluator)])


def test_an_expected_result_has_a_direction_that_exists():
    row = Expected('test/accuracy', 0.5, 0.1, 'a table', better='up')
    with refused('experiment/better', 'test/accuracy', 'up'):
        tiny.program([dataclasses.replace(tiny.experiment(), expected=(row,))])


def test_members_that_differ_in_nothing_are_refused():
    with refused('config/population-over', 'batch_size', 'nothing'):
        tiny.program([tiny.experiment(), tiny.experiment()], population=2, population_over='batch_size')


def test_members_that_differ_in_their_data_alone_are_trained():
    mine = [tiny.experiment(), tiny.experiment()]
    object.__setattr__(mine[1], 'data', mine[1].data.__class__(tiny.source(53, 9), mine[1].data.evals, augment=tiny.jitter))
    assert tiny.program(mine, population=2, population_over='split').members == 2


def test_functions_are_equal_by_what_they_compute_with():
    def make(rate, table=None):
        return {'f': lambda x: x * rate, 'g': [lambda: (lambda: rate)], 'source': table}

    assert difference(make(2), make(2), 'p') == ''
    assert difference(make(2), make(3), 'p').startswith('p.f')
    a, b = (ArraySource({'x': tiny.source(5, seed).arrays['x']}) for seed in (0, 1))
    assert difference(make(2, a), make(2, b), 'p').startswith('p.source')


@pytest.mark.parametrize('over', ['fold', 'cv.fold'])
def test_members_over_a_key_of_a_section_have_the_base_and_what_follows(over):
    seen = []

    def get_config(variant=''):
        config = tiny.config(population=4, population_over=over)
        config.fold, config.cv, config.optimizer = 5, {'fold': 5}, {'name': 'sgd', 'lr': 0.1}
        return config

    def get_experiment(config):
        seen.append((config.fold, config.cv.fold))
        data = Data(tiny.source(53, sum(seen[-1])), {'test': tiny.source(17, 1)}, augment=tiny.jitter)
        return dataclasses.replace(tiny.experiment(optimizer=config.optimizer), data=data)

    config = get_config()
    script = types.SimpleNamespace(get_config=get_config, get_experiment=get_experiment)
    assert build.build(script, config).program().members == 4
    assert [pair[over == 'cv.fold'] for pair in seen] == [5, 6, 7, 8] and (config.fold, config.cv.fold) == (5, 5)
