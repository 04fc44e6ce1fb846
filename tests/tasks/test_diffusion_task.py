"""Diffusion against closed forms in float64: the processes, the loss, the backward step, samplers on Gaussian data."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.tasks import MASK
from bigjax.tasks import diffusion_samplers as samplers
from bigjax.tasks.diffusion import NAMES, PREDICTS, Process, diffusion
from bigjax.tasks.diffusion_samplers import Sampler
from tests.refused import refused
from tests.tasks.terms import objective

MEAN, STD = 0.7, 0.3  # of the Gaussian data whose best network is known
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 2, 2, 1)).astype(np.float32)


def test_published_schedules():
    beta = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(Process('linear').table[1:, 0] ** 2, np.cumprod(1 - beta), rtol=1e-12)
    assert Process('linear').table[-1, 0] ** 2 == pytest.approx(4.0358e-5, rel=1e-3)  # of the released code
    f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(Process('cosine').table[:990, 0] ** 2, f(np.arange(990) / 1000) / f(0), rtol=1e-9)
    for name in ('linear', 'cosine'):
        np.testing.assert_allclose(np.square(Process(name).table).sum(1), 1, rtol=1e-12)
    assert Process('linear', steps=100).table[-1, 0] < 0.01


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('predicts', PREDICTS)
def test_parts_invert_the_target_and_weights_are_those_of_the_image(name, predicts):
    process = Process(name, predicts, min_snr=5.0)
    rng = np.random.default_rng(0)
    x, e, off = (jnp.asarray(rng.normal(size=6), jnp.float32) for _ in range(3))
    for time in (0.1, 0.5, 0.8):
        a, s = process.levels(jnp.asarray(time))
        x_t, target = a * x + s * e, process.target(x, e, a, s)
        found = process.parts(x_t, target, a, s)
        np.testing.assert_allclose(found, (x, e), rtol=1e-3, atol=1e-4)
        clipped = process.parts(x_t, target, a, s, clip=0.5)
        np.testing.assert_allclose(clipped[0], np.clip(x, -0.5, 0.5), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(a * clipped[0] + s * clipped[1], x_t, rtol=1e-4, atol=1e-5)
        of_image = process.parts(x_t, target + off, a, s)[0] - x
        np.testing.assert_allclose(process.weight(a, s) * off ** 2, np.minimum((a / s) ** 2, 5) * of_image ** 2, rtol=2e-2,
                                   atol=1e-4)


def oracle(process):
    """The best network for pixels drawn from N(MEAN, STD²), as `apply`: E[x | x_t] in closed form."""
    def apply(variables, x_t, model_time, *labels, **how):
        time = (model_time + (1000 / process.steps if process.angular else 0.0)) / 1000
        a, s = (level.reshape(-1, *(1,) * (x_t.ndim - 1)) for level in process.levels(time))
        x = MEAN + a * STD ** 2 / (a ** 2 * STD ** 2 + s ** 2) * (x_t - a * MEAN)
        return process.target(x, (x_t - a * x) / jnp.maximum(s, 1e-6), a, s), {}

    return apply


@pytest.mark.parametrize('process', [Process('linear', 'noise'), Process('cosine', 'velocity'), Process('flow', 'velocity')])
def test_the_loss_of_the_best_network_is_the_smallest(process):
    """Its mean is the variance of the target given x_t in closed form; every scaled network does worse; padding is not seen."""
    image = MEAN + STD * np.random.default_rng(1).normal(size=(20_000, 1, 1, 1)).astype(np.float32)
    task, best = diffusion(process), oracle(process)
    of = jax.jit(lambda batch, factor: objective(task.loss(
        lambda *a, **k: (factor * best(*a, **k)[0], {}), {}, batch, jax.random.key(0), True)))
    loss = lambda factor: float(of({'image': image}, factor))
    time = (np.arange(1, 1001) / 1000 if process.angular else (np.arange(1000) + 0.5) / 1000)
    a, s = process.levels(time)
    left = STD ** 2 * s ** 2 / (a ** 2 * STD ** 2 + s ** 2)  # of the image's variance
    share = {'noise': (a / np.maximum(s, 1e-9)) ** 2, 'velocity': 1 / np.maximum(s, 1e-9) ** 2}[process.predicts]
    assert loss(1.0) == pytest.approx(float(np.mean(share * left)), rel=0.03)
    assert loss(0.9) > loss(1.0) < loss(1.1)
    padded = {'image': IMAGES, MASK: np.array([1, 1, 1, 1, 0, 0], np.float32)}
    broken = {**padded, 'image': np.where(np.arange(6)[:, None, None, None] < 4, IMAGES, np.nan)}
    found = [float(of(batch, 1.0)) for batch in (padded, broken)]
    assert np.isfinite(found[0]) and found[0] == found[1]


def test_classes_are_hidden_in_training_only():
    seen = []

    def apply(variables, x_t, time, label, **how):
        seen.append(np.asarray(label))
        return x_t, {}

    batch = {'image': np.zeros((1000, 1, 1, 1), np.float32), 'label': np.arange(1000) % 10}
    task = diffusion(Process('flow', 'velocity'), classes=10, drop=0.2)
    task.loss(apply, {}, batch, jax.random.key(0), True)
    task.loss(apply, {}, batch, jax.random.key(0), False)
    assert 0.15 < np.mean(seen[0] == 10) < 0.25 and np.array_equal(seen[0][seen[0] < 10], batch['label'][seen[0] < 10])
    np.testing.assert_array_equal(seen[1], batch['label'])
    assert [np.shape(x) for x in task.inputs(batch)] == [(1000, 1, 1, 1), (1000,), (1000,)]


@pytest.mark.parametrize('name', NAMES)
def test_the_backward_step_is_bayes_rule(name):
    """The product of N(a' x, s'²) for x_next and N(kept x_next, added) for x_t, by precisions in float64."""
    process = Process(name)
    steps = samplers.grid(process, 10)
    x_t, x = 0.3, -0.4
    for i in range(1, 9):
        at = samplers.Step(*(column[i] for column in steps))
        a, s = process.levels(np.float64(at.time))
        b, r = process.levels(np.float64(at.next_time))
        added = s ** 2 - (a / b * r) ** 2
        precision = 1 / r ** 2 + (a / b) ** 2 / added
        expected = (b * x / r ** 2 + a / b * x_t / added) / precision
        mean, variance = samplers.backward(x_t, x, at)
        np.testing.assert_allclose((mean, variance), (expected, 1 / precision), rtol=1e-3)
        assert samplers.backward(x_t, x, at, large=True)[1] == pytest.approx(added, rel=1e-3)


def solved(process, method, steps, noise):
    """What a sampler makes of noise with the best network."""
    network = samplers.guided(oracle(process), {}, process, None, 0, 1.0)
    how = Sampler(method, steps, clip=0.0)
    return np.asarray(jax.jit(lambda x: samplers.run(network, process, how, x, jax.random.key(0))[0])(noise))


@pytest.mark.parametrize('process', [Process('cosine', 'velocity'), Process('linear', 'noise'), Process('flow', 'velocity')],
                         ids=lambda process: process.name)
@pytest.mark.parametrize(('method', 'least', 'falls'), [('ddim', 0.06, 1.7), ('heun', 0.016, 2.8), ('dpm', 0.01, 1.4)])
def test_samplers_follow_the_exact_path_of_gaussian_data(process, method, least, falls):
    """(x_t - a m) / sqrt(a² v + s²) is constant on the path; the error falls with the step, to less in those of order 2."""
    noise = np.linspace(-2, 2, 9, dtype=np.float32).reshape(9, 1, 1, 1)
    a, s = process.levels(np.float64(1))
    exact = MEAN + STD * (noise - a * MEAN) / np.sqrt(a ** 2 * STD ** 2 + s ** 2)
    coarse, fine = (np.abs(solved(process, method, steps, noise) - exact).max() for steps in (25, 50))
    assert fine < least and coarse / fine > falls


@pytest.mark.parametrize('method', ['ddpm', 'ddpm_large'])
def test_ancestral_samples_are_the_data(method):
    noise = jax.random.normal(jax.random.key(3), (4000, 1, 1, 1))
    found = solved(Process('cosine', 'velocity'), method, 100, noise)
    assert found.mean() == pytest.approx(MEAN, abs=0.02) and found.std() == pytest.approx(STD, abs=0.03)


def test_of_a_flow_the_plain_step_is_eulers():
    process = Process('flow', 'velocity')
    noise = np.linspace(-2, 2, 5).reshape(5, 1, 1, 1)
    x = noise.copy()
    for i in range(8):
        t = 1 - i / 8
        image = MEAN + (1 - t) * STD ** 2 / ((1 - t) ** 2 * STD ** 2 + t ** 2) * (x - (1 - t) * MEAN)
        x = x - (x - image) / t / 8  # the velocity is e - x, and e = (x_t - (1 - t) x) / t
    np.testing.assert_allclose(solved(process, 'ddim', 8, noise.astype(np.float32)), x, rtol=1e-4)


def test_guidance_and_one_compilation():
    """The output is none + w (class - none); a second draw of the same count compiles nothing."""
    traced = []

    def apply(variables, x_t, time, label, **how):
        traced.append(x_t.shape)
        return jnp.where(label == 3, 0.1, label * 1.0)[:, None, None, None] + 0 * x_t, {}

    predict = samplers.guided(apply, {}, Process('flow', 'velocity'), jnp.array([0, 2]), 3, 2.5)
    np.testing.assert_allclose(predict(jnp.zeros((2, 1, 1, 1)), 0.5).ravel(), 0.1 + 2.5 * (np.array([0, 2]) - 0.1), rtol=1e-6)
    draw = samplers.drawer(Process('flow', 'velocity'), Sampler(steps=4, guidance=2.0), (2, 2, 1), classes=3)
    images, path = draw(apply, {}, jax.random.key(0), 5, 2)
    calls = len(traced)
    other, _ = draw(apply, {}, jax.random.key(1), 5, 2)
    assert len(traced) == calls and images.shape == (5, 2, 2, 1) and path.shape == (4, 2, 2, 2, 1)
    assert images.min() >= 0 and images.max() <= 1 and not np.array_equal(images, other)
    np.testing.assert_allclose(path[-1], images[:2], atol=1e-6)
    shown = samplers.report_images(draw, (2, 2, 1), 3, side=4)(apply, {}, jax.random.key(0))
    assert {name: images.shape for name, images in shown.items()} == dict.fromkeys(
        ('samples', 'denoising', 'between_samples'), (16, 2, 2, 1))


@pytest.mark.parametrize(('make', 'code', 'names'), [
    (lambda: Process('quadratic'), 'task/unknown-option', ['quadratic', 'cosine']),
    (lambda: Process(predicts='score'), 'task/unknown-option', ['score', 'velocity']),
    (lambda: Process(times='logit_normal'), 'task/unfit-options', ['logit_normal', 'linear']),
    (lambda: Process(steps=0), 'task/unfit-options', ['0']),
    (lambda: Sampler('euler'), 'task/unknown-option', ['euler', 'ddim']),
    (lambda: Sampler(steps=0), 'task/unfit-options', ['0']),
    (lambda: samplers.grid(Process(steps=10), 11), 'task/unfit-options', ['11', '10'])])
def test_what_is_refused(make, code, names):
    with refused(code, *names):
        make()
