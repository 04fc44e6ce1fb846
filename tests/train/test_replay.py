"""A loss that is not finite: the evidence, and what replaying it names."""
import time

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import UserError
from bigjax.experiment import Data
from bigjax.tasks import bind, classification
from bigjax.train import checkpoint, manifest, replay
from bigjax.train.program import member
from tests import tiny


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
    with pytest.raises(replay.NonFinite, match='the step was not applied') as error:
        tiny.train(tmp_path, [poisoned()], **options)
    folder = tmp_path / 'nonfinite'
    assert str(folder) in str(error.value)
    info, batch = replay.read(folder)
    assert np.isnan(batch['x']).any() and len(batch['x']) == 8
    p = tiny.program([poisoned()], **options)
    state = checkpoint.load(folder / 'state', member(p.init(), 0, p.members)['state'])
    assert int(state.step) == info['step'] == int(state.halted)
    straight = tiny.program([poisoned()], seed=info['member'], steps=info['step'] or 1)
    carry, feed = straight.init(), straight.feed(0)
    for step in range(info['step']):
        state_, totals, _ = straight.call(carry['state'], carry['totals'], feed.arrays, feed.at(step, 1))
        carry = {**carry, 'state': state_, 'totals': totals}
    tiny.close(state.params, carry['state'].params, rtol=1e-5, atol=1e-6)
    what = replay.explain(state, batch, apply=p.apply, loss=p.experiment.task.loss)
    assert "'x' is not finite in row" in what


def test_the_evidence_is_written_when_no_save_is_under_way(tmp_path, monkeypatch):
    """Two of Orbax's saves at a time break each other."""
    seal, write, sealed = manifest.seal, checkpoint.write, []

    def slow(*args):
        time.sleep(0.3)
        seal(*args)

    def looked(*args):
        sealed.extend(checkpoint.steps(tmp_path / checkpoint.FOLDER))
        write(*args)

    monkeypatch.setattr(manifest, 'seal', slow)
    monkeypatch.setattr(checkpoint, 'write', looked)
    with pytest.raises(replay.NonFinite):
        tiny.train(tmp_path, [poisoned()], log_every=1, checkpoint_every=1)
    step = replay.read(tmp_path / 'nonfinite')[0]['step']
    assert step > 0 and sealed[-1] == step
    for folder in (tmp_path / 'nonfinite' / 'state', tmp_path / checkpoint.FOLDER / str(step)):
        assert not manifest.fault(folder)


def test_the_first_module_is_named():
    task, state = classification.softmax('x'), None
    import optax

    from bigjax.train.state import init_state
    state = init_state(Broken(), (jnp.zeros((1, 5)),), optax.identity(), 0, ema=False)
    batch = tiny.source(8).arrays
    what = replay.explain(state, batch, apply=bind(Broken()), loss=task.loss)
    assert what == 'the output of log (Log.__call__)'


def test_a_folder_without_evidence_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'info\.json is missing'):
        replay.read(tmp_path)
