"""Gradients summed by hand: the same step, one sum a step, in the type that was asked for.

Tried by breaking: the sum left out, the sum in the gradients' own type, the key of all devices the same.
"""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.refused import refused


def trained(tmp_path, dtype, norm=False, dropout=0.0, augment=None, **changes):
    """(program, its last carry) of some steps."""
    experiments = [tiny.experiment(norm=norm, dropout=dropout, augment=augment)]
    return tiny.train(tmp_path / (dtype or 'plain'), experiments, reduce_dtype=dtype, **changes)[1]


def sums_of(dtype, **changes):
    """[(type, numbers)] of the sums over devices that the program asks for."""
    p = tiny.program([tiny.experiment(norm=False, dropout=0.0, augment=None)], mesh='data:4', reduce_dtype=dtype, **changes)
    text = p.compiled.lower(*p.arguments()).as_text()
    found = re.findall(r'stablehlo\.all_reduce.*?-> tensor<(?:([\dx]+)x)?(\w+)>', text, re.S)
    return [(kind, int(np.prod([int(n) for n in size.split('x')])) if size else 1) for size, kind in found]


@pytest.mark.parametrize(('mesh', 'changes'), [
    ('data:4', {}), pytest.param('data:2', {'accumulate': 2}, marks=pytest.mark.slow),
    pytest.param('data:4', {'population': 2}, marks=pytest.mark.slow)])
def test_several_devices_are_one(tmp_path, mesh, changes):
    one = trained(tmp_path, '', **changes)
    several = trained(tmp_path, 'float32', mesh=mesh, **changes)
    tiny.close(several['state'].params, one['state'].params, rtol=1e-5, atol=1e-6)
    tiny.close(several['state'].opt_state, one['state'].opt_state, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('dtype', 'kind'), [('float32', 'f32'), ('bfloat16', 'bf16')])
def test_once_a_step_in_the_type_that_was_asked_for(dtype, kind):
    found = sums_of(dtype, accumulate=2)
    weights = {5 * 16, 16, 16 * 3, 3}
    assert sorted(size for got, size in found if size in weights and got == kind) == sorted(weights)
    assert all(got == 'f32' for got, size in found if size not in weights)  # losses and counts


def test_gradients_in_bfloat16_are_close(tmp_path):
    plain, rounded = (trained(tmp_path, dtype, mesh='data:4')['state'].params for dtype in ('float32', 'bfloat16'))
    apart = [float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(rounded), strict=True)]
    assert 0 < max(apart) < 2e-2


def test_each_device_draws_for_its_part():
    """Two equal halves of a batch get different noise: with the same, both devices would have the same gradient."""
    seen = []

    def noted(batch, rng):
        jax.debug.callback(lambda x: seen.append(float(x)), jax.random.normal(rng))
        return batch

    p = tiny.program([tiny.experiment(norm=False, dropout=0.0, augment=noted)], mesh='data:2', reduce_dtype='float32')
    carry, feed = p.init(), p.feed(0)
    jax.block_until_ready(p.train_steps(carry['state'], carry['totals'], feed.arrays, feed.at(0, 1)))
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 2


@pytest.mark.parametrize(('changes', 'code', 'name'), [
    ({'mesh': 'data:2,fsdp:2'}, 'mesh/reduce-dtype', 'fsdp'), ({'mesh': 'fsdp:2'}, 'mesh/reduce-dtype', 'fsdp'),
    ({'mesh': 'data:2', 'norm': True}, 'mesh/batch-statistics', 'data:N')])
def test_other_axes_and_batch_statistics_are_refused(tmp_path, changes, code, name):
    with refused(code, 'config.reduce_dtype', name):
        trained(tmp_path, 'float32', **changes)


def test_an_unknown_dtype_is_refused(tmp_path):
    with refused('config/choice', 'config.reduce_dtype', "'float16'"):
        trained(tmp_path, 'float16', mesh='data:2')
