"""Parameters that do not move are named, and a run that cannot be repeated is refused."""
import dataclasses
import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.runs.progress import Progress
from bigjax.train import stuck_params
from bigjax.train.compile_cache import StrictError, Watch
from tests import tiers, tiny


class Idle(nn.Module):
    """A network with a layer that its output does not depend on."""

    @nn.compact
    def __call__(self, x, *, train):
        unused = nn.Dense(3, name='unused')(x)
        return nn.Dense(3, name='head')(x) + 0.0 * unused.astype(jnp.int32)


def test_a_fingerprint_knows_bits_and_places():
    x = np.arange(6, dtype=np.float32)
    prints = [stuck_params.fingerprints({'x': jnp.asarray(v)})['x'] for v in (x, x[::-1], np.nextafter(x, 9), x)]
    assert len(set(prints[:3])) == 3 and prints[0] == prints[3]


@pytest.mark.parametrize(('optimizer', 'named'), tiers.first(2, [
    ({'name': 'sgd', 'lr': 0.1}, True), ({'name': 'sgd', 'lr': 0.1, 'frozen': ('unused/.*',)}, False),
    ({'name': 'sgd', 'lr': 0.1, 'lr_mults': (('unused/.*', 0.0),)}, False),
    ({'name': 'sgd', 'lr': 0.1, 'frozen': '.*'}, False)]))
def test_what_does_not_move_is_named(tmp_path, optimizer, named):
    out = io.StringIO()
    idle = dataclasses.replace(tiny.experiment(optimizer=optimizer), model=Idle())
    program = tiny.program([idle], steps=24, log_every=24, ema=0.0, eval_every=24)
    program.watch = Watch(lambda text: print(text, file=out))
    tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    assert ('unused/bias, unused/kernel' in out.getvalue()) == named


def warned(workdir, experiment, **options):
    """What a run of `experiment` warns of."""
    said, program = [], tiny.program([experiment], ema=0.0, **options)
    program.watch = Watch(said.append)
    tiny.run(program, workdir, Progress(stream=io.StringIO()))
    return said


def idle(**optimizer):
    return dataclasses.replace(tiny.experiment(optimizer={'name': 'sgd', 'lr': 0.1, **optimizer}), model=Idle())


def test_a_run_that_was_killed_before_is_looked_at_when_it_goes_on(tmp_path):
    options = dict(checkpoint_every=8, log_every=8, eval_every=0)
    assert warned(tmp_path, idle(), steps=8, **options) == []
    said = warned(tmp_path, idle(), steps=24, **options)
    assert len(said) == 1 and 'unused/bias, unused/kernel' in said[0]


def test_what_has_moved_once_is_not_named_when_the_rate_has_become_too_small(tmp_path):
    """A step of 1e-10 changes no float32 weight; the run that goes on is held to its first step."""
    model = tiny.experiment(optimizer={'name': 'sgd', 'lr': 0.1, 'schedule': {'name': 'step', 'boundaries': (6,),
                                                                               'factor': 1e-12}})
    options = dict(checkpoint_every=8, log_every=8, eval_every=0)
    assert warned(tmp_path, model, steps=8, **options) == []
    assert warned(tmp_path, model, steps=40, **options) == []


@pytest.mark.parametrize('many', [1, 5])
def test_a_rate_that_begins_at_zero_hides_nothing_in_as_few_steps_as_count(tmp_path, many):
    said = warned(tmp_path, idle(schedule={'name': 'cosine', 'warmup': 5}), steps=20, log_every=20, eval_every=20,
                  checkpoint_every=20, steps_per_call=many)
    assert len(said) == 1 and '20 steps' in said[0]


def test_a_member_that_stands_still_is_named_and_one_that_should_hides_nothing(tmp_path):
    """The rate of member 1 is zero in float32."""
    spec = {'name': 'sgd', 'lr': 0.1}
    over = 'optimizer.lr=0.1; optimizer.lr=1e-46; optimizer.lr=0.1'
    options = dict(optimizer=spec, population_over=over, steps=24, log_every=24, eval_every=24)
    program = tiny.program([idle()], ema=0.0, **options)
    said = []
    program.watch = Watch(said.append)
    tiny.run(program, tmp_path, Progress(stream=io.StringIO()))
    assert len(said) == 1
    assert 'unused/bias (members 0, 2), unused/kernel (members 0, 2)' in said[0]


def test_one_member_alone_that_stands_still_is_named():
    before = {'a': jnp.ones((3, 2)), 'b': jnp.ones((3, 2))}
    said, program = [], tiny.program(population=3, steps=24)
    program.watch = Watch(said.append)
    stuck = stuck_params.StuckParams(program)
    stuck.begin(before, 0)
    assert not stuck.due(19) and stuck.due(20)
    stuck.warn({'a': before['a'].at[:2].add(1.0), 'b': before['b'] + 1}, 20)
    assert len(said) == 1 and 'a (member 2)' in said[0] and not stuck.due(21)


def test_with_strict_it_is_an_error(tmp_path):
    program = tiny.program([dataclasses.replace(tiny.experiment(), model=Idle())], steps=24, ema=0.0)
    program.watch = Watch(strict=True)
    with pytest.raises(StrictError, match='unused/bias'):
        tiny.run(program, tmp_path, Progress(stream=io.StringIO()))


def test_a_run_that_can_be_repeated():
    assert 'equal bit for bit' in stuck_params.check_deterministic(tiny.program(steps=24))


def test_it_is_repeated_for_twenty_steps_at_least():
    options = dict(steps=42, steps_per_call=7, log_every=7, eval_every=42, checkpoint_every=42)
    assert stuck_params.check_deterministic(tiny.program(**options)).startswith('deterministic: 21 steps done twice')


def test_a_run_that_cannot_be_repeated():
    base, calls = tiny.experiment(), []

    def loss(apply, variables, batch, rng, train):
        import jax
        noise = jax.pure_callback(lambda: np.float32(calls.append(0) or len(calls)), jax.ShapeDtypeStruct((), jnp.float32))
        terms, aux = base.task.loss(apply, variables, batch, rng, train)
        return {name: term._replace(scale=1 + 0.01 * noise) for name, term in terms.items()}, aux

    odd = dataclasses.replace(base, task=dataclasses.replace(base.task, loss=loss))
    with pytest.raises(stuck_params.NotDeterministic):
        stuck_params.check_deterministic(tiny.program([odd], steps=24))
