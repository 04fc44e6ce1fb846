"""Parameters that do not move are named, and a run that cannot be repeated is refused."""
import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.tasks import Aux
from bigjax.train import fingerprint
from bigjax.train.compiled import StrictError, Watch
from bigjax.train.progress import Progress
from tests import tiers, tiny


class Idle(nn.Module):
    """A network with a layer that its output does not depend on."""

    @nn.compact
    def __call__(self, x, *, train):
        unused = nn.Dense(3, name='unused')(x)
        return nn.Dense(3, name='head')(x) + 0.0 * unused.astype(jnp.int32)


def test_a_fingerprint_knows_bits_and_places():
    x = np.arange(6, dtype=np.float32)
    prints = [fingerprint.of({'x': jnp.asarray(v)})['x'] for v in (x, x[::-1], np.nextafter(x, 9), x)]
    assert len(set(prints[:3])) == 3 and prints[0] == prints[3]


@pytest.mark.parametrize(('optimizer', 'named'), tiers.first(2, [
    ({'name': 'sgd', 'lr': 0.1}, True), ({'name': 'sgd', 'lr': 0.1, 'frozen': ('unused/.*',)}, False),
    ({'name': 'sgd', 'lr': 0.1, 'lr_mults': (('unused/.*', 0.0),)}, False), ({'name': 'sgd', 'lr': 0.0}, False)]))
def test_what_does_not_move_is_named(tmp_path, optimizer, named):
    import dataclasses
    out = io.StringIO()
    idle = dataclasses.replace(tiny.experiment(optimizer=optimizer), model=Idle())
    program = tiny.program([idle], steps=24, log_every=24, ema=0.0, eval_every=24)
    program.watch = Watch(lambda text: print(text, file=out))
    tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    assert ('warning: unused/bias, unused/kernel: not frozen, and not changed by 20 steps' in out.getvalue()) == named


def test_with_strict_it_is_an_error(tmp_path):
    import dataclasses
    program = tiny.program([dataclasses.replace(tiny.experiment(), model=Idle())], steps=24, ema=0.0)
    program.watch = Watch(strict=True)
    with pytest.raises(StrictError, match='unused/bias'):
        tiny.run(program, tmp_path, Progress(stream=io.StringIO()))


def test_a_run_that_can_be_repeated():
    assert 'equal bit for bit' in fingerprint.prove(tiny.program(steps=24))


def test_a_run_that_cannot_be_repeated():
    import dataclasses
    base, calls = tiny.experiment(), []

    def loss(apply, variables, batch, rng, train):
        import jax
        noise = jax.pure_callback(lambda: np.float32(calls.append(0) or len(calls)), jax.ShapeDtypeStruct((), jnp.float32))
        per_example, weights, aux = base.task.loss(apply, variables, batch, rng, train)
        return per_example * (1 + 0.01 * jax.lax.stop_gradient(noise)), weights, Aux(*aux)

    odd = dataclasses.replace(base, task=dataclasses.replace(base.task, loss=loss))
    with pytest.raises(fingerprint.NotDeterministic, match='gave other numbers in'):
        fingerprint.prove(tiny.program([odd], steps=24))
