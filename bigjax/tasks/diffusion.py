"""Diffusion and flow matching as one task: a network sees x_t = a x + s e, and learns to part the image x from the noise e.

A `Process` sets how signal a and noise s change with time, and what the network returns:

    name      a, s                                                          time
    linear    a² = the product of 1 - β, β from 1e-4 to 0.02; a² + s² = 1   k / T, k = 1 … T   (Ho et al. 2020)
    cosine    a² = cos²(π/2 · (t + 0.008) / 1.008) / that of 0; a² + s² = 1 k / T, k = 1 … T   (Nichol & Dhariwal 2021)
    flow      1 - t, t                                                      0 … 1              (Liu, Lipman et al. 2023)

    predicts  target                     whose rate of change
    noise     e
    image     x
    velocity  ȧ x + ṡ e                  (ȧ, ṡ) is (-s, a), an angle's (Salimans & Ho 2022); of a flow (-1, 1), time's

In all of them the matrix of (a, s) and (ȧ, ṡ) has determinant 1, so x_t and a velocity give x and e without a division.

Glossary: B examples · T steps of a discrete process · K classes.
"""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.nn import rng as rngs
from bigjax.tasks import Aux, Task, Term, check_shape, mask, of_parts

NAMES, PREDICTS, TIMES = ('linear', 'cosine', 'flow'), ('noise', 'velocity', 'image'), ('uniform', 'logit_normal')
MODEL_TIME = 1000.0  # times are shown to the network from 0 to this
LARGEST_BETA = 0.999  # of the cosine schedule (Nichol & Dhariwal 2021, section 3.2)
COSINE_OFFSET = 0.008
SMALLEST = 1e-5  # a level by which is divided is at least this


@dataclasses.dataclass(frozen=True)
class Process:
    """How noise is added, and what the network predicts; see the top of this file. `config.process` holds these fields.

    Attributes:
      name: 'linear', 'cosine' or 'flow'.
      predicts: 'noise', 'velocity' or 'image'.
      steps: T of a discrete process; a flow is continuous, and has none.
      min_snr: γ of Hang et al. 2023: the weight of an image's error is at most this; 0 weights the prediction's error by 1.
      times: how training times are drawn, 'uniform', or 'logit_normal' (Esser et al. 2024), of a flow only.

    Raises:
      UserError: an unknown name, or options that do not go together.
    """

    name: str = 'linear'
    predicts: str = 'noise'
    steps: int = 1000
    min_snr: float = 0.0
    times: str = 'uniform'

    def __post_init__(self):
        for key, value, known in (('name', self.name, NAMES), ('predicts', self.predicts, PREDICTS),
                                  ('times', self.times, TIMES)):
            if value not in known:
                raise UserError(f'config.process.{key}: got {value!r}, expected one of {", ".join(known)}; fix: choose one of '
                                'them', code='task/unknown-option')
        if self.times != 'uniform' and self.name != 'flow':
            raise UserError(f"config.process.times: got '{self.times}' for '{self.name}', expected 'uniform'; fix: that, or "
                            "config.process.name='flow'", code='task/unfit-options')
        if self.steps < 1:
            raise UserError(f'config.process.steps: got {self.steps}, expected at least 1; fix: 1000',
                            code='task/unfit-options')

    @property
    def angular(self) -> bool:
        """Whether a² + s² = 1."""
        return self.name != 'flow'

    @functools.cached_property
    def table(self) -> np.ndarray:
        """[T + 1, 2] float64: a and s after 0 … T steps of a discrete process."""
        T = self.steps
        if self.name == 'linear':  # the paper's of 1,000 steps; fewer steps are longer, and end with as much noise
            beta = np.linspace(1e-4, 0.02, T) * (1000 / T)
        else:
            kept = np.cos(np.pi / 2 * (np.arange(T + 1) / T + COSINE_OFFSET) / (1 + COSINE_OFFSET)) ** 2
            beta = 1 - kept[1:] / kept[:-1]
        signal = np.concatenate([[1.0], np.cumprod(1 - np.minimum(beta, LARGEST_BETA))])
        return np.sqrt(np.stack([signal, 1 - signal], axis=1))

    def levels(self, time):
        """(a, s) at times in 0..1: float32 of traced times; float64 of NumPy's."""
        xp = jnp if isinstance(time, jax.Array) else np
        if not self.angular:
            return 1 - time, time
        table = xp.asarray(self.table, jnp.float32 if xp is jnp else np.float64)
        found = table[xp.round(time * self.steps).astype(int)]
        return found[..., 0], found[..., 1]

    def model_time(self, time):
        """The time that the network sees: of step k of 1,000, k - 1, as Ho et al. 2020 number them; of a flow, 1,000 t."""
        return time * MODEL_TIME - (MODEL_TIME / self.steps if self.angular else 0.0)

    def draw_times(self, key: jax.Array, count: int) -> jax.Array:
        """[count] times of training."""
        if self.angular:
            return jax.random.randint(key, (count,), 1, self.steps + 1) / self.steps
        if self.times == 'logit_normal':
            return jax.nn.sigmoid(jax.random.normal(key, (count,)))
        return jax.random.uniform(key, (count,))

    def rates(self, a, s):
        """(ȧ, ṡ) of the velocity."""
        return (-s, a) if self.angular else (-jnp.ones_like(a), jnp.ones_like(s))

    def target(self, x, noise, a, s):
        """The output that the network is trained towards."""
        if self.predicts == 'velocity':
            da, ds = self.rates(a, s)
            return da * x + ds * noise
        return noise if self.predicts == 'noise' else x

    def parts(self, x_t, output, a, s, clip: float = 0.0):
        """(x, e) by the network's output. At a level without noise a predicted image leaves e open, and without signal a
        predicted noise leaves x open: the division is by a small number instead.

        Args:
          clip: the image is held to [-clip, clip], and the noise follows it; 0 for any image.
        """
        if self.predicts == 'velocity':
            da, ds = self.rates(a, s)
            x, noise = ds * x_t - s * output, a * output - da * x_t
        elif self.predicts == 'noise':
            x, noise = (x_t - s * output) / jnp.maximum(a, SMALLEST), output
        else:
            x, noise = output, (x_t - a * output) / jnp.maximum(s, SMALLEST)
        if clip:
            x = jnp.clip(x, -clip, clip)
            noise = (x_t - a * x) / jnp.maximum(s, SMALLEST)
        return x, noise

    def weight(self, a, s):
        """[B] of the squared error of the prediction: 1, or min(SNR, γ) of the image's error (Hang et al. 2023, eq. 8)."""
        if not self.min_snr:
            return jnp.ones_like(a)
        snr = jnp.square(a / jnp.maximum(s, SMALLEST))
        per_image = {'image': 1.0, 'noise': jnp.maximum(snr, SMALLEST), 'velocity': jnp.square(1 / jnp.maximum(s, SMALLEST))}
        return jnp.minimum(snr, self.min_snr) / per_image[self.predicts]


