"""Every schedule against its formula in float64, and the errors of its spec."""
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bigjax.train import schedules
from tests.refused import refused

RUN = {'total_steps': 100, 'steps_per_epoch': 10, 'batch_size': 4}
T, LR = 100.0, 0.4


def rate(spec, steps=range(120), **run):
    schedule = schedules.make(spec, LR, **{**RUN, **run})
    return np.asarray(jax.jit(schedule)(jnp.asarray(steps)))


def warm(t, warmup):
    return LR * t / warmup


def fraction(t, start):
    return np.clip((t - start) / (T - start), 0, 1)


def cosine(t, start, end):
    return end + (LR - end) * (1 + np.cos(np.pi * fraction(t, start))) / 2


FORMULAS = {
    'constant': (None, lambda t: LR),
    'constant, by name': ('constant', lambda t: LR),
    'constant, warm': ({'name': 'constant', 'warmup': '1 epoch'}, lambda t: min(LR, warm(t, 10))),
    'linear': ({'name': 'linear'}, lambda t: LR * (1 - fraction(t, 0))),
    'linear, warm, held, to end': (
        {'name': 'linear', 'warmup': '10%', 'hold': '20 steps', 'end': 0.1},
        lambda t: warm(t, 10) if t < 10 else LR + (0.1 - LR) * fraction(t, 30)),
    'linear, held': ({'name': 'linear', 'hold': 50}, lambda t: LR * (1 - fraction(t, 50))),
    'cosine': ('cosine', lambda t: cosine(t, 0, 0)),
    'cosine, warm, to end': ({'name': 'cosine', 'warmup': 7, 'end': 0.02},
                             lambda t: warm(t, 7) if t < 7 else cosine(t, 7, 0.02)),
    'cosine, upwards': ({'name': 'cosine', 'end': 0.9}, lambda t: cosine(t, 0, 0.9)),
    'step at boundaries': ({'name': 'step', 'boundaries': ('3 epochs', '60%'), 'factor': 0.5},
                           lambda t: LR * 0.5 ** (int(t >= 30) + int(t >= 60))),
    'step, one boundary, warm': ({'name': 'step', 'boundaries': 200 // 4, 'warmup': 5},
                                 lambda t: warm(t, 5) if t < 5 else LR * 0.1 ** int(t >= 50)),
    'step every': ({'name': 'step', 'every': '100 examples', 'factor': 0.9}, lambda t: LR * 0.9 ** min(t // 25, 3)),
    'exponential': ({'name': 'exponential', 'every': '1 epoch', 'factor': 0.8}, lambda t: LR * 0.8 ** (t / 10)),
    'exponential, warm': ({'name': 'exponential', 'every': 20, 'warmup': 10},
                          lambda t: warm(t, 10) if t < 10 else LR * 0.1 ** ((t - 10) / 20)),
    'rsqrt': ({'name': 'rsqrt', 'warmup': 16}, lambda t: LR * min(t / 16, np.sqrt(16 / max(t, 16)))),
    'rsqrt, own timescale': ({'name': 'rsqrt', 'timescale': 40}, lambda t: LR * np.sqrt(40 / max(t, 40))),
    'rsqrt, no warm-up': ('rsqrt', lambda t: LR),
    'plateau': ({'name': 'plateau', 'warmup': 4}, lambda t: min(LR, warm(t, 4))),
}


@pytest.mark.parametrize('case', FORMULAS)
def test_formula(case):
    spec, formula = FORMULAS[case]
    expected = [formula(t) for t in np.arange(120.0)]
    np.testing.assert_allclose(rate(spec), expected, rtol=2e-5, atol=1e-7)


def test_transformer_schedule():
    """Vaswani et al., 2017, eq. 3: d^-0.5 min(t^-0.5, t w^-1.5), whose peak is (d w)^-0.5."""
    d, w = 512, 30
    t = np.arange(1.0, 200)
    schedule = schedules.make({'name': 'rsqrt', 'warmup': w}, (d * w) ** -0.5, **RUN)
    np.testing.assert_allclose(schedule(t), d ** -0.5 * np.minimum(t ** -0.5, t * w ** -1.5), rtol=1e-5)


@pytest.mark.parametrize('options', [{}, {'peak': '40%', 'div': 10.0, 'final_div': 50.0}])
def test_one_cycle_against_torch(options):
    torch = pytest.importorskip('torch', reason='the reference is torch.optim.lr_scheduler.OneCycleLR')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=50, pct_start=float(options.get('peak', '30%')[:-1]) / 100,
        div_factor=options.get('div', 25.0), final_div_factor=options.get('final_div', 1e4), cycle_momentum=False)
    expected = []
    for _ in range(50):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 50:
            reference.step()
    np.testing.assert_allclose(rate({'name': 'one_cycle', **options}, np.arange(50), total_steps=50), expected,
                               rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', schedules.KEYS)
def test_each_is_a_float32_scalar_for_a_number_and_a_traced_step(name):
    extra = {'step': {'every': 10}, 'exponential': {'every': 10}}.get(name, {})
    schedule = schedules.make({'name': name, **extra}, LR, **RUN)
    for value in (schedule(3), jax.jit(schedule)(jnp.int32(3))):
        assert value.shape == ()
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, rate({'name': name, **extra})[3], rtol=1e-6)
    assert schedule(jnp.arange(6).reshape(2, 3)).shape == (2, 3)
    assert np.all(np.isfinite(rate({'name': name, **extra}, total_steps=1)))


def test_every_schedule_is_documented():
    for name, keys in schedules.KEYS.items():
        assert f'    {name} ' in schedules.__doc__
        assert all(key in schedules.__doc__ for key in keys)


def test_a_config_dict_and_unset_keys():
    spec = ml_collections.ConfigDict({'name': 'cosine', 'warmup': '10%', 'boundaries': None})
    np.testing.assert_array_equal(rate(spec), rate({'name': 'cosine', 'warmup': 10}))
    np.testing.assert_array_equal(rate(ml_collections.FrozenConfigDict(spec)), rate(spec))


@pytest.mark.parametrize('spec, code, names', [
    ('cosin', 'schedule/unknown-name', ['optimizer.schedule.name', "'cosin'", 'nearest is cosine', 'one_cycle']),
    ({'name': 'cosine', 'boundaries': (1,)}, 'schedule/unknown-key',
     ['optimizer.schedule.boundaries', "'cosine'", 'warmup, hold, end']),
    ({'name': 'linear', 'warmpu': 3}, 'schedule/unknown-key', ['optimizer.schedule.warmpu', 'nearest is warmup']),
    ({'name': 'step'}, 'schedule/missing', ['`boundaries`', '`every`']),
    ({'name': 'step', 'every': 3, 'boundaries': (3,)}, 'schedule/missing', ['`boundaries`', '`every`']),
    ({'name': 'exponential'}, 'schedule/missing', ['optimizer.schedule.every']),
    ({'name': 'linear', 'warmup': '3 minutes'}, 'duration/form', ["'3 minutes'", 'epochs']),
    ({'name': 'cosine', 'end': -0.1}, 'schedule/number', ['optimizer.schedule.end', '-0.1']),
    ({'name': 'linear', 'end': float('nan')}, 'schedule/number', ['optimizer.schedule.end', 'nan']),
    ({'name': 'exponential', 'every': 3, 'factor': 0}, 'schedule/number', ['optimizer.schedule.factor', '0']),
    ({'name': 'one_cycle', 'div': 'ten'}, 'schedule/number', ['optimizer.schedule.div', "'ten'"]),
])
def test_wrong_specs_are_refused(spec, code, names):
    with refused(code, *names):
        schedules.make(spec, LR, **RUN)


def test_a_function_is_multiplied_by_the_rate():
    np.testing.assert_allclose(rate(lambda step: 1.0 / (1.0 + step)), LR / (1 + np.arange(120)), rtol=1e-6)
    assert schedules.make(lambda step: 0.5, LR, **RUN)(np.arange(3)).shape == (3,)
