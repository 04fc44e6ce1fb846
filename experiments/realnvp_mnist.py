"""RealNVP on MNIST: the exact likelihood of an image by an invertible network.

Dinh, Sohl-Dickstein & Bengio, "Density Estimation using Real NVP" (ICLR 2017): couplings of residual networks with 64 features
and 8 blocks, and one change of scale, as for CIFAR-10 (row `paper`; its batch normalisation is left out), Adam at 1e-3 in
minibatches of 64. The paper has no number for MNIST, so that nothing published is compared. `small` has 24 features, one block,
two changes of scale, and five epochs, which two CPU cores do within an hour.

`test/bpd` is -log2 p(x) / 784 of the grey levels with uniform noise in the steps between them, `test/loss` the same in nats per
image. `samples/` has the figures of `bigjax.metrics.generated`: `legible` of draws, `legible_real` of test images. The report
shows samples, and rows between two test images on a straight line of their noise.

    python -m experiments.realnvp_mnist --workdir=/tmp/realnvp
    python -m experiments.realnvp_mnist --workdir=/tmp/paper --variant=paper           on an accelerator
    python -m experiments.realnvp_mnist sample --workdir=/tmp/realnvp --count=64
"""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import drawn
from bigjax.predict import interfaces
from bigjax.tasks import density

ROWS = {  # row: (model, epochs)
    'small': (models.spec('flow.RealNVP', 'small'), 5),
    'paper': (models.spec('flow.RealNVP', 'paper'), 100),
}
HELP = {'judged': 'test images beside as many samples that the classifier of digits judges'}
TABLE = ('small',)
PARAMETERS = {'small': 183_327, 'paper': 5_925_381}
TINY = {'judged': '20', 'model.width': '4'}


def get_config(variant=''):
    """`variant` is a row, 'small' by default."""
    config = base_config()
    config.model, epochs = choose('variant', variant or 'small', ROWS)
    config.optimizer = dict(name='adam', lr=1e-3, clip_norm=100.0, schedule=dict(name='cosine', warmup='2%'))
    config.data = 'mnist'
    config.judged = 500
    config.batch_size = 64
    config.steps = f'{epochs} epochs'
    config.log_every = '10%'
    config.eval_every = '20%'
    return config


def get_experiment(config):
    """The couplings, and the likelihood."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    split, shape, judge = splits.judged, splits.train.spec['image'].shape, drawn.judge_of(config.data)
    splits = derived(splits, lambda parts: {
        'train': {'image': parts['train']['image']}, split: {'image': parts[split]['image']},
        'samples': {'image': parts[split]['image'][:config.judged]}})
    draw_images = functools.partial(draw, math.prod(shape))
    return Experiment(
        model=models.make(config.model, shape=shape, dtype=config.dtype),
        task=density.flow(),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split), **({'samples': Evaluator(
            'samples', every='100%', **drawn.judged(draw_images, judge))} if judge else {})},
        samples=report_images(splits.evals[split], math.prod(shape)),
        interface=interfaces.generator(draw_images),
    )


def inverted(apply, variables, noise):
    """Images in 0..1 of noise [B, D]."""
    return density.from_logits(apply(variables, noise, method='inverse')[0])


def draw(dimensions: int, apply, variables, rng, count):
    """Images of Gaussian noise."""
    return jax.jit(inverted, static_argnums=0)(apply, variables, jax.random.normal(rng, (count, dimensions)))


def report_images(test, dimensions: int):
    """The report's images: samples, and ten rows that lead from one original to another."""
    @functools.partial(jax.jit, static_argnums=0)
    def between(apply, variables, image):
        logits, _ = density.to_logits(image, 0.5)
        (noise, _), _ = apply(variables, logits)
        t = jnp.linspace(0, 1, 10)[None, :, None]
        return inverted(apply, variables, (noise[:10, None] * (1 - t) + noise[10:20, None] * t).reshape(-1, dimensions))

    def images(apply, variables, rng):
        return {'samples': np.asarray(draw(dimensions, apply, variables, rng, 64)),
                'interpolations': np.asarray(between(apply, variables, test.arrays['image'][:20]))}

    return images


if __name__ == '__main__':
    cli.main()
