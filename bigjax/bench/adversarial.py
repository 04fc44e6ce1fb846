"""A training step of DCGAN in the sizes of the paper, both networks, beside the same in PyTorch.

    python -m bigjax.bench --case=dcgan --against=torch

One step is an update of the discriminator and one of the generator, by Adam, on 64 images of 64 x 64. Ours computes both
gradients at the same parameters in one program; PyTorch's runs the discriminator's update first, as its example does. Both
pass the samples through the discriminator twice in their formulas.
"""
from typing import NamedTuple

import numpy as np

from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment, base_config
from bigjax.models import gan
from bigjax.tasks import adversarial
from bigjax.train import settings as settings_module
from bigjax.train.program import Program

OPTIMIZER = {'name': 'adam', 'lr': 2e-4, 'b1': 0.5, 'groups': (('generator/.*', {}), ('discriminator/.*', {}))}


class Case(NamedTuple):
    """A model, its batch, and the share of the peer's time that a step takes at most."""

    model: gan.GAN
    batch: int
    target: float


CASES = {'dcgan': Case(gan.GAN(**gan.VARIANTS['dcgan']), 64, 1.0)}


def program(case: Case) -> Program:
    """The case as an experiment on one made-up batch, through the shared train step."""
    shape = (case.batch, case.model.size, case.model.size, case.model.channels)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    config = base_config()
    config.batch_size, config.mesh, config.optimizer = case.batch, 'data:1', OPTIMIZER
    experiment = Experiment(case.model, adversarial.gan(case.model.latent), Data(ArraySource({'image': images}), {},
                            shuffle=False), config.optimizer, {})
    return Program([experiment], settings_module.read(configs.Reader(config), case.batch))
