"""The UCR recipe: batches, the plateau as Keras has it, and the published numbers."""
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.experiment import published
from bigjax.train import optimizers
from experiments import ucr


@pytest.mark.parametrize('variant, batch, steps', [
    ('BME,mlp', 3, 50_000), ('BME,fcn', 3, 20_000), ('BME,resnet', 3, 15_000), ('ItalyPowerDemand,fcn', 6, 22_333),
    ('ECG5000,fcn', 16, 62_500), ('ECG5000,resnet', 50, 15_000), ('FordA,resnet', 64, 84_398)])
def test_batch_and_length_are_those_of_the_published_code(variant, batch, steps):
    config = ucr.get_config(variant)
    examples = ucr.UCR[variant.partition(',')[0]][0]
    assert config.batch_size == batch
    assert round(int(config.steps.split()[0]) * examples / batch) == steps


def keras_plateau(losses, patience, factor, lowest, min_delta=1e-4):
    """keras.callbacks.ReduceLROnPlateau(mode='min'), the rate after each epoch, for a first rate of 1."""
    best, wait, rate, rates = np.inf, 0, 1.0, []
    for loss in losses:
        if loss < best - min_delta:
            best, wait = loss, 0
        else:
            wait += 1
            if wait >= patience:
                rate, wait = max(rate * factor, lowest), 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize('network, lowest', [('mlp', 0.1), ('fcn', 0.1)])  # as a part of the first rate
def test_the_rate_falls_as_in_keras(network, lowest):
    spec = ucr.get_config(f'BME,{network}').optimizer.to_dict()
    patience = int(spec['schedule']['patience'].split()[0])
    spec['schedule']['patience'] = f'{patience // 50} epochs'  # the same rule, in fewer epochs
    losses = np.concatenate([np.linspace(1, 0.1, 10), 0.1 - 2e-5 * np.arange(60)]).astype(np.float32)
    params = {'w': jnp.ones(2)}
    tx, _ = optimizers.make(spec, params, total_steps=len(losses), steps_per_epoch=1)
    state, rates = tx.init(params), []
    for loss in losses:
        _, state = tx.update(params, state, params, value=loss)
        rates.append(float(optimizers.plateau_factor(state)))
    np.testing.assert_allclose(rates, keras_plateau(losses, patience // 50, 0.5, lowest), rtol=1e-5)
    assert rates[-1] == pytest.approx(lowest)


def test_published_numbers_and_sets_without_them():
    (row,) = published(ucr.get_config('BME,resnet'))
    assert (row.value, row.std, row.runs) == (0.9987, 0.0027, 5)
    assert row.tolerance == pytest.approx(3 * 0.0027 + 0.01)
    assert published(ucr.get_config('Wine,fcn')) == ()
    assert ucr.get_config('BME').model == ucr.get_config('BME,fcn').model
    assert ucr.get_config('resnet').data == 'ucr/ItalyPowerDemand'
