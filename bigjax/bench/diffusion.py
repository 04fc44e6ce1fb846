"""A training step of DDPM, and drawing digits by DDIM, beside the same U-Net in PyTorch.

    python -m bigjax.bench --case=ddpm,ddim --against=torch

`ddpm` is a step of the paper's network for CIFAR-10 (35.7 million parameters, without its dropout) by Adam; a step of `ddim`
draws 64 digits in 50 steps with the small network of experiments/ddpm_mnist.py.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment, base_config
from bigjax.models import diffusion as networks
from bigjax.nn import rng
from bigjax.tasks import bind
from bigjax.tasks import diffusion_samplers as samplers
from bigjax.tasks.diffusion import Process, diffusion
from bigjax.train import settings as settings_module
from bigjax.train.program import Program

PROCESS = Process('linear', 'noise')
TRAINING, SAMPLING = 'ddpm', 'ddim'
TARGETS = {TRAINING: 1.0, SAMPLING: 0.7}  # the share of PyTorch's time that a step takes at most
NETWORK = networks.UNet(**{**networks.VARIANTS['ddpm_cifar10'], 'dropout': 0.0})
IMAGES, SIDE = 4, 32  # of a training step
DIGITS, STEPS, SHAPE = 64, 50, (28, 28, 1)
SMALL = networks.UNet(width=48, multipliers=(1, 2), blocks=1, attention=(7,), heads=2, groups=8, patch=2, num_classes=10)


def program(model=NETWORK, images: int = IMAGES, side: int = SIDE) -> Program:
    """The training step as an experiment on one made-up batch, through the shared train step."""
    shape = (images, side, side, 3)
    arrays = {'image': np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
    config = base_config()
    config.batch_size, config.mesh, config.optimizer = images, 'data:1', {'name': 'adam', 'lr': 2e-4}
    experiment = Experiment(model, diffusion(PROCESS), Data(ArraySource(arrays), {}, shuffle=False), config.optimizer, {})
    return Program([experiment], settings_module.read(configs.Reader(config), images))


class Drawing(NamedTuple):
    """`run(n)` draws `count` images n times; `flops` are those of one time."""

    run: Callable
    parameters: int
    flops: float


def drawing(model=SMALL, count: int = DIGITS, steps: int = STEPS, shape=SHAPE) -> Drawing:
    """The sampling of a network with random weights."""
    draw, apply = samplers.drawer(PROCESS, samplers.Sampler('ddim', steps), shape, model.num_classes), bind(model)
    images, time = jnp.zeros((count, *shape)), jnp.zeros(count)
    variables = jax.jit(lambda: model.init(rng.key(0), images[:1], time[:1], train=False))()
    one_step = jax.jit(lambda v: apply(v, images, time)[0]).lower(variables).cost_analysis()

    def run(n: int) -> None:
        for i in range(n):
            jax.block_until_ready(draw(apply, variables, rng.key(i), count))

    return Drawing(run, sum(x.size for x in jax.tree.leaves(variables)), steps * one_step['flops'])


def grid(steps: int = STEPS) -> list[tuple[float, ...]]:
    """(model time, a, s, next a, next s) of each step, as the peer takes them."""
    at = samplers.grid(PROCESS, steps)
    return [tuple(map(float, row)) for row in zip(PROCESS.model_time(at.time), at.a, at.s, at.next_a, at.next_s, strict=True)]
