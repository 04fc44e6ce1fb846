"""`--init_from` where the two models are the same, differ in their head, or share nothing; and of other libraries."""
import dataclasses
import io

import flax.linen as nn
import jax
import numpy as np
import pytest

from bigjax.checkpoint import initial_weights, manager
from bigjax.runs.progress import Progress
from bigjax.sharding import tree_paths
from tests import tiny
from tests.refused import refused


class Wide(tiny.Net):
    """The tiny network with a head of seven classes, and one more layer before it where asked."""

    extra: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(16, name='hidden')(x)
        x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
        x = nn.Dense(16, name='more')(x) if self.extra else x
        return nn.Dense(7, name='head')(nn.relu(x))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(workdir, carry) of the tiny experiment."""
    workdir = tmp_path_factory.mktemp('trained')
    return workdir, tiny.train(workdir)[1]


def start(workdir, model=None, **options):
    """(fresh carry, carry with the weights of the run in `workdir`, what was reported)."""
    base = tiny.experiment()
    program, said = tiny.program([dataclasses.replace(base, model=model or base.model)], **options), []
    fresh = program.init()
    return fresh, program.load_weights(fresh, workdir, said.append), said


def test_the_same_model_is_taken_whole(trained):
    workdir, carry = trained
    fresh, given, said = start(workdir, seed=3)
    assert tiny.equal(given['state'].params, carry['state'].ema) and len(said) == 1 and 'moving average' in said[0]
    assert tiny.equal(given['state'].model_state, carry['state'].model_state)
    assert tiny.equal(given['state'].opt_state, fresh['state'].opt_state)
    assert tiny.equal(given['state'].ema, carry['state'].ema)


@pytest.mark.parametrize('options', [
    {'optimizer': {'name': 'schedule_free_adamw', 'lr': 0.05}}, {'optimizer': {'name': 'schedule_free_sgd', 'lr': 0.05}},
    {'optimizer': {'name': 'sgd', 'lr': 0.1, 'lookahead': {'period': 5, 'step_size': 0.5}}},
    {'optimizer': {'name': 'sgd', 'lr': 0.1, 'swa': {'start': 2, 'every': 3}}},
    {'optimizer': {'groups': (('hidden/.*', {'name': 'schedule_free_sgd'}), ('.*', {'name': 'sgd'})), 'lr': 0.1}},
    {'ema': 0.5}, {'best': 'test/loss'}, {'best': 'test/loss', 'population': 2}, {}], ids=str)
def test_the_weights_are_those_that_the_other_run_reports(tmp_path, options):
    options = {'ema': 0.0, **options}
    experiment = tiny.experiment(optimizer=options.pop('optimizer', None))
    program = tiny.program([experiment], **options)
    tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    expected = program.variables(program.restore(manager.newest(tmp_path)))
    said = []
    given = program.load_weights(program.init(), tmp_path, said.append)['state']
    for mine, theirs in zip(jax.tree.leaves(given.params), jax.tree.leaves(expected['params']), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
    assert tiny.equal(given.model_state, {k: v for k, v in expected.items() if k != 'params'})
    averaged = any(name in str(experiment.optimizer) for name in ('schedule_free', 'lookahead', 'swa'))
    assert len(said) == (averaged or bool(options['ema']) or 'best' in options)


@pytest.mark.parametrize('extra', [False, True])
def test_a_trunk_under_a_new_head(trained, extra):
    workdir, carry = trained
    fresh, given, said = start(workdir, Wide(extra=extra), seed=3)
    for name in ('hidden', 'norm'):
        assert tiny.equal(given['state'].params[name], carry['state'].ema[name])
    for name in ('head', *['more'] * extra):
        assert tiny.equal(given['state'].params[name], fresh['state'].params[name])
    assert tiny.equal(given['state'].model_state, carry['state'].model_state)
    _, line = said
    assert 'head/kernel ([16, 3] there, [16, 7] here)' in line and ('more/kernel' in line) == extra


def test_arrays_without_a_place_here_are_listed(trained, tmp_path):
    _, carry = trained
    tree = {'state': {'params': {**carry['state'].params, 'decoder': {'kernel': np.ones((2, 2))}}, 'model_state': {}}}
    manager.write(tmp_path / 'checkpoints' / '1', tree, 1)
    _, _, said = start(tmp_path)
    assert 'not used: decoder/kernel' in said[0] and 'initialised anew' in said[0] and 'batch_stats/norm/mean' in said[0]


def test_a_model_that_shares_no_kernel_is_refused(trained, tmp_path):
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(3, name='head')(nn.Dense(17, name='hidden')(x))

    with refused('checkpoint/another-model', 'hidden/kernel'):
        start(trained[0], Other())


def test_layers_stacked_there_and_one_by_one_here(tmp_path):
    kernel = np.arange(12.0, dtype=np.float32).reshape(3, 2, 2)
    manager.write(tmp_path / 'checkpoints' / '1', {'state': {'params': {'blocks': {'w': kernel}}, 'model_state': {}}}, 1)
    import jax.numpy as jnp
    params = {**{f'block_{i}': {'w': jnp.zeros((2, 2))} for i in range(3)}, 'head': {'w': jnp.ones((2, 5))}}
    said = []
    loaded, _ = initial_weights.load(tmp_path, params, {}, said.append)
    for i in range(3):
        np.testing.assert_array_equal(loaded[f'block_{i}']['w'], kernel[i])
    np.testing.assert_array_equal(loaded['head']['w'], 1.0)
    assert 'head/w' in said[0]


@pytest.mark.parametrize('members', [0, 2])
def test_weights_of_another_library(trained, tmp_path, members):
    _, carry = trained
    state = carry['state']
    arrays = [*tree_paths.leaves(state.params), *tree_paths.leaves(state.model_state)]
    np.savez(tmp_path / 'x.npz', **dict(arrays))
    fresh, given, said = start(f'npz:{tmp_path}/x.npz', seed=3, **({'population': members} if members else {}))
    for i in range(members or 1):
        one = jax.tree.map(lambda x, i=i: x[i] if members else x, given['state'])
        assert tiny.equal(one.params, state.params) and tiny.equal(one.model_state, state.model_state) and not said
        assert tiny.equal(one.ema, state.params)
    assert tiny.equal(given['state'].opt_state, fresh['state'].opt_state)
    if not members:
        fresh, given, said = start(f'npz:{tmp_path}/x.npz', Wide(), seed=3)
        assert tiny.equal(given['state'].params['head'], fresh['state'].params['head']) and 'head/kernel' in said[0]
        assert tiny.equal(given['state'].params['hidden'], state.params['hidden'])
        with refused('weights/keys', 'more/kernel'):
            start(f'npz:{tmp_path}/x.npz', Wide(extra=True))
