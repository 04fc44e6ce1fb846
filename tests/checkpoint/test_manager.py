"""Checkpoints: what stays, what is refused, and where a run starts from."""
import io
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.checkpoint import manager
from bigjax.runs.progress import Progress
from bigjax.runs.writer import Records
from tests import tiny
from tests.refused import refused

TREE = {'state': {'params': {'dense': {'kernel': jnp.arange(6.0).reshape(2, 3)}}, 'model_state': {}, 'key': jax.random.key(3)}}


def test_the_newest_stay(tmp_path):
    keeper = manager.Checkpoints(tmp_path, keep=3)
    for step in range(1, 6):
        keeper.save(step, TREE)
    keeper.close()
    assert manager.Checkpoints(tmp_path).steps() == [3, 4, 5]
    assert manager.newest(tmp_path).name == '5'


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    manager.write(tmp_path / 'one', TREE)
    assert tiny.equal(manager.load(tmp_path / 'one', TREE), TREE)


@pytest.mark.parametrize('spec', [None, jax.P(), jax.P('data')])
def test_a_save_keeps_what_is_given_away_at_once(tmp_path, monkeypatch, spec):
    """The next step computes in the same memory, before the writing begins."""
    tree = {'x': jnp.arange(4096.0).reshape(8, 512), 'key': jax.random.key(3)}
    if spec is not None:
        mesh = jax.make_mesh((8,), ('data',))
        tree = {name: jax.device_put(leaf, jax.NamedSharding(mesh, spec if leaf.ndim else jax.P()))
                for name, leaf in tree.items()}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
    step = jax.jit(lambda t: {'x': t['x'] * 0, 'key': jax.random.fold_in(t['key'], 1)}, donate_argnums=0).lower(tree).compile()
    keeper = manager.Checkpoints(tmp_path)
    given, begin = threading.Event(), keeper._orbax.save_async
    monkeypatch.setattr(keeper._orbax, 'save_async', lambda *a, **k: given.wait(60) and begin(*a, **k))
    keeper.save(1, tree)
    after = step(tree)
    given.set()
    assert tree['x'].is_deleted() and tree['key'].is_deleted() and not after['x'].any()
    keeper.close()
    found = keeper.restore(1, like)
    np.testing.assert_array_equal(found['x'], np.arange(4096.0).reshape(8, 512))
    np.testing.assert_array_equal(jax.random.key_data(found['key']), jax.random.key_data(jax.random.key(3)))


@pytest.mark.parametrize(('params', 'names'), [
    ({'dense': {'kernel': jnp.zeros((2, 4))}}, ('state/params/dense/kernel', '[2, 3]', '[2, 4]')),
    ({'conv': {'kernel': jnp.zeros((2, 3))}}, ('state/params/conv/kernel',)),
    ({'dense': {'kernel': jnp.zeros((2, 3))}, 'head': {'bias': jnp.zeros(1)}}, ('state/params/head/bias',))])
def test_another_model_is_named(tmp_path, params, names):
    manager.write(tmp_path / 'one', TREE)
    with refused('checkpoint/another-model', *names):
        manager.load(tmp_path / 'one', {'state': {**TREE['state'], 'params': params}})


def test_a_checkpoint_of_another_generator_is_named_as_that(tmp_path):
    manager.write(tmp_path / 'one', TREE)
    like = {'state': {**TREE['state'], 'key': jax.random.key(3, impl='rbg')}}
    with refused('checkpoint/another-generator', 'threefry2x32', 'rbg', 'JAX_DEFAULT_PRNG_IMPL=threefry2x32'):
        manager.load(tmp_path / 'one', like)


@pytest.mark.parametrize(('tree', 'code', 'names'), [
    ({'enc.w': jnp.ones(3), 'enc': {'w': jnp.zeros(3)}}, 'checkpoint/name-collision', ('enc.w', 'enc/w')),
    ({'enc': {'w': jnp.zeros((0, 3))}}, 'checkpoint/empty-array', ('enc/w', '[0, 3]'))])
def test_a_tree_that_cannot_be_written_is_refused_before_a_file_is_there(tmp_path, tree, code, names):
    with refused(code, *names):
        manager.write(tmp_path / 'one', tree)
    keeper = manager.Checkpoints(tmp_path / 'run')
    with refused(code, *names):
        keeper.save(1, tree)
    keeper.close()
    assert not (tmp_path / 'one').exists() and manager.steps(tmp_path / 'run' / manager.FOLDER) == []


def test_the_evaluated_part_is_restored_without_the_optimizer(tmp_path):
    tiny.train(tmp_path, best='test/loss')
    program = tiny.program(best='test/loss')
    whole, part = (read(manager.newest(tmp_path)) for read in (program.restore, program.restore_weights))
    assert part['state'].opt_state == () and tiny.equal(program.variables(whole), program.variables(part))


def test_nothing_there_is_refused(tmp_path):
    with refused('checkpoint/none', str(tmp_path)):
        manager.newest(tmp_path)


def test_own_checkpoint_then_init_from_then_scratch(tmp_path):
    from bigjax.io import nested
    from bigjax.train.loop import Loop

    def start(workdir, init_from=''):
        p = tiny.program()
        records = Records(workdir, experiment='tiny', variant='', config=nested.plain(tiny.config()), command='')
        loop = Loop(p, workdir, records, Progress(stream=io.StringIO()), init_from=init_from)
        try:
            loop._start()
            return loop._carry, loop._step
        finally:
            loop._saver.close()

    _, trained = tiny.train(tmp_path / 'other', seed=5)
    scratch, step = start(tmp_path / 'new')
    assert step == 0 and tiny.equal(scratch, tiny.program().init())
    given, step = start(tmp_path / 'new', str(tmp_path / 'other'))
    assert step == 0 and tiny.equal(given['state'].params, trained['state'].variables(average=True)['params'])
    assert tiny.equal(given['state'].opt_state, scratch['state'].opt_state)
    assert tiny.equal(given['state'].model_state, trained['state'].model_state)
    _, mine = tiny.train(tmp_path / 'mine')
    own, step = start(tmp_path / 'mine', str(tmp_path / 'other'))
    assert step == 12 and tiny.equal(own, mine)
    assert np.isfinite(tiny.leaves(own['state'].params)[0]).all()