def diffusion(process: Process, classes: int = 0, drop: float = 0.1, image: str = 'image', label: str = 'label') -> Task:
    """The mean squared error of what the process has the network predict, images in -1..1; see the top of this file.

    In training the time, the noise and whether the class is hidden are drawn anew; without a key they are those of seed 0.
    Predictions: the images [B, H, W, C] that the network finds in data with half the time of noise.

    Args:
      classes: K, 0 where the network sees no class; class K is no class.
      drop: the share of examples whose class is hidden in training, for guidance (Ho & Salimans 2022).
    """
    def call(apply, variables, batch, hidden, x_t, time, **how):
        labels = (jnp.where(hidden, classes, batch[label]),) if classes else ()
        output, state = apply(variables, x_t, process.model_time(time), *labels, **how)
        check_shape("the model's output", output, x_t.shape)
        return output.astype(jnp.float32), state

    def loss(apply, variables, batch, rng, train):
        x = batch[image]
        for_time, for_noise, for_label, for_model = jax.random.split(rngs.key(0) if rng is None else rng, 4)
        B, wide = x.shape[0], (-1, *(1,) * (x.ndim - 1))
        time, noise = process.draw_times(for_time, B), jax.random.normal(for_noise, x.shape)
        hidden = jax.random.bernoulli(for_label, drop if train else 0.0, (B,))
        a, s = process.levels(time)
        weight = process.weight(a, s)
        a, s = a.reshape(wide), s.reshape(wide)
        output, state = call(apply, variables, batch, hidden, a * x + s * noise, time, train=train, rng=for_model)
        error = jnp.square(output - process.target(x, noise, a, s)).mean(axis=tuple(range(1, x.ndim)))
        return {'error': Term(weight * error, mask(batch))}, Aux(state, {})

    def predict(apply, variables, batch, rng):
        x = batch[image]
        time = jnp.full(x.shape[0], 0.5 if not process.angular else math.ceil(process.steps / 2) / process.steps)
        a, s = (level.reshape(-1, *(1,) * (x.ndim - 1)) for level in process.levels(time))
        x_t = a * x + s * jax.random.normal(rngs.key(0) if rng is None else rng, x.shape)
        output, _ = call(apply, variables, batch, False, x_t, time)
        return process.parts(x_t, output, a, s)[0]

    def inputs(batch):
        labels = (batch[label],) if classes else ()
        return batch[image], jnp.zeros(batch[image].shape[0]), *labels

    def ranges(output):
        of_parts(output)
        return {}

    return Task(inputs, loss, predict, unit='images', ranges=ranges)
