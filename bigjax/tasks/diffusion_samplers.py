"""Samplers of diffusion and flow matching: from noise to images along a grid of times, compiled as one loop.

    ddpm, ddpm_large    a draw of the process's own backward step, with its least or its largest variance (Ho et al. 2020)
    ddim                the step without a draw (Song et al. 2021); of a flow it is Euler's
    heun                of second order, in e over s/a (Karras et al. 2022, algorithm 1), of a flow in its velocity over time
    dpm                 DPM-Solver++(2M), of second order with one call a step (Lu et al. 2022, algorithm 2)

Glossary: B images · N steps of a sampler · K classes.
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.tasks.diffusion import SMALLEST, Process

METHODS = ('ddpm', 'ddpm_large', 'ddim', 'heun', 'dpm')
HELP = {  # of the two sections in a script's config
    'process.name': 'how noise is added: linear, cosine or flow', 'process.predicts': 'noise, velocity or image',
    'process.steps': 'steps of the process itself, not of a flow',
    'process.times': 'training times of a flow: uniform or logit_normal',
    'process.min_snr': "the largest weight of an image's error; 0: predictions count alike at all times",
    'sampler.method': 'ddpm, ddpm_large, ddim, heun or dpm', 'sampler.steps': 'steps from noise to an image',
    'sampler.guidance': 'how far samples go beyond what they are without their class; 1: none',
    'sampler.clip': 'images of each step are held to this; 0: to nothing'}


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How images are drawn. `config.sampler` holds these fields.

    Attributes:
      method: see the top of this file.
      steps: N; 'heun' calls the network twice in all but the last.
      guidance: w of classifier-free guidance: the output is none + w (class - none) (Ho & Salimans 2022); 1 for none.
      clip: the image of each step is held to [-clip, clip]; 0 for any image.

    Raises:
      UserError: an unknown method, or no step.
    """

    method: str = 'ddim'
    steps: int = 50
    guidance: float = 1.0
    clip: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f'config.sampler.method: got {self.method!r}, expected one of {", ".join(METHODS)}; fix: choose '
                            'one of them', code='task/unknown-option')
        if self.steps < 1:
            raise UserError(f'config.sampler.steps: got {self.steps}, expected at least 1; fix: 50', code='task/unfit-options')


class Step(NamedTuple):
    """One step's time and levels, those of the next, and the step's place; an axis N in front where they are all of them."""

    time: jax.Array
    a: jax.Array
    s: jax.Array
    next_time: jax.Array
    next_a: jax.Array
    next_s: jax.Array
    before: jax.Array  # the ratio of log-SNR steps, the last one's over this one's; 0 in the first, which makes it of order 1
    number: jax.Array
    last: jax.Array


def grid(process: Process, steps: int) -> Step:
    """The N steps from time 1 to 0 at equal distances, computed in float64.

    Raises:
      UserError: more steps than the process has.
    """
    if process.angular and steps > process.steps:
        raise UserError(f'config.sampler.steps: got {steps}, expected at most the {process.steps} of the process; fix: fewer',
                        code='task/unfit-options')
    time = 1 - np.arange(steps + 1) / steps
    if process.angular:
        time = np.round(time * process.steps) / process.steps
    a, s = process.levels(time)
    with np.errstate(divide='ignore', invalid='ignore'):
        rise = np.diff(np.log(a) - np.log(s))  # of the log-SNR's half; infinite from pure noise and to a pure image
        ratio = rise[:-1] / rise[1:]
    before = np.concatenate([[0.0], np.where(np.isfinite(ratio) & np.isfinite(rise[1:]), ratio, 0.0)])
    number = np.arange(steps, dtype=np.int32)
    columns = time[:-1], a[:-1], s[:-1], time[1:], a[1:], s[1:], before
    return Step(*(np.asarray(column, np.float32) for column in columns), number, number == steps - 1)


def run(predict: Callable, process: Process, sampler: Sampler, noise: jax.Array, key: jax.Array, shown: int = 0):
    """(images, path): what `predict(x_t, time) -> output` makes of noise [B, …].

    Args:
      predict: the network; a time is a scalar in 0..1.
      shown: path [N, shown, …] holds the images that each step finds for the first ones.
    """
    parts = lambda x, time, a, s: process.parts(x, predict(x, time), a, s, sampler.clip)

    def step(carry, at: Step):
        x_t, earlier = carry
        x, e = parts(x_t, at.time, at.a, at.s)
        if sampler.method == 'ddim':
            new = at.next_a * x + at.next_s * e
        elif sampler.method == 'dpm':
            # before = h_last / h: the extrapolation 1/(2 r) of the image is by h / (2 h_last)
            share = jnp.where(at.before > 0, 0.5 / jnp.maximum(at.before, SMALLEST), 0.0)
            image = (1 + share) * x - share * earlier
            kept = at.next_s / jnp.maximum(at.s, SMALLEST)
            new = kept * x_t + (at.next_a - at.a * kept) * image
        elif sampler.method == 'heun':
            new = jax.lax.cond(at.last, lambda: at.next_a * x + at.next_s * e, lambda: _heun(x_t, x, e, at))
        else:
            mean, variance = backward(x_t, x, at, sampler.method == 'ddpm_large')
            new = mean + jnp.sqrt(variance) * jax.random.normal(jax.random.fold_in(key, at.number), x_t.shape)
        return (new, x), x[:shown]

    def _heun(x_t, x, e, at):
        guess = at.next_a * x + at.next_s * e
        x_2, e_2 = parts(guess, at.next_time, at.next_a, at.next_s)
        if not process.angular:
            return x_t + (at.next_time - at.time) * 0.5 * (e - x + e_2 - x_2)
        kept = at.next_a / at.a
        return kept * x_t + (at.next_s - kept * at.s) * 0.5 * (e + e_2)

    steps = jax.tree.map(jnp.asarray, grid(process, sampler.steps))
    (x, _), path = jax.lax.scan(step, (noise, jnp.zeros_like(noise)), steps)
    return x, path


