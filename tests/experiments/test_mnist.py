"""The Dropout paper's recipe: which rates drop which inputs, and the norm that no unit's weights exceed."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import models
from bigjax.train import optimizers
from experiments import mnist


@pytest.mark.slow
def test_inputs_are_kept_with_08_and_hidden_units_with_05():
    model = models.make(mnist.get_config('dropout').model, num_classes=10)
    x = jnp.ones((64, 28, 28, 1))
    variables = model.init(jax.random.key(0), x, train=False)
    _, state = model.apply(variables, x, train=True, rngs={'dropout': jax.random.key(1)},
                           capture_intermediates=lambda m, _: type(m).__name__ == 'Dropout')
    kept = [float((v['__call__'][0] != 0).mean()) for _, v in sorted(state['intermediates'].items())]
    assert kept[0] == pytest.approx(0.8, abs=0.02)
    assert all(k == pytest.approx(0.25, abs=0.05) for k in kept[1:])  # half of the units, and half of them are active


@pytest.mark.parametrize('row, bound', [('maxnorm', 2.0), ('dropout', np.inf)])
def test_max_norm_bounds_the_incoming_weights_of_a_unit(row, bound):
    params = {'kernel': jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)), jnp.float32)}
    tx, _ = optimizers.make(mnist.get_config(row).optimizer, params, total_steps=10, steps_per_epoch=1)
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    norms = jnp.linalg.norm(params['kernel'] + updates['kernel'], axis=0)
    assert norms.max() <= bound + 1e-4
    assert row == 'maxnorm' or norms.max() > 5
