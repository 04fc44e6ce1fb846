"""Denoising diffusion of CIFAR-10, the recipe of the paper.

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020), table 1: a Fréchet distance (FID) of 3.17 and an
Inception score of 9.46, without classes, which an Inception network computes from 50,000 samples; they are not measured here.
Appendix B: a U-Net of 35.7 million parameters with attention at 16 x 16, dropout of 0.1, noise added in 1,000 steps of β from
1e-4 to 0.02, which the network predicts; Adam at 2e-4 after 5,000 steps of warm-up, gradients clipped to a norm of 1, 128
images a step, flips, 800,000 steps; samples are those of a moving average with a decay of 0.9999, by 1,000 steps with the
larger variance. Rows `dit_s2` and `dit_b2` have the Transformers of Peebles & Xie (ICCV 2023), table 1, on pixels in place of
latents, with their Adam of 1e-4 and batches of 256.

    python -m experiments.ddpm_cifar10 --workdir=/tmp/ddpm --config.mesh=data:8
    python -m experiments.ddpm_cifar10 --workdir=/tmp/try --config.data=fake --config.steps=20 --config.batch_size=4
    python -m experiments.ddpm_cifar10 plan --variant=dit_b2 --topology=v5e-16 --config.data=fake
    python -m experiments.ddpm_cifar10 sample --workdir=/tmp/ddpm --config.sampler.method=ddim --config.sampler.steps=50

`test/loss` is the squared error of the noise. Data and samples are as in experiments/cifar10.py and experiments/ddpm_mnist.py.
"""
import dataclasses

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import diffusion as networks
from bigjax.predict import interfaces
from bigjax.tasks import diffusion
from bigjax.tasks import diffusion_samplers as samplers

ROWS = {  # row: (model, whether it sees the class, batch, steps, rate, warm-up)
    'unet': (models.spec('diffusion.UNet', 'ddpm_cifar10', groups=32), False, 128, 800_000, 2e-4, 5000),
    'dit_s2': (models.spec('diffusion.DiT', 'dit_s2'), True, 256, 400_000, 1e-4, 0),
    'dit_b2': (models.spec('diffusion.DiT', 'dit_b2'), True, 256, 400_000, 1e-4, 0),
}
HELP = {'conditional': 'whether the network sees the class', **samplers.HELP}
PARAMETERS = {'unet': 35_746_307, 'dit_s2': 32_475_660, 'dit_b2': 129_537_036}
TINY = {'model.width': '16', 'model.multipliers': '(1, 2)', 'model.blocks': '1', 'model.groups': '4', 'model.num_layers': '1',
        'model.num_heads': '2', 'sampler.steps': '2'}


def get_config(variant=''):
    """`variant` is a row; the paper's U-Net by default."""
    config = base_config()
    config.model, config.conditional, config.batch_size, config.steps, rate, warmup = choose('variant', variant or 'unet', ROWS)
    config.optimizer = dict(name='adam', lr=rate, clip_norm=1.0, schedule=dict(name='constant', warmup=warmup))
    config.process = dataclasses.asdict(diffusion.Process('linear', 'noise'))
    config.sampler = dataclasses.asdict(samplers.Sampler('ddpm_large', steps=1000))
    config.data = 'cifar10'
    config.ema = 0.9999
    config.log_every, config.eval_every, config.checkpoint_every = 100, '5%', 5000
    return config


def get_experiment(config):
    """A network that parts photographs from noise."""
    splits = open_data(config.data, like='cifar10', data_dir=config.data_dir)
    classes = len(splits.info['classes']) if config.conditional else 0
    process, sampler = diffusion.Process(**config.process), samplers.Sampler(**config.sampler)
    shape = splits.train.spec['image'].shape
    draw = samplers.drawer(process, sampler, shape, classes)
    model = models.make(config.model, num_classes=classes, dtype=config.dtype)
    return Experiment(
        model=model,
        task=diffusion.diffusion(process, classes),
        data=Data(splits.train, splits.evals, preprocess=augment.normalize(0.5, 0.5), augment=augment.random_flip(),
                  info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        samples=samplers.report_images(draw, shape, classes, side=8),
        interface=interfaces.generator(draw),
        partition_rules=networks.partition_rules(model),
    )


if __name__ == '__main__':
    cli.main()