def backward(x_t, x, at: Step, large: bool = False):
    """(mean, variance) of q(x_next | x_t, x), a Gaussian: Ho et al. 2020, eq. 6 and 7, for any two times.

    Args:
      large: the variance is that which the forward step adds, right for images of independent normal pixels.
    """
    kept = at.a / jnp.maximum(at.next_a, SMALLEST)
    added, whole = jnp.maximum(jnp.square(at.s) - jnp.square(kept * at.next_s), 0.0), jnp.square(at.s)
    mean = (kept * jnp.square(at.next_s) * x_t + at.next_a * added * x) / whole
    return mean, jnp.where(at.last, 0.0, added) if large else added * jnp.square(at.next_s) / whole


def guided(apply, variables, process: Process, label, classes: int, guidance: float) -> Callable:
    """`predict(x_t, time)` of a bound model; both halves of guidance are one batch.

    Args:
      label: [B] classes, None where the model has none.
      classes: K, the number of no class.
    """
    def output(x_t, time, *labels):
        times = jnp.broadcast_to(process.model_time(time), (x_t.shape[0],))
        return apply(variables, x_t, times, *labels)[0].astype(jnp.float32)

    if label is None:
        return output
    if guidance == 1.0:
        return lambda x_t, time: output(x_t, time, label)
    both = jnp.concatenate([label, jnp.full_like(label, classes)])

    def predict(x_t, time):
        of_class, of_none = jnp.split(output(jnp.concatenate([x_t, x_t]), time, both), 2)
        return of_none + guidance * (of_class - of_none)

    return predict


def unit(images):
    """-1..1 to 0..1; what lies outside is cut."""
    return jnp.clip(images / 2 + 0.5, 0, 1)


def predictor(process: Process, sampler: Sampler, classes: int = 0, image: str = 'image', label: str = 'label') -> Callable:
    """A `predict` for an evaluator: one sample in 0..1 for each example of a batch, of its class where there are classes."""
    def predict(apply, variables, batch, rng):
        for_noise, for_steps = jax.random.split(rng)
        network = guided(apply, variables, process, batch[label] if classes else None, classes, sampler.guidance)
        noise = jax.random.normal(for_noise, batch[image].shape)
        return unit(run(network, process, sampler, noise, for_steps)[0])

    return predict


def drawer(process: Process, sampler: Sampler, shape, classes: int = 0) -> Callable:
    """`draw(apply, variables, rng, count, shown=0, noise=None, label=None)`: images [count, *shape] in 0..1.

    Noise is drawn where none is given, and classes are taken in turn. With `shown` the result is (images, path [N, shown,
    *shape]), what each step finds of the first ones. Compiled once for a model, a count and a number of shown ones.
    """
    @functools.partial(jax.jit, static_argnums=(0, 5))
    def compiled(apply, variables, noise, label, rng, shown):
        network = guided(apply, variables, process, label, classes, sampler.guidance)
        images, path = run(network, process, sampler, noise, rng, shown)
        return unit(images), unit(path)

    def draw(apply, variables, rng, count, shown=0, noise=None, label=None):
        for_noise, for_steps = jax.random.split(rng)
        noise = jax.random.normal(for_noise, (count, *shape)) if noise is None else noise
        label = jnp.arange(count) % classes if classes and label is None else label
        images, path = compiled(apply, variables, noise, label, for_steps, shown)
        return (images, path) if shown else images

    return draw


def report_images(draw: Callable, shape, classes: int = 0, side: int = 10) -> Callable:
    """The report's images, each a square of `side` rows: samples; what the sampler finds for one image from the first to the
    last step; and images of noise between two draws, a row for each class, or for each pair of draws without classes."""
    def samples(apply, variables, rng):
        images, path = draw(apply, variables, rng, side * side, side)
        at = np.linspace(0, len(path) - 1, side).round().astype(int)
        strips = np.asarray(path)[at].swapaxes(0, 1)
        ends = jax.random.normal(jax.random.fold_in(rng, 1), (2, 1 if classes else side, *shape))
        t = jnp.linspace(0, 1, side)
        weight = jnp.sqrt(jnp.stack([1 - t, t]))  # mixtures keep the variance of noise
        noise = jnp.broadcast_to(jnp.einsum('it,ir...->rt...', weight, ends), (side, side, *shape)).reshape(-1, *shape)
        label = jnp.repeat(jnp.arange(side) % classes, side) if classes else None
        between, _ = draw(apply, variables, rng, side * side, side, noise, label)
        return {'samples': np.asarray(images), 'denoising': strips.reshape(-1, *shape), 'between_samples': np.asarray(between)}

    return samples
